"""Lets HTTP clients in, on a socket that somebody else has bound, up to as many as there is room for.

Each takes a descriptor, and storage must not want for any.  When all places are taken the newcomer has that of whoever has
been silent longest, so that probes and scrapes are answered in a crowd.

Does not speak HTTP: ``http1`` does; and does not know what is served.
"""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio
from starlette.types import ASGIApp

from walkeeper.control.http1 import GRACE_SECONDS, Encrypt, HttpConnection
from walkeeper.links.accept import accept_client
from walkeeper.links.link import SocketLink
from walkeeper.links.throttle import throttled_logger

CONNECTIONS_MAX: Final = 128
"""Of probes, scrapers and operators there are some; more is a mistake or a flood."""

log = throttled_logger()


def _uncounted() -> None:
    """Nobody counts."""


@asynccontextmanager
async def serving_http(
    app: ASGIApp,
    sock: socket.socket,
    on_connection: Callable[[], None] = _uncounted,
    encrypt: Encrypt | None = None,
    seated: set[HttpConnection] | None = None,
) -> AsyncIterator[None]:
    """Serve ``app`` on the bound ``sock``, which is taken over, for as long as the block runs.

    ``on_connection`` is told of each that was accepted, and ``encrypt`` makes it one in TLS.  Ports that share
    ``seated`` have ``CONNECTIONS_MAX`` together.  At the end requests may go on for ``GRACE_SECONDS``.

    Cancellation: cuts requests off.
    """
    sock.setblocking(False)
    reception = Reception(app, on_connection, encrypt, set() if seated is None else seated)
    async with trio.open_nursery() as connections:
        with sock:
            async with trio.open_nursery() as accepting:
                accepting.start_soon(reception.accept, sock, connections, name="HTTP listener")
                yield
                accepting.cancel_scope.cancel(reason="shutdown")
        reception.end()
        connections.cancel_scope.deadline = trio.current_time() + GRACE_SECONDS


class Reception:
    """Finds places for connections."""

    def __init__(
        self,
        app: ASGIApp,
        on_connection: Callable[[], None],
        encrypt: Encrypt | None,
        seated: set[HttpConnection],
    ) -> None:
        self._app = app
        self._encrypt = encrypt
        self._on_connection = on_connection
        self._seated = seated

    async def accept(self, sock: socket.socket, connections: trio.Nursery) -> None:
        """Start a task for every client, until cancelled."""
        while True:
            client = await accept_client(sock)
            self._on_connection()
            if len(self._seated) >= CONNECTIONS_MAX:
                log.warning("too many HTTP connections", connections_max=CONNECTIONS_MAX)
                if not self._make_room():
                    client.close()
                    continue
            connection = HttpConnection(self._app, SocketLink(client), self._encrypt)
            self._seated.add(connection)
            connections.start_soon(self._serve, connection, name="HTTP connection")

    def end(self) -> None:
        """End all of them, after the requests that are being answered."""
        for connection in self._seated:
            connection.end()

    def _make_room(self) -> bool:
        """Dismiss the connection that has been silent longest; False when all have requests."""
        silent = {one: one.waits_since for one in self._seated if one.waits_since is not None}
        if not silent:
            return False
        longest = min(silent, key=silent.__getitem__)
        longest.dismiss()
        self._seated.remove(longest)
        return True

    async def _serve(self, connection: HttpConnection) -> None:
        try:
            await connection.serve()
        finally:
            self._seated.discard(connection)
