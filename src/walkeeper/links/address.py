"""Where somebody listens: a host and a TCP port, as text and as a value; the keepers of a quorum.

Does not resolve host names.
"""

import re
from dataclasses import dataclass
from typing import Final

from walkeeper.membership import KEEPERS_MAX

PORT_MAX: Final = 65_535

KEEPER_PORT: Final = 5454
"""Where Neon's safekeepers listen, and ours."""

HTTP_PORT: Final = 7676
"""The same of their HTTP ports."""

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


def parse_keepers(text: str, default_port: int = KEEPER_PORT) -> tuple[Address, ...]:
    """``a:5454,b,[::1]:5455`` -> addresses.  Raises ValueError, also for too many and for one that is listed twice."""
    found = tuple(parse_address(each, default_port) for each in text.split(","))
    if len(found) > KEEPERS_MAX:
        raise ValueError(f"at most {KEEPERS_MAX} keepers form a quorum, got {len(found)}")
    twice = next((each for each in found if found.count(each) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} is listed twice: a quorum counts each keeper once")
    if any(each.port == 0 for each in found):
        raise ValueError(f"nobody can connect to port 0: {text!r}")
    return found


def parse_http_keepers(text: str) -> tuple[Address, ...]:
    """The same of HTTP ports."""
    return parse_keepers(text, HTTP_PORT)


def parse_http_peers(text: str) -> tuple[Address, ...]:
    """The same, and nothing is nobody."""
    return parse_http_keepers(text) if text else ()
