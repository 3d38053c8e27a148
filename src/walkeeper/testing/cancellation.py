"""Cancel everywhere: run a scenario once for every moment at which a cancellation can reach it.

    async def scenario(victim: Victim) -> None:
        service = await start()
        with victim.exposed("connection"):      # what is cancelled, and when moments are counted
            await use(service)
        check(service)                          # must hold, whatever was cancelled

    report = cancel_everywhere(scenario)

A first run counts the moments: every step of every task of the program, while the scenario is inside such a block.
Then the scenario is run once for each of them, and the block is cancelled exactly there.  Checks behind the block say
what must hold; a failure names the moment, and where each task was.

All runs have the same seed and a fake clock that leaps, so the moments of the first run are those of the others up to the
cancellation.  Threads do not go with that: use ``InlineOffload``.

Also checks that nothing is left over: tasks end with ``trio.run``; file descriptors are counted.
Does not know walkeeper: any Trio program can be treated like that.
"""

import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio
import trio.testing

from walkeeper.testing.scheduling import deterministic

MOMENTS_MAX: Final = 20_000
"""More are a scenario that should be cut in two: every moment is a run."""

_DESCRIPTORS: Final = Path("/proc/self/fd")


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
    def exposed(self, scope: trio.CancelScope | None = None) -> Iterator[trio.CancelScope]:
        """A block that is cancelled; or, given the ``scope`` of something else, that is, while the block runs.

        Once per scenario: it is left when the block ends.
        """
        with trio.CancelScope() as own:
            self._watch.begin(own if scope is None else scope)
            try:
                yield own
            finally:
                self._watch.end()


Scenario = Callable[[Victim], Awaitable[None]]


class _Watch(trio.abc.Instrument):
    """Counts moments, and strikes at one of them."""

    def __init__(self, strike_at: int | None, strike: Callable[[trio.CancelScope], None]) -> None:
        self.moments = 0
        self.struck: Moment | None = None
        self._strike_at = strike_at
        self._strike = strike
        self._scope: trio.CancelScope | None = None

    def begin(self, scope: trio.CancelScope) -> None:
        assert self._scope is None and not self.moments, "a scenario exposes something once"
        self._scope = scope

    def end(self) -> None:
        self._scope = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._scope is None:
            return
        self.moments += 1
        if self.moments == self._strike_at:
            self.struck = Moment(self.moments, task.name, _place_of(task))
            self._strike(self._scope)


def _cancel(scope: trio.CancelScope) -> None:
    scope.cancel(reason="cancelled everywhere")


def _interrupt(_scope: trio.CancelScope) -> None:
    signal.raise_signal(signal.SIGINT)


def cancel_everywhere(scenario: Scenario, *, seed: int = 0) -> Report:
    """Cancel what ``scenario`` exposes at each of its moments, one after the other.

    Raises what the scenario raises, with a note that says at which moment; AssertionError when a run leaves file
    descriptors behind, and Uncancelled for a scenario that runs differently each time.
    """
    return _strike_everywhere(scenario, _cancel, seed)


def interrupt_everywhere(scenario: Scenario, *, seed: int = 0) -> Report:
    """The same with Ctrl-C (SIGINT) in place of a cancellation: KeyboardInterrupt ends the run wherever Trio raises it.

    The scenario is not there any more to check anything then; ``finally`` blocks are.  Main thread only.
    """

    async def interrupted(victim: Victim) -> None:
        with suppress(KeyboardInterrupt):
            await scenario(victim)

    return _strike_everywhere(interrupted, _interrupt, seed)


def _strike_everywhere(scenario: Scenario, strike: Callable[[trio.CancelScope], None], seed: int) -> Report:
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
    with deterministic(seed):
        clock = trio.testing.MockClock(autojump_threshold=0)
        try:
            trio.run(scenario, Victim(watch), clock=clock, instruments=[watch])
        except* KeyboardInterrupt:
            if watch.struck is None:
                raise
    after = len(os.listdir(_DESCRIPTORS))
    assert after <= before, f"{after - before} file descriptors are left over"


def _place_of(task: trio.lowlevel.Task) -> str:
    """The innermost function of the package under test, or else the outermost."""
    places = [f"{Path(frame.f_code.co_filename).name}:{line} {frame.f_code.co_name}" for frame, line in task.iter_await_frames()]
    ours = [place for place, (frame, _) in zip(places, task.iter_await_frames(), strict=True) if "trio" not in frame.f_code.co_filename]
    return (ours or places or ["its beginning"])[-1]
