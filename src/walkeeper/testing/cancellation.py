"""Cancel everywhere: run a scenario once for every moment at which a cancellation can reach it.

    async def scenario(victim: Victim) -> None:
        service = await start()
        with victim.exposed():                  # what is cancelled, and while moments are counted
            await use(service)
        check(service)                          # must hold, whatever was cancelled

    report = cancel_everywhere(scenario)

A first run counts the moments: every step of every task of the program, while the scenario is inside such a block.
Then the scenario is run once for each of them, and the block is cancelled exactly there.  Checks behind the block say
what must hold; a failure names the moment: which task was about to go on, and where.

All runs have the same seed and a fake clock that leaps, so the moments of the first run are those of the others up to the
cancellation.  Threads do not go with that: use ``InlineOffload``.

Also checks that nothing is left over: tasks end with ``trio.run``; file descriptors are counted.
Does not know walkeeper: any Trio program can be treated like that.
"""

import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio

from walkeeper.testing.scheduling import run_deterministically

MOMENTS_MAX: Final = 20_000
"""More are a scenario that should be cut in two: every moment is a run."""

_DESCRIPTORS: Final = Path("/proc/self/fd")
_TRIO: Final = Path(trio.__file__).parent


class Uncancelled(AssertionError):
    """A cancellation came to nothing: the moment was not reached a second time, so the scenario is not deterministic."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The ``number``-th step of a task while the block was exposed."""

    number: int
    task: str
    where: str

    def __str__(self) -> str:
        return f"moment {self.number}, before {self.task} goes on at {self.where}"


@dataclass(frozen=True, slots=True)
class Report:
    """What was done: how many moments there were, each of which was one run."""

    moments: int


class Victim:
    """What the scenario is given: it says what may be cancelled."""

    def __init__(self, watch: "_Watch") -> None:
        self._watch = watch

    @contextmanager
    def exposed(self, strike: Callable[[], None] | None = None) -> Iterator[None]:
        """A block that is cancelled; or ``strike`` is called instead, which may cancel whatever it likes.

        Once per scenario: it is left when the block ends.
        """
        with trio.CancelScope() as scope:
            self._watch.begin(strike or partial(scope.cancel, reason="cancelled everywhere"))
            try:
                yield
            finally:
                self._watch.end()


Scenario = Callable[[Victim], Awaitable[None]]


class _Watch(trio.abc.Instrument):
    """Counts moments, and strikes at one of them."""

    def __init__(self, strike_at: int | None, strike: Callable[[], None] | None) -> None:
        self.moments = 0
        self.struck: Moment | None = None
        self._strike_at = strike_at
        self._strike = strike
        self._is_exposed = False

    def begin(self, strike: Callable[[], None]) -> None:
        assert not self.moments, "a scenario exposes something once"
        self._strike = self._strike or strike
        self._is_exposed = True

    def end(self) -> None:
        self._is_exposed = False

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if not self._is_exposed:
            return
        self.moments += 1
        if self.moments == self._strike_at:
            assert self._strike is not None
            self.struck = Moment(self.moments, task.name, _place_of(task))
            self._strike()


def cancel_everywhere(scenario: Scenario, *, seed: int = 0) -> Report:
    """Cancel what ``scenario`` exposes at each of its moments, one after the other.

    Raises what the scenario raises, with a note that says at which moment; AssertionError when a run leaves file
    descriptors behind, and Uncancelled for a scenario that runs differently each time.
    """
    return _strike_everywhere(scenario, None, seed)


def interrupt_everywhere(scenario: Scenario, *, seed: int = 0) -> Report:
    """The same with Ctrl-C (SIGINT) in place of a cancellation.

    Trio raises KeyboardInterrupt in the scenario itself, or wherever the program is not protected from it; it may
    leave the scenario, or be caught there so that checks can follow.  Main thread only.
    """
    return _strike_everywhere(scenario, partial(signal.raise_signal, signal.SIGINT), seed)


def _strike_everywhere(scenario: Scenario, strike: Callable[[], None] | None, seed: int) -> Report:
    calm = _Watch(None, strike)
    _run(scenario, calm, seed)
    assert 0 < calm.moments <= MOMENTS_MAX, f"{calm.moments} moments: nothing was exposed, or too much"
    for number in range(1, calm.moments + 1):
        watch = _Watch(number, strike)
        try:
            _run(scenario, watch, seed)
        except BaseException as error:
            error.add_note(f"{watch.struck}, of {calm.moments}")
            raise
        if watch.struck is None:
            raise Uncancelled(f"moment {number} of {calm.moments} was reached once and not again")
    return Report(calm.moments)


def _run(scenario: Scenario, watch: _Watch, seed: int) -> None:
    before = len(os.listdir(_DESCRIPTORS))
    try:
        run_deterministically(partial(scenario, Victim(watch)), seed=seed, instruments=[watch])
    except* KeyboardInterrupt:
        if watch.struck is None:
            raise
    after = len(os.listdir(_DESCRIPTORS))
    assert after <= before, f"{after - before} file descriptors are left over"


def _place_of(task: trio.lowlevel.Task) -> str:
    """Where the task waits, outside of Trio if it waits for something of Trio's."""
    frames = [(frame.f_code, line) for frame, line in task.iter_await_frames()]
    outside = [each for each in frames if not Path(each[0].co_filename).is_relative_to(_TRIO)] or frames
    return " ".join(f"{Path(code.co_filename).name}:{line} ({code.co_name})" for code, line in outside[-1:])
