"""Serves the application with hypercorn, on a socket that somebody else has bound.

Connections are accepted here and not by hypercorn, which knows no limit for them: each takes a descriptor, and storage
must not want for any.  When all are taken the newcomer has the place of whoever has been idle longest.

Hypercorn sends with a shield and without a limit: a client that stops reading would keep the server from ending.
TCP_USER_TIMEOUT on the socket is that limit (``limit_sends``).  It also never ends a streamed response to a client
that wants the connection closed, so no route of ours streams.

Does not know what it serves: any ASGI application will do, and another server could take this one's place.
"""

import logging
import math
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Event, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, LifespanState
from starlette.types import ASGIApp

from walkeeper.links.accept import accept_client
from walkeeper.links.throttle import throttled_logger

CONNECTIONS_MAX: Final = 128
"""Of probes, scrapers and operators there are some; more is a mistake or a flood."""

SEND_SECONDS_MAX: Final = 3.0
"""How long a client may leave an answer unacknowledged before its connection is cut."""

GRACE_SECONDS: Final = 1.0
"""How long requests may go on when the server ends: every handler is a look or one operation."""

IDLE_SECONDS_MAX: Final = 75.0
"""How long a kept-alive connection may be silent: longer than any usual interval between scrapes."""


log = throttled_logger()


def limit_sends(sock: socket.socket) -> None:
    """Let the kernel cut connections, accepted from ``sock``, whose peer does not read."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SEND_SECONDS_MAX * 1000))


class OnlyHttp1(H11Protocol):
    """Knows no way to HTTP/2: nobody needs it here, and hypercorn's task for it does not end when the client has gone."""

    async def _check_protocol(self, event: object) -> None:
        pass


class PromptServer(TCPServer):
    """One connection.  Lets go of a client that has gone; hypercorn would wait until it is idle, or for ever.

    ``idle_since``: when its last request was answered, on Trio's clock; None while there is one.
    """

    def __init__(self, app: ASGIFramework, context: WorkerContext, sock: socket.socket) -> None:
        self._socket = trio.socket.from_stdlib_socket(sock)
        stream = cast("trio.SSLStream[trio.SocketStream]", trio.SocketStream(self._socket))  # it takes both
        super().__init__(ASGIWrapper(app), _config(), context, LifespanState(), stream)
        self._scope = trio.CancelScope()
        self.idle_since: float | None = trio.current_time()

    async def serve(self) -> None:
        """Cancellation: cuts a request off; an answer on its way takes ``SEND_SECONDS_MAX`` at most."""
        try:
            with self._scope:
                await self.run()
        finally:
            self.close()

    def close(self) -> None:
        """Give the descriptor back, now; ``serve`` ends soon."""
        self._socket.close()

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, Updated):
            self.idle_since = trio.current_time() if event.idle else None
        await super().protocol_send(event)

    async def _read_data(self) -> None:
        given = self.protocol
        given.protocol = OnlyHttp1(
            given.app,
            given.config,
            given.context,
            given.task_group,
            given.state,
            given.ssl,
            given.client,
            given.server,
            given.send,
        )
        await super()._read_data()
        await self.idle_task.stop()
        self.idle_since = -math.inf  # whatever is still going on here, nobody will hear of it
        self._scope.deadline = trio.current_time() + GRACE_SECONDS


def _uncounted() -> None:
    """Nobody counts."""


@asynccontextmanager
async def serving_http(
    app: ASGIApp, sock: socket.socket, on_connection: Callable[[], None] = _uncounted
) -> AsyncIterator[None]:
    """Serve ``app`` on the bound ``sock``, which is taken over, for as long as the block runs.

    ``on_connection`` is told of each that was accepted.

    Cancellation: cuts requests off after ``SEND_SECONDS_MAX`` at most.
    """
    limit_sends(sock)
    sock.setblocking(False)
    context = WorkerContext(max_requests=None)
    serve = partial(PromptServer, cast("ASGIFramework", app), context)
    async with trio.open_nursery() as connections:
        with sock:
            async with trio.open_nursery() as accepting:
                accepting.start_soon(_accept, sock, serve, connections, on_connection)
                yield
                accepting.cancel_scope.cancel(reason="shutdown")
        await context.terminated.set()
        connections.cancel_scope.deadline = trio.current_time() + GRACE_SECONDS


async def _accept(
    sock: socket.socket,
    serve: Callable[[socket.socket], PromptServer],
    connections: trio.Nursery,
    on_connection: Callable[[], None],
) -> None:
    seated = set[PromptServer]()
    while True:
        client = await accept_client(sock)
        on_connection()
        if len(seated) == CONNECTIONS_MAX:
            log.warning("too many HTTP connections", connections_max=CONNECTIONS_MAX)
            if not _make_room(seated):
                client.close()
                continue
        server = serve(client)
        seated.add(server)
        connections.start_soon(_serve, server, seated)


def _make_room(seated: set[PromptServer]) -> bool:
    """Close the connection that has been idle longest; False when all have requests."""
    idle = {one: one.idle_since for one in seated if one.idle_since is not None}
    if not idle:
        return False
    longest = min(idle, key=idle.__getitem__)
    longest.close()
    seated.remove(longest)
    return True


async def _serve(server: PromptServer, seated: set[PromptServer]) -> None:
    try:
        await server.serve()
    finally:
        seated.discard(server)


def _config() -> Config:
    config = Config()
    config.keep_alive_timeout = IDLE_SECONDS_MAX
    config.read_timeout = int(IDLE_SECONDS_MAX)
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    return config
