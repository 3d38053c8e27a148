"""Blocking work without threads, for simulations: the function runs on the event loop, at a moment of fake time.

Threads and Trio's fake clock do not mix: virtual time would leap past a thread that runs.

Does not run two functions at once, but lets other tasks run before and after each, as threads do.
"""

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import outcome
import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class InlineOffload:
    """A ``storage.offload.Offload`` whose jobs take as many seconds as ``delay`` says: before, and after, the call."""

    def __init__(self, delay: Callable[[], float] = lambda: 0.0) -> None:
        self._delay = delay

    async def __call__(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call ``function(*args)``, return what it returns and raise what it raises.

        Cancellation: not let in; the caller meets it at its next checkpoint.
        """
        await self._pass_time()
        result = outcome.capture(function, *args)
        await self._pass_time()
        return result.unwrap()

    async def _pass_time(self) -> None:
        with trio.move_on_after(self._delay(), shield=True):
            await trio.sleep_forever()
