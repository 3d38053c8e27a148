# Types for the client half of scramp; the library itself ships none.

from collections.abc import Sequence
from ssl import SSLObject, SSLSocket

class ScramException(Exception): ...

class ScramClient:
    mechanism_name: str
    def __init__(
        self,
        mechanisms: Sequence[str],
        username: str,
        password: str,
        channel_binding: tuple[str, bytes | SSLSocket | SSLObject] | None = None,
        c_nonce: str | None = None,
    ) -> None: ...
    def get_client_first(self) -> str: ...
    def set_server_first(self, message: str) -> None: ...
    def get_client_final(self) -> str: ...
    def set_server_final(self, message: str) -> None: ...
