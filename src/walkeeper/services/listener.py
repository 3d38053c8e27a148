"""The keeper's PostgreSQL port: accepting, up to as many as there is room for, and telling connections when to end.

A connection is a task of the nursery it is given; ``Draining`` reaches the moments in which it waits for its client,
and only those, so that what has begun is finished and answered.

Does not speak the protocol: ``services.connection`` does.
"""

import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import trio

from walkeeper.errors import TooManyClients
from walkeeper.links.accept import accept_client
from walkeeper.links.link import Link, SocketLink
from walkeeper.links.throttle import throttled_logger
from walkeeper.services.admission import OPEN, Gate
from walkeeper.services.budget import Budget
from walkeeper.services.connection import Connection
from walkeeper.services.instruments import Instruments
from walkeeper.services.strangers import Strangers
from walkeeper.services.turnstile import Turnstile
from walkeeper.timeline.registry import Client
from walkeeper.timeline.timelines import Timelines

VANISHED_SECONDS: Final = 60.0
"""How long a peer may acknowledge nothing before it is given up; readers have a limit of their own."""

TURNED_AWAY_MAX: Final = 16
"""How many beyond those there is room for are told so at once, each for some seconds; the rest hears nothing."""

STRANGERS_SHARE: Final = 2
"""One in so many seats is for those that have not said who they are: all writers come at once after a restart."""

log = throttled_logger()


class Listener(Protocol):
    """Where clients come in."""

    async def accept(self) -> tuple[Link, str]:
        """The next client's link, and where the client is.

        Cancellation: while it waits, nobody is lost.
        """

    def close(self) -> None:
        """Let nobody in any more, not even those who wait already."""


@dataclass(frozen=True, slots=True)
class Limits:
    """``reader_seconds_max``: how long a reader of WAL may say nothing; ``connections_max``: how many are served at once."""

    reader_seconds_max: float
    connections_max: int


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
    limits: Limits,
    gate: Gate = OPEN,
    budget: Budget | None = None,
) -> AsyncIterator[None]:
    """Let clients in at ``listener`` for as long as the block runs; connections end in ``connections``.

    When the block ends ``listener`` is closed, so that nobody waits in its queue for a keeper that is leaving,
    readers stop reading and senders stop sending; what has been received is still kept and answered.
    ``gate``: what is asked of them before they are let in; ``budget``: the memory that they share.
    """
    draining = Draining()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            accept_connections, listener, timelines, connections, draining, instruments, limits, gate, budget
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
    limits: Limits,
    gate: Gate,
    budget: Budget | None,
) -> None:
    """Start a task for every client, until cancelled."""
    turnstile, budget = Turnstile(), budget or Budget()
    strangers = Strangers(max(1, limits.connections_max // STRANGERS_SHARE), instruments)
    reception = Reception(limits.connections_max, instruments)
    for number in itertools.count(1):
        link, peer = await listener.accept()
        link.give_up_after(VANISHED_SECONDS)
        connection = Connection(
            Client(number, peer),
            link,
            timelines,
            draining,
            turnstile,
            strangers,
            instruments,
            limits.reader_seconds_max,
            gate,
            budget,
        )
        connections.start_soon(reception.receive, connection, name=f"connection {number}")


class Reception:
    """Finds room for connections: a seat for the first ``connections_max``, a word for some of the others.

    Each may need several descriptors, and those that are served must not want for them.
    """

    def __init__(self, connections_max: int, instruments: Instruments) -> None:
        self._seats = trio.CapacityLimiter(connections_max)
        self._turned_away = trio.CapacityLimiter(TURNED_AWAY_MAX)
        self._instruments = instruments

    async def receive(self, connection: Connection) -> None:
        """The whole life of a connection.  Cancellation: as ``Connection.serve``."""
        if await self._live_in(self._seats, connection.serve):
            return
        self._instruments.refused(TooManyClients())
        log.warning("too many clients", connections_max=self._seats.total_tokens)
        if not await self._live_in(self._turned_away, partial(connection.serve, is_welcome=False)):
            await connection.drop()

    async def _live_in(self, room: trio.CapacityLimiter, live: Callable[[], Awaitable[None]]) -> bool:
        """``live``, a whole life, where there is room for it; False at once when there is none."""
        try:
            room.acquire_nowait()
        except trio.WouldBlock:
            return False
        try:
            await live()
        finally:
            room.release()
        return True


class SocketListener:
    """A ``Listener`` at a bound socket that listens, which it owns."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener

    async def accept(self) -> tuple[Link, str]:
        sock = await accept_client(self._listener)
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
