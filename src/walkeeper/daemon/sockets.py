"""Listening sockets: bound before anything is served, so that a busy port is found out before work begins.

Does not accept: ``services`` and ``control`` do.
"""

import ipaddress
import socket
from typing import Final

from walkeeper.errors import ConfigError
from walkeeper.links.address import Address

BACKLOG: Final = 1024
"""Connections that wait to be accepted: all writers of a large keeper come back at once after its restart."""


def bind(address: Address, flag: str) -> socket.socket:
    """A listening, non-blocking TCP socket.  Of several addresses that a name has, the first that works.

    Raises ConfigError, naming ``flag``, when none does.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{flag}: cannot resolve {address.host!r}: {_reason(error)}") from None
    failures: list[OSError] = []
    for family, _, _, _, where in found:
        try:
            return _listen(family, where)
        except OSError as error:
            failures.append(error)
    raise ConfigError(f"{flag}: cannot listen on {address}: {_reason(failures[0])}")


def _listen(family: int, where: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def bound_address(sock: socket.socket) -> Address:
    """Where ``sock`` really listens: the port that the system chose for port 0."""
    host, port = sock.getsockname()[:2]
    return Address(host, port)


def is_loopback(sock: socket.socket) -> bool:
    """Whether only this machine can reach ``sock``."""
    return ipaddress.ip_address(bound_address(sock).host).is_loopback


def _reason(error: OSError | UnicodeError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
