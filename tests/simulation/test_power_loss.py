"""Loss of power at every operation of a keeper's disk: what was promised is there, and the timeline serves on.

Before the loss a keeper was told a story; after it, the same leader finishes, or a new one goes on.
"""

from collections.abc import Awaitable, Callable
from copy import deepcopy
from functools import partial

import pytest
import trio

from keeping import SAVE_SECONDS, SERVER, TTID, new_disk
from promises import DIRECTORY, Promises, check_kept, check_started, check_tidy, read_file
from stories import GREETING, MESSAGES, Story, append_over_a_segment_end, led_by
from tortured import Keeper, Talk, Writer, check_serves_on, keeper_on
from walkeeper.acceptor.state import AcceptorState
from walkeeper.errors import FileMissing
from walkeeper.ids import TenantTimelineId, TimelineId
from walkeeper.messages import ProposerElected, ProposerMessage, VoteRequest, VoteResponse
from walkeeper.storage.recovery import CONTROL_FILE, recover
from walkeeper.terms import highest_common_point
from walkeeper.testing.memory_disk import MemoryDisk
from walkeeper.testing.power_loss import Power, lose_power_everywhere

pytestmark = pytest.mark.usefixtures("steady_clocks")

OTHER_TTID = TenantTimelineId(TTID.tenant_id, TimelineId(b"o" * 16))


async def say(talk: Talk, promises: Promises, messages: list[ProposerMessage]) -> None:
    promises.hear_said(messages)
    await talk.say(*messages)
    await talk.hear_all(messages)


async def live_through(story: Story, power: Power) -> None:
    """Tell the story and let upkeep do its work; in its second part power may be lost."""
    disk, promises = new_disk(), Promises(list(story.leaders))
    await tell(story, disk, promises, power)
    for survivor in power.survivors(*promises.all()):
        if promises.leaders:
            await check(deepcopy(survivor), promises.copy(), check_leader_finishes)
        await check(survivor, promises.copy(), check_new_leader)


async def tell(story: Story, disk: MemoryDisk, promises: Promises, power: Power) -> None:
    with power.on(disk):
        async with keeper_on(disk) as keeper:
            promises.listen_to(keeper)
            async with keeper.talk() as talk:
                await say(talk, promises, [*story.before])
                power.may_go()
                await say(talk, promises, [*story.then])
                await trio.sleep(SAVE_SECONDS + 10)


async def check(
    disk: MemoryDisk, promises: Promises, check_goes_on: Callable[[Keeper, Promises], Awaitable[None]]
) -> None:
    """A keeper that starts on what is left keeps its promises, serves on, and loses nothing of that either."""
    before = control_file(disk)
    async with keeper_on(disk) as keeper:
        assert control_file(disk) == before  # invariant 34
        check_started(keeper, promises)
        promises.listen_to(keeper)
        await check_goes_on(keeper, promises)
        check_tidy(disk, keeper.timeline.require_state().wal.flush_lsn)
        promises.asked_term = keeper.timeline.require_state().term
    disk.crash(0)
    check_kept(disk, read_again(disk), promises)
    assert promises.flush_lsn == promises.leaders[-1].wal.lsn


def read_again(disk: MemoryDisk) -> AcceptorState:
    found = recover(disk, DIRECTORY)
    return AcceptorState.recovered(found.control_file, found.end_lsn, found.tli, is_whole=found.is_whole)


async def check_new_leader(keeper: Keeper, promises: Promises) -> None:
    await check_serves_on(keeper, promises.leaders)


async def check_leader_finishes(keeper: Keeper, promises: Promises) -> None:
    """The leader that was interrupted comes back, asks again, and sends what is missing."""
    leader, said_term = promises.leaders[-1], promises.term
    async with keeper.talk() as talk:
        await talk.say(GREETING, VoteRequest(leader.generation, leader.term))
        await talk.hear()
        vote = await talk.hear()
        assert isinstance(vote, VoteResponse)
        assert not (vote.vote_given and leader.term <= said_term)  # invariants 2 and 4
        common = highest_common_point(leader.history, vote.term_history, vote.flush_lsn)
        start = common.lsn if common else leader.history.entries[0].lsn
        await talk.say(ProposerElected(leader.generation, leader.term, start, leader.history), *leader.rest(start))
        await talk.hear_flushed(leader.wal.lsn)
        return
    raise AssertionError("the keeper ended the conversation")


def control_file(disk: MemoryDisk) -> bytes | None:
    try:
        return read_file(disk, CONTROL_FILE)
    except FileMissing:
        return None


@pytest.mark.parametrize("story", MESSAGES)
def test_what_was_promised_survives_a_loss_of_power_at_any_operation(story: Callable[[], Story]) -> None:
    """Hazards W1, W3 to W5, W7 to W9, T1 to T5, C1, C2, C4, C5 and 2.9: all that a crash can leave of them on disk.

    W7 and C4 are WAL and votes that were kept and not told: they may be there, and harm nobody.
    """
    report = lose_power_everywhere(lambda power: live_through(story(), power), survivors=range(4))
    assert report.losses >= 3 <= report.survivors


# -- starting, and what nobody asks for over a connection -----------------------------------------------------


async def make_another(keeper: Keeper) -> None:
    await keeper.timelines.create(OTHER_TTID, SERVER)


async def close(keeper: Keeper) -> None:
    """As a shutdown does: what runs ahead of the control file is saved."""
    await keeper.timelines.close()


async def do_without_power(operation: Callable[[Keeper], Awaitable[None]], power: Power) -> None:
    disk, writer, done = new_disk(), Writer(1), False
    promises = Promises([writer])
    with power.on(disk):
        async with keeper_on(disk) as keeper:
            promises.listen_to(keeper)
            async with keeper.talk() as talk:
                await say(talk, promises, [*led_by(writer), writer.commit(), *writer.write(300), writer.commit()])
                power.may_go()
                await operation(keeper)
                done = True
    for survivor in power.survivors(done, *promises.all()):
        await check(survivor, promises.copy(), partial(check_others, operation, done))


async def check_others(
    operation: Callable[[Keeper], Awaitable[None]], done: bool, keeper: Keeper, promises: Promises
) -> None:
    """What was done is there, and what was not can be done now."""
    if operation is make_another:
        assert not done or OTHER_TTID in keeper.timelines.ttids()
        await make_another(keeper)
        assert keeper.timelines.ttids() == sorted([TTID, OTHER_TTID])
    else:
        state = keeper.timeline.require_state()
        assert not done or state.kept.commit_lsn == promises.leaders[-1].wal.lsn
    await check_new_leader(keeper, promises)


@pytest.mark.parametrize("operation", [make_another, close])
def test_an_operation_that_loses_its_power_is_done_or_can_be_done_again(
    operation: Callable[[Keeper], Awaitable[None]],
) -> None:
    assert lose_power_everywhere(partial(do_without_power, operation)).losses >= 6


def torn_disks(story: Callable[[], Story]) -> list[tuple[MemoryDisk, Promises]]:
    """What some losses of power leave, torn, and what was promised before each."""
    torn: list[tuple[MemoryDisk, Promises]] = []

    async def tear(power: Power) -> None:
        told, disk = story(), new_disk()
        promises = Promises(list(told.leaders))
        await tell(told, disk, promises, power)
        torn.extend((survivor, promises.copy()) for survivor in power.survivors(*promises.all()))

    lose_power_everywhere(tear, survivors=[2])
    return torn[1::4]


async def start_without_power(torn: MemoryDisk, promises: Promises, power: Power) -> None:
    disk = deepcopy(torn)
    with power.on(disk):
        power.may_go()
        async with keeper_on(disk) as keeper:
            check_started(keeper, promises)
            await trio.sleep(SAVE_SECONDS + 10)
    for survivor in power.survivors():
        await check(survivor, promises.copy(), check_new_leader)


def test_power_may_be_lost_again_while_what_is_left_is_read() -> None:
    torn = torn_disks(append_over_a_segment_end)
    assert len(torn) >= 2
    for disk, promises in torn:
        report = lose_power_everywhere(partial(start_without_power, disk, promises), survivors=[0, 2])
        assert report.losses >= 6


def test_power_may_be_lost_while_a_data_directory_is_used_for_the_first_time() -> None:
    async def scenario(power: Power) -> None:
        disk = new_disk()
        with power.on(disk):
            power.may_go()
            async with keeper_on(disk):
                pass
        for survivor in power.survivors():
            async with keeper_on(survivor) as keeper:
                await check_serves_on(keeper, [])

    lose_power_everywhere(scenario)
