"""Serves the application with hypercorn, on a socket that somebody else has bound.

Hypercorn sends with a shield and without a limit: a client that stops reading would keep the server from ending.
TCP_USER_TIMEOUT on the socket is that limit (``limit_sends``).  It also never ends a streamed response to a client
that wants the connection closed, so no route of ours streams.

Does not know what it serves: any ASGI application will do, and another server could take this one's place.
"""

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, cast

import hypercorn.trio
import trio
from hypercorn.config import Config
from hypercorn.typing import Framework
from starlette.types import ASGIApp

SEND_SECONDS_MAX: Final = 3.0
"""How long a client may leave an answer unacknowledged before its connection is cut."""

GRACE_SECONDS: Final = 1.0
"""How long requests may go on when the server ends: every handler is a look or one operation."""

IDLE_SECONDS_MAX: Final = 75.0
"""How long a kept-alive connection may be silent: longer than any usual interval between scrapes."""


def limit_sends(sock: socket.socket) -> None:
    """Let the kernel cut connections, accepted from ``sock``, whose peer does not read."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SEND_SECONDS_MAX * 1000))


@asynccontextmanager
async def serving_http(app: ASGIApp, sock: socket.socket) -> AsyncIterator[None]:
    """Serve ``app`` on the bound ``sock``, which is taken over, for as long as the block runs.

    Cancellation: cuts requests off after ``SEND_SECONDS_MAX`` at most.
    """
    limit_sends(sock)
    stop = trio.Event()
    serve = partial(
        hypercorn.trio.serve,
        cast("Framework", app),
        _config(sock.detach()),
        shutdown_trigger=stop.wait,
        mode="asgi",
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        yield
        stop.set()


def _config(fd: int) -> Config:
    config = Config()
    config.bind = [f"fd://{fd}"]
    config.graceful_timeout = GRACE_SECONDS
    config.keep_alive_timeout = IDLE_SECONDS_MAX
    config.read_timeout = int(IDLE_SECONDS_MAX)
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    return config
