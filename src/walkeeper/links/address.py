"""Where somebody listens: a host and a TCP port, as text and as a value; the keepers of a quorum.

Does not resolve host names.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from walkeeper.membership import KEEPERS_MAX

PORT_MAX: Final = 65_535

KEEPER_PORT: Final = 5454
"""Where Neon's safekeepers listen, and ours."""

HTTP_PORT: Final = 7676
HTTPS_PORT: Final = 7677
"""The same of their HTTP ports."""

_ENCRYPTED: Final = "https://"

_ADDRESS: Final = re.compile(r"(?:\[([^\s\[\]]+)\]|([^\s:\[\]]+))(?::([0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class Address:
    """A host name or address and a TCP port, printed ``host:port``; to a listener, 0 is a port of the system's choice."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class HttpAddress(Address):
    """Of a keeper's HTTP port, or of the one for HTTPS if it ``is_encrypted``: printed ``https://host:port`` then."""

    is_encrypted: bool = False

    def __str__(self) -> str:
        return f"{_ENCRYPTED if self.is_encrypted else ''}{Address.__str__(self)}"


def parse_address(text: str, default_port: int | None = None) -> Address:
    """``127.0.0.1:5454``, ``keeper-0:5454`` or ``[::1]:5454``; the port may be left out if there is a default.

    The host must be said: none is not *all of them*.  Raises ValueError.
    """
    match = _ADDRESS.fullmatch(text.strip())
    port = default_port if match is None or match[3] is None else int(match[3])
    if match is None or port is None or port > PORT_MAX:
        raise ValueError(f"expected HOST:PORT, such as 127.0.0.1:5454 or [::1]:5454, got {text!r}")
    return Address(match[1] or match[2], port)


def parse_keepers(text: str, default_port: int = KEEPER_PORT) -> tuple[Address, ...]:
    """``a:5454,b,[::1]:5455`` -> addresses.  Raises ValueError, also for too many and for one that is listed twice."""
    return _each_once([parse_address(each, default_port) for each in text.split(",")])


SomeAddress = TypeVar("SomeAddress", bound=Address)


def _each_once(found: Sequence[SomeAddress]) -> tuple[SomeAddress, ...]:
    if len(found) > KEEPERS_MAX:
        raise ValueError(f"at most {KEEPERS_MAX} keepers form a quorum, got {len(found)}")
    twice = next((each for each in found if found.count(each) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} is listed twice: a quorum counts each keeper once")
    if any(each.port == 0 for each in found):
        raise ValueError(f"nobody can connect to port 0: {', '.join(map(str, found))}")
    return tuple(found)


def parse_http_address(text: str) -> HttpAddress:
    """``k1``, ``k1:7676`` or ``https://k1:7677``.  Raises ValueError."""
    is_encrypted = text.strip().startswith(_ENCRYPTED)
    host_port = text.strip().removeprefix(_ENCRYPTED)
    if "/" in host_port:
        raise ValueError(f"expected HOST:PORT or https://HOST:PORT, got {text!r}")
    address = parse_address(host_port, HTTPS_PORT if is_encrypted else HTTP_PORT)
    return HttpAddress(address.host, address.port, is_encrypted)


def parse_http_keepers(text: str) -> tuple[HttpAddress, ...]:
    """The same of HTTP and HTTPS ports."""
    return _each_once([parse_http_address(each) for each in text.split(",")])


def parse_http_peers(text: str) -> tuple[HttpAddress, ...]:
    """The same, and nothing is nobody."""
    return parse_http_keepers(text) if text else ()
