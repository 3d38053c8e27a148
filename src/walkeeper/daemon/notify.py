"""Tells systemd how we are.

Source: sd_notify(3).  Without NOTIFY_SOCKET, nobody is told.
"""

import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import structlog
import trio

from walkeeper.control.health import Check
from walkeeper.errors import printable
from walkeeper.links.throttle import throttled_logger

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"

ALIVE: Final = "WATCHDOG=1"

STATUS_SECONDS: Final = 10.0
"""Between two lines about how we are, where the watchdog does not ask for more of them: ``systemctl status`` shows it."""

log: structlog.stdlib.BoundLogger = throttled_logger()


def reloading(now: float) -> str:
    """``now``: CLOCK_MONOTONIC, in seconds; by it systemd knows that the READY which follows is not an older one."""
    return f"RELOADING=1\nMONOTONIC_USEC={int(now * 1_000_000)}"


def watchdog_seconds(environment: Mapping[str, str], pid: int) -> float | None:
    """How long the service manager waits for a sign of life before it kills us; None if it does not."""
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    try:
        seconds = int(environment.get("WATCHDOG_USEC", "0")) / 1_000_000
    except ValueError:
        return None
    return seconds if seconds > 0 else None


@asynccontextmanager
async def reporting(
    environment: Mapping[str, str], look: Callable[[], Sequence[Check]], describe: Callable[[], str]
) -> AsyncIterator[None]:
    """Tell the service manager, if there is one, how we are, for as long as the block runs.

    ``look``: what ``/livez`` looks at; while it finds a problem there is no sign of life.  ``describe``: one line.
    """
    async with trio.open_nursery() as nursery:
        if environment.get("NOTIFY_SOCKET"):
            nursery.start_soon(_report, environment, look, describe, name="report to the service manager")
        yield
        nursery.cancel_scope.cancel(reason="shutdown")


async def _report(
    environment: Mapping[str, str], look: Callable[[], Sequence[Check]], describe: Callable[[], str]
) -> None:
    limit_seconds = watchdog_seconds(environment, os.getpid())
    while True:
        problems = [f"{each.name}: {each.problem}" for each in look() if each.problem]
        state = f"STATUS={printable('; '.join(problems) or describe())}"  # a line more would be a message more
        if limit_seconds is not None and not problems:
            state = f"{ALIVE}\n{state}"
        notify(state, environment)
        await trio.sleep(STATUS_SECONDS if limit_seconds is None else min(STATUS_SECONDS, limit_seconds / 2))


def notify(state: str, environment: Mapping[str, str]) -> None:
    """Send ``state`` to the service manager, without waiting.  A failure is a warning: whoever waits for us will notice."""
    name = environment.get("NOTIFY_SOCKET")
    if not name:
        return
    address = "\0" + name[1:] if name.startswith("@") else name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)  # its queue may be full: nothing else here may wait for that
            sock.connect(address)
            sock.sendall(state.encode())
    except OSError as error:
        log.warning("cannot notify the service manager", state=state, error=str(error))
