"""A timeline without its shield, or without its fuse, is caught by what is promised of a cancelled operation."""

import threading
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import pytest
import trio
import trio.testing

from keeping import SERVER, TTID, new_disk, timelines_on
from sabotage.defect import defect
from unit.timeline import test_timeline as scenes
from walkeeper.acceptor.acceptor import Intent, Kept
from walkeeper.acceptor.administration import AdminRequest
from walkeeper.lsn import Lsn
from walkeeper.membership import NO_GENERATION
from walkeeper.messages import Batch, VoteRequest
from walkeeper.storage.offload import Offload, ThreadOffload
from walkeeper.storage.store import TimelineStore
from walkeeper.terms import Term
from walkeeper.testing.offload import InlineOffload
from walkeeper.timeline import timeline as timeline_module
from walkeeper.timeline.progress import Position, Progress
from walkeeper.timeline.timeline import Fuse, Timeline

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


@defect
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


@defect
def do_not_blow(fuse: Fuse, *_error: object) -> None:
    """An operation that ended nobody knows how leaves the timeline in use."""


async def test_a_fuse_that_does_not_blow_is_caught(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without shield and fuse, memory stays behind a disk that has already given the vote."""

    monkeypatch.setattr(timeline_module, "trio", Unshielded())
    monkeypatch.setattr(Fuse, "__exit__", do_not_blow)
    with pytest.raises(AssertionError, match="term"):
        await cancel_a_vote(1.5 * SLOW)


@defect
async def process_in_many_hops(timeline: Timeline, request: Batch | AdminRequest) -> Kept:
    """Each effect of a decision is a hop of its own, and shielded, but not what is between them."""
    intent = timeline._require_open().decide(request)
    for effect in intent.effects:
        with trio.CancelScope(shield=True), timeline._fuse:
            await timeline._offload(timeline._store.perform, effect)
        await trio.lowlevel.checkpoint()
    kept = Intent((), intent._kept).keep(timeline._store)
    timeline._acceptor = kept.acceptor
    timeline.progress.publish(Position.of(kept.acceptor.state))
    return kept


async def test_two_hops_for_one_decision_are_caught(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Timeline, "_process", process_in_many_hops)
    with pytest.raises(AssertionError, match="term"):
        await cancel_a_vote(0.5 * SLOW)


@defect
def forget_to_withdraw(progress: Progress, _lsn: Lsn | None) -> None:
    """Readers see WAL that is being truncated."""


async def test_readers_that_see_what_is_being_truncated_are_caught(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Progress, "withdraw", forget_to_withdraw)
    with pytest.RaisesGroup(AssertionError, allow_unwrapped=True, flatten_subgroups=True):
        await scenes.test_readers_lose_sight_of_wal_before_the_disk_does(autojump_clock)


@defect
def begin_without_asking(_store: TimelineStore) -> None:
    """What is half done when descriptors run out stays so."""


async def test_a_timeline_that_does_not_ask_for_descriptors_before_it_begins_is_caught(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = scenes.test_without_descriptors_no_crowd_of_elections_blows_a_fuse
    monkeypatch.setattr(TimelineStore, "require_files", begin_without_asking)
    with pytest.RaisesGroup(AssertionError, allow_unwrapped=True, flatten_subgroups=True):
        await scene(autojump_clock)


@defect
def ask_before_the_job(timeline: Timeline, intent: Intent) -> Callable[[TimelineStore], Kept]:
    """Any number of operations may begin on what is there for a few."""
    timeline._store.require_files()
    return intent.keep


async def test_a_timeline_that_asks_for_descriptors_before_its_job_begins_is_caught(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Timeline, "_job_of", ask_before_the_job)
    with pytest.RaisesGroup(AssertionError, allow_unwrapped=True, flatten_subgroups=True):
        await scenes.test_without_descriptors_no_crowd_of_elections_blows_a_fuse(autojump_clock)


# -- threads --------------------------------------------------------------------------------------------------


@defect
class AbandonsThreads:
    """A caller that is cancelled goes on while its thread still writes (hazards W2 and C3)."""

    async def __call__(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        return await trio.to_thread.run_sync(function, *args, abandon_on_cancel=True)


async def cancel_a_write(offload: Offload) -> None:
    """Whoever is cancelled while its thread runs must not go on before the thread is done."""
    begun, may_end, ended, order = threading.Event(), threading.Event(), threading.Event(), []

    def write() -> None:
        begun.set()
        may_end.wait()
        order.append("the disk has changed")
        ended.set()

    async def call() -> None:
        try:
            await offload(write)
        finally:
            order.append("the caller goes on")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        begun.wait()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
        may_end.set()
    ended.wait()
    assert order == ["the disk has changed", "the caller goes on"]


async def test_a_thread_that_is_abandoned_is_caught() -> None:
    async with ThreadOffload(1) as offload:
        await cancel_a_write(offload)
    with pytest.raises(AssertionError):
        await cancel_a_write(AbandonsThreads())
