"""Steps of the event loop that take so long that everything else waits.

A step is what a task does between two checkpoints.  Trio calls an instrument before and after each, so what is done
there is paid for by every message, some microseconds of it: ``pulse`` has it done only for a while.

An instrument that raises is taken away by Trio: this one does not.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import perf_counter
from typing import Final

import trio

from walkeeper.links.throttle import throttled_logger

STEP_SECONDS_MAX: Final = 0.2
"""Some ten times of what the largest turn may take on a busy machine."""

log = throttled_logger()


class SlowSteps(trio.abc.Instrument):
    """Tells ``slow`` and the log of each step above ``seconds_max``, with the task's name."""

    def __init__(self, slow: Callable[[], None], seconds_max: float, now: Callable[[], float]) -> None:
        self._slow = slow
        self._seconds_max = seconds_max
        self._now = now
        self._began = math.inf  # it is put in place in the middle of a step, whose end comes first

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002  Trio's signature
        self._began = self._now()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if (seconds := self._now() - self._began) > self._seconds_max:
            self._slow()
            with suppress(OSError, ValueError):  # the log cannot be written: the counter remains
                log.warning("a step of the event loop was slow", task=task.name, seconds=round(seconds, 3))


@contextmanager
def watching_steps(
    slow: Callable[[], None], seconds_max: float = STEP_SECONDS_MAX, now: Callable[[], float] = perf_counter
) -> Iterator[None]:
    """Watch for as long as the block runs."""
    instrument = SlowSteps(slow, seconds_max, now)
    trio.lowlevel.add_instrument(instrument)
    try:
        yield
    finally:
        with suppress(KeyError):  # gone already if it raised
            trio.lowlevel.remove_instrument(instrument)
