"""How a connection to a server is begun: a TCP or a local socket, unless the task lives in another network.

``network`` is a seam: simulations let the tasks of each of their machines dial in a network of their own
(``walkeeper.testing.MemoryNetwork``), and what those tasks start inherits that.

Has no time limits and does not speak: the caller does.
"""

import os
import socket
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Final

import trio

from walkeeper.errors import leaves
from walkeeper.links.conninfo import ConnectionInfo
from walkeeper.links.link import Link, SocketLink

Dial = Callable[[ConnectionInfo], Awaitable[Link]]
"""Raises OSError.  Cancellation: at any time, nothing is left behind."""


async def dial_socket(info: ConnectionInfo) -> Link:
    """Connect to where ``info`` says.  Raises OSError.  Cancellation: at any time, nothing is left behind."""
    if info.is_unix_socket:
        return SocketLink(await _connect_unix(info.socket_path))
    try:
        stream = await trio.open_tcp_stream(info.hostaddr or info.host, info.port)
    except UnicodeError:  # no host can be called so
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None
    return SocketLink(_detached(stream.socket))


async def _connect_unix(path: str) -> socket.socket:
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        await sock.connect(path)
        return _detached(sock)
    finally:
        sock.close()


def _detached(sock: trio.socket.SocketType) -> socket.socket:
    """The standard library's socket of one of Trio's, which gives it up."""
    return socket.socket(fileno=sock.detach())


network: Final[ContextVar[Dial]] = ContextVar("network", default=dial_socket)


def why_not_dialled(error: OSError) -> str:
    """One line, without the address; several addresses fail with one error that has the others as its cause."""
    causes = leaves(error.__cause__ or error)
    return ", ".join(sorted({_reason(each) for each in causes if isinstance(each, OSError)})) or str(error)


def _reason(error: OSError) -> str:
    """A name that is not resolved has a negative number and a text, and Trio's own texts have the address."""
    number = error.errno or 0
    return os.strerror(number) if number > 0 else error.strerror or str(error)
