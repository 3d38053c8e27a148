"""A keeper is ready when it has what the others know to be committed, and nobody's silence makes it unready."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from itertools import product
from typing import Any

import pytest
import structlog
import trio
from trio.testing import MockClock

from keeping import SERVER, START, TTID, Leader, new_disk, timelines_on
from walkeeper.control.catching_up import (
    HEARING_SECONDS,
    PATIENCE_SECONDS,
    SHOWN_MAX,
    STARTING_SECONDS,
    CatchingUp,
)
from walkeeper.control.neighbours import Neighbour
from walkeeper.control.positions import KeeperPositionsJson, TimelinePositionsJson
from walkeeper.ids import NodeId, TenantId, TenantTimelineId, TimelineId
from walkeeper.links.address import HttpAddress
from walkeeper.lsn import Lsn, format_lsn
from walkeeper.membership import Configuration, Generation, Member, majority
from walkeeper.timeline.timelines import Timelines
from walkeeper.timeline.tombstones import REMEMBERED_SECONDS

US = 3
FAR = Lsn(START + 50_000)


def told(commit_lsn: Lsn, ttid: TenantTimelineId = TTID, **changes: Any) -> TimelinePositionsJson:
    fields: dict[str, Any] = {
        "start_lsn": format_lsn(START),
        "commit_term": 1,
        "is_whole": True,
        "generation": 0,
        "members": [],
    }
    lsn = format_lsn(commit_lsn)
    return TimelinePositionsJson(
        str(ttid.tenant_id), str(ttid.timeline_id), flush_lsn=lsn, commit_lsn=lsn, **fields | changes
    )


def other(number: int, *timelines: TimelinePositionsJson, state: Any = "serving", trouble: str = "") -> Neighbour:
    said = KeeperPositionsJson(number, f"i{number}", state, True, True, True, list(timelines))
    return Neighbour(HttpAddress(f"k{number}", 7676), said, trouble, None if state == "starting" else timelines)


def silent(number: int) -> Neighbour:
    return Neighbour(HttpAddress(f"k{number}", 7676), None, "Connection refused")


@pytest.fixture
async def timelines() -> AsyncIterator[Timelines]:
    async with timelines_on(new_disk()) as made:
        yield made


async def written(timelines: Timelines) -> tuple[Leader, Lsn]:
    """A timeline here that is whole, and where its WAL ends."""
    leader = Leader(await timelines.create(TTID, SERVER))
    await leader.be_elected()
    reply = await leader.append()
    await leader.append(0, commit=reply.flush_lsn)
    state = leader.timeline.require_state()
    return leader, state.flush_lsn


async def until_here(leader: Leader, lsn: Lsn) -> Lsn:
    while (end := (await leader.append()).flush_lsn) < lsn:
        pass
    return end


async def problem_after(
    state: CatchingUp, timelines: Timelines, others: Sequence[Neighbour], seconds: float = 0
) -> str:
    await trio.sleep(seconds)
    await state.judge(others, timelines)
    return state.problem


async def test_a_keeper_that_lacks_committed_wal_is_not_ready_until_it_is_here_and_says_what(
    timelines: Timelines,
    autojump_clock: MockClock,
) -> None:
    leader, end = await written(timelines)
    state = CatchingUp(US)
    others = [other(1, told(FAR)), other(2, told(Lsn(FAR - 8)))]
    with structlog.testing.capture_logs() as logs:
        said = await problem_after(state, timelines, others)
        assert said == f"keeper 1 has {format_lsn(FAR)} of {TTID} as committed, here is {format_lsn(end)}"
        assert await problem_after(state, timelines, others, 1) == said
        await until_here(leader, FAR)
        assert await problem_after(state, timelines, others, 1) == ""
    assert [line["event"] for line in logs] == [
        "behind the other keepers: not ready",
        "caught up with the other keepers",
    ]


async def test_who_has_other_wal_than_what_is_committed_has_not_caught_up_however_long_it_is(
    timelines: Timelines, autojump_clock: MockClock
) -> None:
    leader, end = await written(timelines)
    await until_here(leader, FAR)
    others = [other(1, told(end, commit_term=2)), other(2)]
    said = await problem_after(CatchingUp(US), timelines, others)
    assert said.endswith("as committed, here is WAL of another term: 1, not 2")
    assert await problem_after(CatchingUp(US), timelines, [other(1, told(end)), other(2)]) == ""


async def test_a_timeline_that_is_missing_here_is_wal_that_is_missing(
    timelines: Timelines, autojump_clock: MockClock
) -> None:
    state = CatchingUp(US)
    said = await problem_after(state, timelines, [other(1, told(FAR)), other(2)])
    assert said == f"keeper 1 has {format_lsn(FAR)} of {TTID} as committed, which cannot be used here"
    leader, _ = await written(timelines)
    await until_here(leader, FAR)
    assert await problem_after(state, timelines, [other(1, told(FAR)), other(2)], 1) == ""


async def test_a_timeline_that_is_not_whole_here_is_behind_though_its_wal_is_here(
    timelines: Timelines, autojump_clock: MockClock
) -> None:
    await timelines.create(TTID, SERVER, start_lsn=FAR, commit_lsn=FAR)
    said = await problem_after(CatchingUp(US), timelines, [other(1, told(FAR, commit_term=0)), other(2)])
    assert said.endswith(f"here is {format_lsn(FAR)}, not whole")


def configured(*numbers: int, generation: int = 4) -> Configuration:
    return Configuration(Generation(generation), tuple(Member(NodeId(each), f"k{each}", 5454) for each in numbers))


@pytest.mark.parametrize(
    ("told_of", "is_missed"),
    [
        (told(FAR), True),
        (told(FAR, generation=4, members=[1, 2, US]), True),
        (told(FAR, generation=4, members=[1, 2]), False),
        (told(START), False),
        (told(Lsn(0), start_lsn="0/0"), False),
    ],
    ids=["of no configuration", "as a member", "not as a member", "nothing committed", "no WAL"],
)
async def test_a_timeline_has_to_be_here_if_we_are_one_of_its_keepers_and_something_is_committed(
    timelines: Timelines, autojump_clock: MockClock, told_of: TimelinePositionsJson, is_missed: bool
) -> None:
    assert bool(await problem_after(CatchingUp(US), timelines, [other(1, told_of), other(2)])) is is_missed


async def test_the_newest_configuration_counts_whoever_has_it(
    timelines: Timelines, autojump_clock: MockClock
) -> None:
    await timelines.create(TTID, SERVER, configuration=configured(1, 2, US))
    mine = told(FAR, generation=3, members=[1, 2])
    newer = told(START, generation=5, members=[1, 2])
    assert await problem_after(CatchingUp(US), timelines, [other(1, mine), other(2)])
    assert not await problem_after(CatchingUp(US), timelines, [other(1, mine), other(2, newer)])


async def test_what_was_deleted_here_is_not_missed(timelines: Timelines, autojump_clock: MockClock) -> None:
    await timelines.delete(TTID)
    assert await problem_after(CatchingUp(US), timelines, [other(1, told(FAR)), other(2)]) == ""


async def test_what_was_deleted_here_is_not_missed_either_when_the_tombstone_is_gone_unless_it_is_made_again(
    timelines: Timelines, autojump_clock: MockClock
) -> None:
    await timelines.delete(TTID)
    others = [other(1, told(FAR)), other(2)]
    state = CatchingUp(US)
    for seconds in (0, REMEMBERED_SECONDS, PATIENCE_SECONDS):
        assert await problem_after(state, timelines, others, seconds) == ""
    await written(timelines)
    assert await problem_after(state, timelines, others, 1) == ""
    assert await problem_after(state, timelines, others, PATIENCE_SECONDS) != ""


async def test_what_nobody_tells_of_any_more_is_not_waited_for(
    timelines: Timelines, autojump_clock: MockClock
) -> None:
    state = CatchingUp(US)
    assert await problem_after(state, timelines, [other(1, told(FAR)), other(2)])
    assert await problem_after(state, timelines, [other(1), other(2)], 1) == ""


async def test_a_keeper_that_keeps_up_with_some_delay_is_never_unready(
    timelines: Timelines, autojump_clock: MockClock
) -> None:
    leader, end = await written(timelines)
    state = CatchingUp(US)
    assert await problem_after(state, timelines, [other(1, told(end)), other(2)]) == ""
    ahead = end
    for _ in range(30):
        was_ahead, ahead = ahead, Lsn(ahead + 2_000)
        assert await problem_after(state, timelines, [other(1, told(ahead)), other(2)], 10) == ""
        await until_here(leader, was_ahead)


async def test_one_that_stays_behind_is_unready_after_its_patience_and_ready_when_it_has_kept_up_again(
    timelines: Timelines,
    autojump_clock: MockClock,
) -> None:
    leader, end = await written(timelines)
    state = CatchingUp(US)
    assert await problem_after(state, timelines, [other(1, told(end)), other(2)]) == ""
    others = [other(1, told(FAR)), other(2)]
    assert await problem_after(state, timelines, others, 10) == ""
    assert await problem_after(state, timelines, others, PATIENCE_SECONDS - 0.1) == ""
    assert await problem_after(state, timelines, others, 0.2) != ""
    now = await until_here(leader, FAR)
    later = [other(1, told(Lsn(now + 1_000))), other(2)]
    assert await problem_after(state, timelines, later, 1) != "", "what was written meanwhile is not a moment's"
    await until_here(leader, Lsn(now + 1_000))
    assert await problem_after(state, timelines, later, 1) == ""


async def test_at_the_start_hours_of_wal_and_what_was_written_in_those_have_to_be_here(
    timelines: Timelines,
    autojump_clock: MockClock,
) -> None:
    leader, _ = await written(timelines)
    state = CatchingUp(US)
    target = FAR
    for _ in range(3):
        assert await problem_after(state, timelines, [other(1, told(target)), other(2)], PATIENCE_SECONDS) != ""
        now = await until_here(leader, target)
        target = Lsn(now + 10_000)
    assert await problem_after(state, timelines, [other(1, told(target)), other(2)], PATIENCE_SECONDS) != ""
    now = await until_here(leader, target)
    assert await problem_after(state, timelines, [other(1, told(Lsn(now + 1_000))), other(2)], 1) == ""


async def test_a_timeline_that_has_been_caught_up_with_does_not_hold_up_the_start_again(
    timelines: Timelines, autojump_clock: MockClock
) -> None:
    _, end = await written(timelines)
    state = CatchingUp(US)
    elsewhere = TenantTimelineId(TenantId(b"u" * 16), TimelineId(b"l" * 16))
    others = [other(1, told(end), told(FAR, elsewhere)), other(2)]
    assert str(elsewhere) in await problem_after(state, timelines, others)
    assert await problem_after(state, timelines, [other(1, told(Lsn(end + 8))), other(2)], 1) == ""


async def test_a_timeline_that_comes_back_has_its_time_anew(
    timelines: Timelines, autojump_clock: MockClock
) -> None:
    state = CatchingUp(US)
    for _ in range(2):
        assert await problem_after(state, timelines, [other(1), other(2)], PATIENCE_SECONDS) == ""
        assert await problem_after(state, timelines, [other(1, told(FAR)), other(2)], 1) == ""


async def test_a_timeline_that_comes_later_has_its_time(timelines: Timelines, autojump_clock: MockClock) -> None:
    state = CatchingUp(US)
    assert await problem_after(state, timelines, [other(1), other(2)]) == ""
    others = [other(1, told(FAR)), other(2)]
    assert await problem_after(state, timelines, others, 100) == ""
    assert await problem_after(state, timelines, others, PATIENCE_SECONDS) != ""


async def test_all_others_have_to_be_heard_at_the_start_but_not_for_ever(
    timelines: Timelines, autojump_clock: MockClock
) -> None:
    for others, heard in (([silent(1), silent(2)], 1), ([other(1), silent(2)], 2)):
        state = CatchingUp(US)
        with structlog.testing.capture_logs() as logs:
            assert await problem_after(state, timelines, others) == "not yet"
            assert state.silence.startswith(f"{heard} of 3 keepers are heard, this one included: ")
            assert "k2:7676: Connection refused" in state.silence
            assert await problem_after(state, timelines, others, HEARING_SECONDS - 0.1) != ""
            assert (await problem_after(state, timelines, others, 0.2), state.silence) == ("", "")
        assert [line["log_level"] for line in logs] == ["warning", "info"]
    assert await problem_after(CatchingUp(US), timelines, [other(1), other(2)]) == ""


async def test_who_is_starting_is_waited_for_longer_but_not_for_ever(
    timelines: Timelines, autojump_clock: MockClock
) -> None:
    begins, comes = [other(1, state="starting"), silent(2)], [other(1, told(FAR)), silent(2)]
    state = CatchingUp(US)
    for others, seconds in (
        (begins, HEARING_SECONDS + 1),
        ([silent(1), silent(2)], HEARING_SECONDS - 1),
        (comes, 0),
    ):
        assert await problem_after(state, timelines, others, seconds) == "not yet"
        assert ("keeper 1 (k1:7676): starting" in state.silence) is (others is begins)
    assert f"{TTID} as committed" in await problem_after(state, timelines, comes, 2)
    state, began = CatchingUp(US), trio.current_time()
    while await problem_after(state, timelines, begins, 1):
        pass
    assert trio.current_time() - began == pytest.approx(STARTING_SECONDS + HEARING_SECONDS, abs=2)


async def test_what_a_keeper_tells_when_it_is_first_heard_has_to_be_reached_however_late_that_is(
    timelines: Timelines, autojump_clock: MockClock
) -> None:
    leader, end = await written(timelines)
    for before in ([silent(1), silent(2)], [other(1, told(end)), silent(2)]):
        state = CatchingUp(US)
        await problem_after(state, timelines, before)
        assert await problem_after(state, timelines, before, HEARING_SECONDS) == ""
        after = [before[0], other(2, told(FAR))]
        assert f"keeper 2 has {format_lsn(FAR)}" in await problem_after(state, timelines, after, 10)
        assert await problem_after(state, timelines, [before[0], other(2, told(Lsn(2 * FAR)))], 1) != ""
    await until_here(leader, FAR)
    assert await problem_after(state, timelines, after, 1) == ""


async def test_first_words_are_added_to_what_has_to_be_reached(
    timelines: Timelines, autojump_clock: MockClock
) -> None:
    leader, end = await written(timelines)
    for far, first in ((FAR, end + 1_000), (end + 1_000, FAR)):
        state = CatchingUp(US)
        await problem_after(state, timelines, [other(1, told(end)), silent(2)])
        assert await problem_after(state, timelines, [other(1, told(end)), silent(2)], HEARING_SECONDS) == ""
        assert await problem_after(state, timelines, [other(1, told(Lsn(far))), silent(2)], 1) == ""
        others = [other(1, told(Lsn(far))), other(2, told(Lsn(first)))]
        assert format_lsn(FAR) in await problem_after(state, timelines, others, 1)
    await until_here(leader, FAR)
    assert await problem_after(state, timelines, others, 1) == ""


async def test_a_keeper_alone_is_ready_at_once(timelines: Timelines, autojump_clock: MockClock) -> None:
    assert await problem_after(CatchingUp(US), timelines, []) == ""


async def test_a_keeper_that_falls_silent_changes_nothing(timelines: Timelines, autojump_clock: MockClock) -> None:
    leader, end = await written(timelines)
    for lsn, is_behind in ((end, False), (FAR, True)):
        state = CatchingUp(US)
        assert bool(await problem_after(state, timelines, [other(1, told(lsn)), other(2)])) is is_behind
        gone = [other(1, told(lsn), trouble="Connection refused"), silent(2)]
        for _ in range(10):
            assert bool(await problem_after(state, timelines, gone, 10)) is is_behind
        await until_here(leader, lsn)
        assert await problem_after(state, timelines, gone, 10) == ""


async def test_a_timeline_that_was_deleted_and_made_again_has_to_be_reached_where_it_is_now(
    timelines: Timelines,
    autojump_clock: MockClock,
) -> None:
    _, end = await written(timelines)
    state = CatchingUp(US)
    assert await problem_after(state, timelines, [other(1, told(FAR)), other(2)]) != ""
    assert await problem_after(state, timelines, [other(1, told(end)), other(2)], 1) == ""


async def test_of_many_timelines_a_few_are_named_and_the_others_counted_and_other_tasks_run(
    timelines: Timelines,
    autojump_clock: MockClock,
) -> None:
    many = [
        TenantTimelineId(TenantId(number.to_bytes(16, "big")), TimelineId(b"l" * 16)) for number in range(1_000)
    ]
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        state = CatchingUp(US)
        said = await problem_after(state, timelines, [other(1, *(told(FAR, ttid) for ttid in many)), other(2)])
        nursery.cancel_scope.cancel(reason="seen")
    assert said.endswith(f"; and {1_000 - SHOWN_MAX} more")
    assert said.count("keeper 1 has") == SHOWN_MAX
    assert turns >= 18


LENGTHS = 3


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
async def test_at_most_a_minority_is_unready_since_what_is_committed_is_on_a_majority(
    size: int, autojump_clock: MockClock
) -> None:
    """However much WAL each keeper has, where what is committed is on a majority and nobody knows of more than that."""
    async with AsyncExitStack() as stack:
        ends: list[Lsn] = []
        places: list[Timelines] = []
        for appends in range(LENGTHS):
            places.append(await stack.enter_async_context(timelines_on(new_disk())))
            leader, end = await written(places[-1])
            for _ in range(appends):
                end = (await leader.append()).flush_lsn
            ends.append(end)
        worst = 0
        for lengths in product(range(LENGTHS), repeat=size):
            commit_lsn = sorted((ends[each] for each in lengths), reverse=True)[majority(size) - 1]
            said = [told(min(commit_lsn, ends[each])) for each in lengths]
            unready = 0
            for us, length in enumerate(lengths):
                state = CatchingUp(us)
                others = [other(number, each) for number, each in enumerate(said) if number != us]
                await state.judge(others, places[length])
                unready += bool(state.problem)
            worst = max(worst, unready)
    assert worst == size - majority(size)
