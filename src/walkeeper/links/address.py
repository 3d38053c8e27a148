"""Where somebody listens: a host and a TCP port, as text and as a value.

Does not resolve host names.
"""

import re
from dataclasses import dataclass
from typing import Final

PORT_MAX: Final = 65_535

_ADDRESS: Final = re.compile(r"(?:\[([^\s\[\]]+)\]|([^\s:\[\]]+))(?::([0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class Address:
    """A host name or address and a TCP port, printed ``host:port``; to a listener, 0 is a port of the system's choice."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, default_port: int | None = None) -> Address:
    """``127.0.0.1:5454``, ``keeper-0:5454`` or ``[::1]:5454``; the port may be left out if there is a default.

    The host must be said: none is not *all of them*.  Raises ValueError.
    """
    match = _ADDRESS.fullmatch(text.strip())
    port = default_port if match is None or match[3] is None else int(match[3])
    if match is None or port is None or port > PORT_MAX:
        raise ValueError(f"expected HOST:PORT, such as 127.0.0.1:5454 or [::1]:5454, got {text!r}")
    return Address(match[1] or match[2], port)
