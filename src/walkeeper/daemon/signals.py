"""Signals that ask a daemon for something and do not end it: SIGUSR1 for its tasks, SIGHUP for a reload.

Until somebody listens they are ignored, not deadly: a service manager may send them while the daemon starts.
"""

import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import structlog
import trio

from walkeeper.auth.reload import reload_all
from walkeeper.control.tasks import as_text, describe_tasks
from walkeeper.daemon.notify import READY, notify, reloading

DUMP: Final = signal.SIGUSR1
RELOAD: Final = signal.SIGHUP

NEEDS_RESTART: Final = "flags, variables and the file of --config"

log = structlog.stdlib.get_logger()


def ignore_until_answered() -> None:
    """To be called first of all."""
    for each in (DUMP, RELOAD):
        signal.signal(each, signal.SIG_IGN)


@asynccontextmanager
async def answering_signals(serves: Callable[[], bool]) -> AsyncIterator[None]:
    """Answer for as long as the block runs.  A reload that waits for the disk keeps nobody from seeing the tasks.

    ``serves``: whether the service manager has been told so; if not, no reload may be what tells it.
    """
    with trio.open_signal_receiver(DUMP) as dumps, trio.open_signal_receiver(RELOAD) as reloads:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_answer, dumps, dump_tasks, name="dump tasks")
            nursery.start_soon(_answer, reloads, partial(reload, serves), name="reload")
            yield
            nursery.cancel_scope.cancel(reason="shutdown")


async def _answer(signals: AsyncIterator[int], act: Callable[[], Awaitable[None]]) -> None:
    async for _ in signals:
        await act()


async def dump_tasks() -> None:
    """Cancellation: does not wait."""
    found = describe_tasks()
    log.info("tasks", count=len(found.tasks), stack=as_text(found))


async def reload(serves: Callable[[], bool]) -> None:
    """Say to the service manager that it begins and ends, and to the log what became of it.

    Cancellation: as ``reload_all``.
    """
    if serves():
        notify(reloading(time.monotonic()), os.environ)
    results = await reload_all()
    for result in results:
        if result.problem:
            log.warning(result.failure, what=result.what, error=result.problem)
    read = [result.what for result in results if not result.problem]
    log.info("reloaded", what=read, needs_restart=NEEDS_RESTART)
    if serves():
        notify(READY, os.environ)
