"""Serves the application with hypercorn, on a socket that somebody else has bound.

Connections are accepted here and not by hypercorn, which knows no limit for them: each takes a descriptor, and storage
must not want for any.

Hypercorn sends with a shield and without a limit: a client that stops reading would keep the server from ending.
TCP_USER_TIMEOUT on the socket is that limit (``limit_sends``).  It also never ends a streamed response to a client
that wants the connection closed, so no route of ours streams.

Does not know what it serves: any ASGI application will do, and another server could take this one's place.
"""

import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, cast

import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, LifespanState
from starlette.types import ASGIApp

from walkeeper.links.accept import accept_client
from walkeeper.links.throttle import Throttle

CONNECTIONS_MAX: Final = 128
"""Of probes, scrapers and operators there are some; more is a mistake or a flood."""

SEND_SECONDS_MAX: Final = 3.0
"""How long a client may leave an answer unacknowledged before its connection is cut."""

GRACE_SECONDS: Final = 1.0
"""How long requests may go on when the server ends: every handler is a look or one operation."""

IDLE_SECONDS_MAX: Final = 75.0
"""How long a kept-alive connection may be silent: longer than any usual interval between scrapes."""


log = structlog.stdlib.get_logger()


def limit_sends(sock: socket.socket) -> None:
    """Let the kernel cut connections, accepted from ``sock``, whose peer does not read."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SEND_SECONDS_MAX * 1000))


class PromptServer(TCPServer):
    """Lets go of a connection whose client has gone before it asked for anything; hypercorn would wait until it is idle."""

    async def _read_data(self) -> None:
        await super()._read_data()
        await self.idle_task.stop()


@asynccontextmanager
async def serving_http(app: ASGIApp, sock: socket.socket) -> AsyncIterator[None]:
    """Serve ``app`` on the bound ``sock``, which is taken over, for as long as the block runs.

    Cancellation: cuts requests off after ``SEND_SECONDS_MAX`` at most.
    """
    limit_sends(sock)
    sock.setblocking(False)
    context = WorkerContext(max_requests=None)
    serve = partial(PromptServer, ASGIWrapper(cast("ASGIFramework", app)), _config(), context, LifespanState())
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            accepting.start_soon(_accept, sock, serve, connections)
            yield
            accepting.cancel_scope.cancel(reason="shutdown")
        sock.close()
        await context.terminated.set()
        connections.cancel_scope.deadline = trio.current_time() + GRACE_SECONDS


async def _accept(
    sock: socket.socket, serve: Callable[[trio.SocketStream], TCPServer], connections: trio.Nursery
) -> None:
    throttle, seats = Throttle(), trio.CapacityLimiter(CONNECTIONS_MAX)
    while True:
        client = await accept_client(sock, throttle)
        try:
            seats.acquire_on_behalf_of_nowait(client)
        except trio.WouldBlock:
            client.close()
            if (before := throttle.admit("full")) is not None:
                log.warning("too many HTTP connections", connections_max=CONNECTIONS_MAX, **before)
        else:
            connections.start_soon(_serve, client, serve, seats)


async def _serve(
    client: socket.socket, serve: Callable[[trio.SocketStream], TCPServer], seats: trio.CapacityLimiter
) -> None:
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(client))
    try:
        await serve(stream)
    finally:
        await trio.aclose_forcefully(stream)
        seats.release_on_behalf_of(client)


def _config() -> Config:
    config = Config()
    config.keep_alive_timeout = IDLE_SECONDS_MAX
    config.read_timeout = int(IDLE_SECONDS_MAX)
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    return config
