"""Cancellation at every moment of every operation: it has not begun, or it is complete, in memory and on disk.

What is cancelled: the connection that asked, all users of the timeline, and the whole daemon.
"""

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
import trio.testing

from keeping import SERVER, START, TTID, new_disk
from stories import GREETING, MESSAGES, Story, append_over_a_segment_end, vote
from tortured import (
    JOB_SECONDS,
    Keeper,
    Writer,
    check_disk_agrees,
    check_serves_on,
    keeper_on,
)
from walkeeper.acceptor.administration import BumpTerm
from walkeeper.ids import TenantTimelineId, TimelineId
from walkeeper.messages import ProposerMessage
from walkeeper.testing.cancellation import Victim, cancel_everywhere, interrupt_everywhere
from walkeeper.testing.memory_disk import MemoryDisk
from walkeeper.testing.offload import InlineOffload
from walkeeper.timeline import timeline as timeline_module

OTHER_TTID = TenantTimelineId(TTID.tenant_id, TimelineId(b"o" * 16))


CANCELS: dict[str, Callable[[Keeper], None]] = {
    "connection": Keeper.cancel_connection,
    "timeline": Keeper.cancel_timeline,
    "daemon": Keeper.cancel_daemon,
}


async def live_through(story: Story, cancel: Callable[[Keeper], None], victim: Victim) -> None:
    """Tell the story, be interrupted in its second part, and see that all is well."""
    disk, leaders = new_disk(), list(story.leaders)
    async with keeper_on(disk) as keeper:
        async with keeper.talk() as talk:
            await talk.say(*story.before)
            await talk.hear_all(story.before)
            with victim.exposed(partial(cancel, keeper)):
                await talk.say(*story.then)
                for _ in range(story.replies):
                    await talk.hear()
        await trio.testing.wait_all_tasks_blocked()
        assert all(timeline.statistics().state for timeline in keeper.timelines.all()), "a fuse has blown"
        await trio.sleep(100 * JOB_SECONDS)
        if not keeper.scope.cancelled_caught:
            check_nobody_is_left(keeper)
            check_disk_agrees(keeper)
            await check_serves_on(keeper, leaders)
    disk.crash(0)
    async with keeper_on(disk) as keeper:
        check_disk_agrees(keeper)
        await check_serves_on(keeper, leaders)


def check_nobody_is_left(keeper: Keeper) -> None:
    """Connections that ended have left the registry."""
    for timeline in keeper.timelines.all():
        assert timeline.registry.receivers() == ()
        assert timeline.registry.senders() == ()


@pytest.mark.parametrize("whose", CANCELS)
@pytest.mark.parametrize("story", MESSAGES)
def test_what_is_cancelled_has_not_begun_or_is_complete(story: Callable[[], Story], whose: str) -> None:
    report = cancel_everywhere(lambda victim: live_through(story(), CANCELS[whose], victim))
    assert report.moments >= 4  # it arrives, goes to the disk, comes back, is answered


# -- operations that nobody asks for over a connection -------------------------------------------------------


async def make_another(keeper: Keeper) -> None:
    await keeper.timelines.create(OTHER_TTID, SERVER)


async def save(keeper: Keeper) -> None:
    await keeper.timeline.save_if_ahead()


async def read(keeper: Keeper) -> None:
    with await keeper.timeline.open_segment(START) as segment:
        await keeper.timeline.read(segment, START, memoryview(bytearray(100)))


async def bump_term(keeper: Keeper) -> None:
    await keeper.timeline.administer(BumpTerm())


async def do_and_be_cancelled(operation: Callable[[Keeper], Awaitable[None]], victim: Victim) -> None:
    disk, writer = new_disk(), Writer(1)
    leaders = [writer]
    async with keeper_on(disk) as keeper:
        async with keeper.talk() as talk:
            first: list[ProposerMessage] = [
                GREETING,
                writer.vote(),
                writer.elected(),
                *writer.write(300),
                writer.commit(),
            ]
            then: list[ProposerMessage] = [
                *writer.write(300),
                writer.commit(),
            ]  # the second commit stays in memory
            await talk.say(*first, *then)
            await talk.hear_all([*first, *then])
        with victim.exposed():
            await operation(keeper)
        await trio.sleep(100 * JOB_SECONDS)
        check_disk_agrees(keeper)
        await check_serves_on(keeper, leaders)
        await make_another(keeper)
    disk.crash(0)
    async with keeper_on(disk) as keeper:
        check_disk_agrees(keeper)
        assert keeper.timelines.ttids() == sorted([TTID, OTHER_TTID])
        assert not keeper.timelines.shut()


@pytest.mark.parametrize("operation", [make_another, save, read, bump_term])
def test_an_operation_that_is_cancelled_has_not_begun_or_is_complete(
    operation: Callable[[Keeper], Awaitable[None]],
) -> None:
    report = cancel_everywhere(partial(do_and_be_cancelled, operation))
    assert report.moments >= 2


async def be_interrupted(victim: Victim) -> None:
    """Ctrl-C; afterwards only the disk is left to speak."""
    disk, story = new_disk(), append_over_a_segment_end()
    try:
        await live_through_interrupt(story, disk, victim)
    except* KeyboardInterrupt:
        pass
    disk.end_process()
    leaders = list(story.leaders)
    async with keeper_on(disk) as keeper:
        check_disk_agrees(keeper)
        await check_serves_on(keeper, leaders)


async def live_through_interrupt(story: Story, disk: MemoryDisk, victim: Victim) -> None:
    async with keeper_on(disk) as keeper, keeper.talk() as talk:
        await talk.say(*story.before)
        await talk.hear_all(story.before)
        with victim.exposed():
            await talk.say(*story.then)
            await talk.hear()


def test_ctrl_c_at_any_moment_leaves_a_timeline_that_can_be_read_and_goes_on() -> None:
    assert interrupt_everywhere(be_interrupted).moments >= 4


# -- those who would be careless -----------------------------------------------------------------------------


class Unshielded:
    """Trio, but nothing is shielded."""

    def __getattr__(self, name: str) -> object:
        return getattr(trio, name)

    def CancelScope(self, *, shield: bool = False) -> trio.CancelScope:
        return trio.CancelScope()


async def sleep_carelessly(_offload: InlineOffload) -> None:
    await trio.sleep(JOB_SECONDS)


def test_an_operation_without_its_shield_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline_module, "trio", Unshielded())
    monkeypatch.setattr(InlineOffload, "_pass_time", sleep_carelessly)
    with pytest.RaisesGroup(AssertionError, flatten_subgroups=True):
        cancel_everywhere(lambda victim: live_through(vote(), Keeper.cancel_connection, victim))
