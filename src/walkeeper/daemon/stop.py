"""Signals that ask a long-lived command to end.

Does not decide how it ends: whoever waits here does.
"""

import os
import signal
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
import trio

from walkeeper.daemon.deadly import make_deadly
from walkeeper.daemon.signals import answering_signals

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

log = structlog.stdlib.get_logger()


async def wait_for_stop() -> None:
    """Return at the first SIGTERM or SIGINT; from then on a second one kills the process.

    Cancellation: at any time.
    """
    with trio.open_signal_receiver(*STOP_SIGNALS) as signals:
        number = await anext(signals)
    for each in STOP_SIGNALS:
        make_deadly(each, os.getpid())
    log.info("stopping", signal=signal.Signals(number).name)


async def until_stopped(work: Callable[[], Awaitable[None]]) -> None:
    """Run ``work``, which has no end of its own, until a signal comes; its errors come out in a group.

    Cancellation: ends ``work``.
    """
    async with answering_signals(lambda: False), trio.open_nursery() as nursery:
        nursery.start_soon(work)
        await wait_for_stop()
        nursery.cancel_scope.cancel(reason="a signal to stop")
