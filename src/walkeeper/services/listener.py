"""The keeper's PostgreSQL port: accepting, and telling connections when to end.

A connection is a task of the nursery it is given; ``Draining`` reaches the moments in which it waits for its client,
and only those, so that what has begun is finished and answered.

Does not speak the protocol: ``services.connection`` does.
"""

import errno
import itertools
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, Protocol

import structlog
import trio

from walkeeper.links.link import Link, SocketLink
from walkeeper.services.connection import Connection, Instruments
from walkeeper.services.turnstile import Turnstile
from walkeeper.timeline.registry import Client
from walkeeper.timeline.timelines import Timelines

VANISHED_SECONDS: Final = 60.0
"""How long a peer may acknowledge nothing before it is given up; readers have a limit of their own."""

OUT_OF_FILES_SECONDS: Final = 0.1
"""Pause after accept has failed for want of descriptors or memory; connections that end give some back."""

_OUT_OF = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})

log = structlog.stdlib.get_logger()


class Listener(Protocol):
    """Where clients come in."""

    async def accept(self) -> tuple[Link, str]:
        """The next client's link, and where the client is.

        Cancellation: while it waits, nobody is lost.
        """

    def close(self) -> None:
        """Let nobody in any more, not even those who wait already."""


class Draining:
    """Ends the waiting for clients, everywhere at once."""

    def __init__(self) -> None:
        self._has_begun = False
        self._waiting: set[trio.CancelScope] = set()

    @contextmanager
    def while_serving(self) -> Iterator[trio.CancelScope]:
        """A block that is left when draining begins: one that only waits for a client, or sends it more and more."""
        with trio.CancelScope() as scope:
            if self._has_begun:
                scope.cancel(reason="shutdown")
            self._waiting.add(scope)
            try:
                yield scope
            finally:
                self._waiting.discard(scope)

    def begin(self) -> None:
        self._has_begun = True
        for scope in self._waiting:
            scope.cancel(reason="shutdown")


@asynccontextmanager
async def accepting(
    listener: Listener,
    timelines: Timelines,
    connections: trio.Nursery,
    instruments: Instruments,
    reader_seconds_max: float,
) -> AsyncIterator[None]:
    """Let clients in at ``listener`` for as long as the block runs; connections end in ``connections``.

    When the block ends ``listener`` is closed, so that nobody waits in its queue for a keeper that is leaving,
    readers stop reading and senders stop sending; what has been received is still kept and answered.
    """
    draining = Draining()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            accept_connections, listener, timelines, connections, draining, instruments, reader_seconds_max
        )
        yield
        nursery.cancel_scope.cancel(reason="shutdown")
    listener.close()
    draining.begin()


async def accept_connections(
    listener: Listener,
    timelines: Timelines,
    connections: trio.Nursery,
    draining: Draining,
    instruments: Instruments,
    reader_seconds_max: float,
) -> None:
    """Start a task for every client, until cancelled."""
    turnstile = Turnstile()
    for number in itertools.count(1):
        link, peer = await listener.accept()
        link.give_up_after(VANISHED_SECONDS)
        connection = Connection(
            Client(number, peer), link, timelines, draining, turnstile, instruments, reader_seconds_max
        )
        connections.start_soon(connection.serve, name=f"connection {number}")


class SocketListener:
    """A ``Listener`` at a bound socket that listens, which it owns."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener

    async def accept(self) -> tuple[Link, str]:
        while True:
            await trio.lowlevel.wait_readable(self._listener)
            try:
                sock, _ = self._listener.accept()
            except OSError as error:
                if error.errno in _OUT_OF:
                    log.error("cannot accept connections", error=error.strerror)
                    await trio.sleep(OUT_OF_FILES_SECONDS)
                continue  # the client has gone again, or another process was faster
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return SocketLink(sock), peer_of(sock)

    def close(self) -> None:
        self._listener.close()


def peer_of(sock: socket.socket) -> str:
    """Where the client is, as HOST:PORT; nothing for a local socket and for a client that has gone again."""
    try:
        address = sock.getpeername()
    except OSError:
        return ""
    match address:
        case (str(host), int(port), *_):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        case _:
            return ""
