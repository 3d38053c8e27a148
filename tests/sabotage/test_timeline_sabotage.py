"""A timeline without its shield, or without its fuse, is caught by what is promised of a cancelled operation."""

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import pytest
import trio
import trio.testing

from keeping import SERVER, TTID, new_disk, timelines_on
from walkeeper.membership import NO_GENERATION
from walkeeper.messages import VoteRequest
from walkeeper.terms import Term
from walkeeper.testing.offload import InlineOffload
from walkeeper.timeline import timeline as timeline_module
from walkeeper.timeline.timeline import Fuse

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

SLOW = 5.0


class CarelessOffload(InlineOffload):
    """Lets cancellations in, before and after the disk has done its work."""

    is_careless = False

    async def __call__(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        if not self.is_careless:
            return await super().__call__(function, *args)
        await trio.sleep(SLOW)
        result = function(*args)
        await trio.sleep(SLOW)
        return result


class Unshielded:
    """Trio, but nothing is shielded."""

    def __getattr__(self, name: str) -> object:
        return getattr(trio, name)

    def CancelScope(self, *, shield: bool) -> trio.CancelScope:
        return trio.CancelScope()


async def cancel_a_vote(after_seconds: float) -> None:
    """Cancel a vote; then memory and disk must agree, whichever way."""
    disk, offload = new_disk(), CarelessOffload()
    async with timelines_on(disk, offload) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        offload.is_careless = True
        with trio.move_on_after(after_seconds):
            await timeline.process(VoteRequest(NO_GENERATION, Term(7)))
        offload.is_careless = False
        in_memory = timeline.statistics().state
        disk.crash(0)
    async with timelines_on(disk) as timelines:
        on_disk = timelines.get(TTID).require_state()
    assert in_memory is not None, "the fuse has blown"
    assert in_memory.term == on_disk.term


@pytest.mark.parametrize("after_seconds", [0.5 * SLOW, 1.5 * SLOW])
async def test_a_shield_that_is_missing_is_caught(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, after_seconds: float
) -> None:
    await cancel_a_vote(after_seconds)

    monkeypatch.setattr(timeline_module, "trio", Unshielded())
    with pytest.raises(AssertionError):
        await cancel_a_vote(after_seconds)


async def test_a_fuse_that_does_not_blow_is_caught(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without shield and fuse, memory stays behind a disk that has already given the vote."""

    monkeypatch.setattr(timeline_module, "trio", Unshielded())
    monkeypatch.setattr(Fuse, "__exit__", lambda *_: None)
    with pytest.raises(AssertionError, match="term"):
        await cancel_a_vote(1.5 * SLOW)
