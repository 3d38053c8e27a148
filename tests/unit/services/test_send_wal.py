"""What a reader of WAL gets, when, and how its stream ends."""

import math
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from keeping import DATA, SEGMENT, SERVER, START, TTID, Leader
from staged import SEGMENT_START, Stage, end_of, hear_keepalive, hear_until, hear_wal, joined, last_words, on_stage
from streaming import Turns
from walkeeper.errors import Closing, Malformed, OutOfTurn, StorageError, TermChanged, WalNotAvailable
from walkeeper.formats.frontend import CopyDone, CopyFail, Query, Terminate
from walkeeper.formats.replication import PrimaryKeepalive, StandbyStatusUpdate, XLogData
from walkeeper.formats.xlog import PAGE_BYTES, first_segment_headers
from walkeeper.ids import TimelineNumber
from walkeeper.lsn import Lsn
from walkeeper.membership import NO_GENERATION
from walkeeper.messages import (
    HotStandbyFeedback,
    PageserverFeedback,
    ProposerElected,
)
from walkeeper.services.copy_in import SILENCE_SECONDS_MAX, CopyEnd
from walkeeper.services.goodbye import GOODBYE_SECONDS_MAX, CaughtUp, Goodbye
from walkeeper.services.send_wal import (
    MESSAGE_WAL_BYTES_MAX,
    RECOVERY_APPLICATION_NAME,
    STRETCH_BYTES_MAX,
    Bounds,
    require_start,
)
from walkeeper.storage.wal import segment_path
from walkeeper.terms import Term, TermHistory
from walkeeper.testing.memory_disk import Fault
from walkeeper.timeline.registry import Client as ServedClient


@pytest.fixture
async def stage(autojump_clock: MockClock) -> AsyncIterator[Stage]:
    async with on_stage() as stage:
        await stage.leader.be_elected()
        yield stage


# -- what is sent --------------------------------------------------------------------------------------------


async def test_a_client_without_a_term_gets_committed_wal_and_no_more(
    stage: Stage, autojump_clock: MockClock
) -> None:
    committed = await stage.commit()
    await stage.write()
    client = stage.connect(START)
    message = await hear_wal(client)
    assert (message.wal_start, message.wal_end) == (START, committed)
    assert message.wal == stage.wal[: committed - START]
    await hear_keepalive(client)


async def test_wal_is_sent_as_soon_as_it_is_committed(stage: Stage, autojump_clock: MockClock) -> None:
    begin = await stage.commit()
    client = stage.connect(begin)
    await trio.testing.wait_all_tasks_blocked()
    end = await stage.commit()
    before = trio.current_time()
    assert joined(await hear_until(client, end)) == stage.wal[begin - START :]
    assert trio.current_time() == before


async def test_a_client_with_a_term_gets_all_that_is_flushed(stage: Stage, autojump_clock: MockClock) -> None:
    await stage.commit()
    flushed = await stage.write()
    client = stage.connect(START, term=1)
    message = await hear_wal(client)
    assert (message.wal_start, message.wal_end, message.wal) == (START, flushed, stage.wal)
    flushed_later = await stage.write()
    assert (await hear_wal(client)).wal_end == flushed_later


async def test_a_proposer_of_before_terms_were_named_gets_all_that_is_flushed_before_its_election(
    stage: Stage,
    autojump_clock: MockClock,
) -> None:
    flushed = await stage.write()
    await stage.vote(2)
    client = stage.connect(START, name=RECOVERY_APPLICATION_NAME)
    assert joined(await hear_until(client, flushed)) == stage.wal


async def test_such_a_proposer_is_sent_away_by_a_newer_term(stage: Stage, autojump_clock: MockClock) -> None:
    flushed = await stage.write()
    await stage.vote(2)
    client = stage.connect(START, name=RECOVERY_APPLICATION_NAME)
    await hear_until(client, flushed)
    await hear_keepalive(client)
    await stage.vote(3)
    await stage.elect(3, flushed)
    error = await end_of(client)
    assert isinstance(error, TermChanged)


async def test_any_other_name_changes_nothing(stage: Stage, autojump_clock: MockClock) -> None:
    await stage.write()
    client = stage.connect(START, name="walreceiver")
    assert (await hear_keepalive(client)).wal_end == START


async def test_a_stream_may_begin_in_the_middle_of_a_record(stage: Stage, autojump_clock: MockClock) -> None:
    end = await stage.commit()
    client = stage.connect(end - 13)
    assert joined(await hear_until(client, end)) == stage.wal[-13:]


async def test_the_first_segment_is_served_from_its_start(stage: Stage, autojump_clock: MockClock) -> None:
    end = await stage.commit()
    client = stage.connect(SEGMENT_START)
    head, *rest = await hear_until(client, end)
    assert head.wal == first_segment_headers(START, server=SERVER, tli=TimelineNumber(1))
    assert joined(rest) == stage.wal


async def test_large_wal_arrives_whole_in_messages_that_end_with_pages_and_segments(
    stage: Stage, autojump_clock: MockClock
) -> None:
    for _ in range(3):
        await stage.commit(700_000)
    end = await stage.commit()
    messages = await hear_until(stage.connect(START), end)
    assert joined(messages) == stage.wal
    for message in messages[:-1]:
        assert len(message.wal) <= MESSAGE_WAL_BYTES_MAX
        assert (message.wal_start + len(message.wal)) % PAGE_BYTES == 0
        assert message.wal_start // SEGMENT == (message.wal_start + len(message.wal) - 1) // SEGMENT
    assert {message.wal_end for message in messages} == {end}


async def test_several_messages_share_one_read(stage: Stage, autojump_clock: MockClock) -> None:
    end = await stage.commit(STRETCH_BYTES_MAX)
    stage.disk.is_cold = True
    messages = await hear_until(stage.connect(START), end)
    assert (len(messages), stage.hops.reads) == (5, 2)


async def test_wal_that_is_cached_is_read_without_a_thread(stage: Stage, autojump_clock: MockClock) -> None:
    end = await stage.commit(STRETCH_BYTES_MAX)
    assert joined(await hear_until(stage.connect(START), end)) == stage.wal
    assert stage.hops.reads == 0


async def test_wal_is_served_while_an_operation_holds_the_timeline(
    stage: Stage, autojump_clock: MockClock
) -> None:
    committed = await stage.commit()
    async with trio.open_nursery() as nursery:
        stage.hops.seconds = 1000.0
        nursery.start_soon(stage.write)
        await trio.testing.wait_all_tasks_blocked()  # it has the lock and waits for the disk
        stage.hops.seconds = 0.0
        before = trio.current_time()
        assert joined(await hear_until(stage.connect(START), committed)) == stage.wal[: committed - START]
        assert trio.current_time() == before


@given(
    begin=st.integers(SEGMENT_START, START + 3 * SEGMENT),
    available=st.integers(1, 3 * SEGMENT),
    bytes_max=st.sampled_from([MESSAGE_WAL_BYTES_MAX, STRETCH_BYTES_MAX]),
)
def test_a_cut_is_within_its_bounds_and_as_far_as_they_allow(begin: int, available: int, bytes_max: int) -> None:
    end = begin + available
    stop = Bounds(SEGMENT, START).cut(Lsn(begin), Lsn(end), bytes_max)
    assert begin < stop <= min(end, begin + bytes_max)
    assert stop <= (begin // SEGMENT + 1) * SEGMENT
    assert not begin < START < stop
    is_at_a_limit = stop in (end, START) or stop % SEGMENT == 0
    assert is_at_a_limit or (stop % PAGE_BYTES == 0 and begin + bytes_max - stop < PAGE_BYTES)


# -- what is refused -----------------------------------------------------------------------------------------


async def test_a_timeline_without_wal_has_nothing_to_send(autojump_clock: MockClock) -> None:
    async with on_stage() as stage:
        assert isinstance(await end_of(stage.connect(START)), WalNotAvailable)


async def test_wal_of_before_the_first_segment_is_refused(stage: Stage, autojump_clock: MockClock) -> None:
    await stage.commit()
    error = await end_of(stage.connect(SEGMENT_START - 1))
    assert isinstance(error, WalNotAvailable)
    assert error.lsn == SEGMENT_START - 1
    assert stage.hops.reads == 0


async def test_a_keeper_that_joined_later_serves_what_it_has_from_its_own_start(
    stage: Stage, autojump_clock: MockClock
) -> None:
    """The bytes before it, in its first segment, are none of the timeline's."""
    state = stage.timeline.require_state()
    joined_at = Lsn(START + SEGMENT)
    joined_later = replace(state, kept=replace(state.kept, local_start_lsn=joined_at))
    require_start(joined_later, joined_at)
    with pytest.raises(WalNotAvailable):
        require_start(joined_later, Lsn(joined_at - 1))


async def test_wal_is_not_sent_to_whoever_would_write_it_down_under_another_timeline_id(
    stage: Stage, autojump_clock: MockClock
) -> None:
    end = await stage.commit()
    assert joined(await hear_until(stage.connect(START, tli=1), end)) == stage.wal
    for lsn in (START, end, Lsn(end + 1000)):
        assert isinstance(await last_words(stage.connect(lsn, tli=2)), WalNotAvailable)


async def test_nor_is_wal_that_comes_when_the_client_is_already_there(autojump_clock: MockClock) -> None:
    """The first page of a segment says its timeline id, and nobody knows it before."""
    async with on_stage() as stage:
        leader = Leader(stage.timeline, start=Lsn(SEGMENT_START + SEGMENT))
        await leader.be_elected()
        client = stage.connect(leader.wal.start, tli=2)
        await hear_keepalive(client)
        await leader.append()
        await leader.append(commit=leader.wal.lsn)
        await leader.append(commit=leader.wal.lsn)
        assert isinstance(await last_words(client), WalNotAvailable)


async def test_wal_that_is_gone_ends_the_stream(stage: Stage, autojump_clock: MockClock) -> None:
    end = await stage.commit(2 * SEGMENT)
    first = segment_path(DATA / str(TTID.tenant_id) / str(TTID.timeline_id), TimelineNumber(1), START, SEGMENT)
    stage.disk.unlink(first)
    assert isinstance(await end_of(stage.connect(START)), WalNotAvailable)
    assert await hear_until(stage.connect(SEGMENT_START + SEGMENT), end)


async def test_a_disk_that_fails_ends_the_stream(stage: Stage, autojump_clock: MockClock) -> None:
    await stage.commit()
    stage.disk.faults[stage.disk.operations] = Fault.IO_ERROR
    assert isinstance(await end_of(stage.connect(START)), StorageError)


async def test_a_start_beyond_the_end_waits(stage: Stage, autojump_clock: MockClock) -> None:
    committed = await stage.commit()
    client = stage.connect(committed + 300)
    for _ in range(3):
        assert (await hear_keepalive(client)).wal_end == committed
    await stage.write(50)
    end = await stage.commit(500)
    assert joined(await hear_until(client, end)) == stage.wal[committed + 300 - START :]


# -- keepalives ----------------------------------------------------------------------------------------------


async def test_an_idle_client_hears_from_the_keeper_every_second(stage: Stage, autojump_clock: MockClock) -> None:
    end = await stage.commit()
    client = stage.connect(end)
    began = trio.current_time()
    for second in (1, 2, 3):
        keepalive = await hear_keepalive(client)
        assert (keepalive.wal_end, keepalive.reply_requested) == (end, True)
        assert trio.current_time() - began == pytest.approx(second)


async def test_there_are_no_keepalives_while_wal_flows(stage: Stage, autojump_clock: MockClock) -> None:
    begin = await stage.commit()
    client = stage.connect(begin)
    for _ in range(10):
        await trio.sleep(0.9)
        end = await stage.commit()
    assert len(await hear_until(client, end)) == 10


async def test_what_is_not_new_to_the_client_does_not_delay_its_keepalive(
    stage: Stage, autojump_clock: MockClock
) -> None:
    end = await stage.commit()
    client = stage.connect(end)
    began = trio.current_time()
    await trio.sleep(0.7)
    await stage.write()
    assert (await hear_keepalive(client)).wal_end == end
    assert trio.current_time() - began == pytest.approx(1)


async def test_a_client_that_only_answers_is_asked_in_time_while_it_catches_up(
    stage: Stage, autojump_clock: MockClock
) -> None:
    for _ in range(3):
        end = await stage.commit(800_000)
    began = trio.current_time()
    client = stage.connect(START, lockstep=True, seconds_max=6.0)
    heard = b""
    while len(heard) < end - START:
        await trio.sleep(0.5)
        match await client.hear_sender():
            case XLogData(_, _, _, wal):
                heard += wal
            case PrimaryKeepalive(wal_end, _, reply_requested):
                assert (wal_end, reply_requested) == (START + len(heard), True)
                await client.report(StandbyStatusUpdate(wal_end, wal_end, wal_end, 0))
    assert heard == stage.wal
    assert trio.current_time() - began > 6.0


async def test_a_client_that_is_idle_and_only_answers_is_asked_in_time_however_short_that_is(
    stage: Stage, autojump_clock: MockClock
) -> None:
    end = await stage.commit()
    client = stage.connect(end, seconds_max=0.5)
    for _ in range(10):
        await hear_keepalive(client)
        await client.report(StandbyStatusUpdate(end, end, end, 0))
    assert client.said is None


# -- terms ---------------------------------------------------------------------------------------------------


async def test_uncommitted_wal_is_refused_to_another_term(stage: Stage, autojump_clock: MockClock) -> None:
    await stage.write()
    await stage.vote(3)
    error = await end_of(stage.connect(START, term=1))
    assert isinstance(error, TermChanged)
    assert (error.requested, error.current) == (1, 3)
    assert stage.hops.reads == 0


async def test_committed_wal_is_served_in_any_term(stage: Stage, autojump_clock: MockClock) -> None:
    end = await stage.commit()
    await stage.vote(3)
    assert joined(await hear_until(stage.connect(START), end)) == stage.wal


async def test_a_term_that_has_no_wal_here_is_refused_when_there_is_nothing_to_send(
    stage: Stage, autojump_clock: MockClock
) -> None:
    end = await stage.write()
    await stage.vote(2)
    error = await end_of(stage.connect(end, term=2))
    assert isinstance(error, TermChanged)
    assert (error.requested, error.current) == (2, 1)


async def test_an_idle_stream_ends_when_another_leader_takes_over(stage: Stage, autojump_clock: MockClock) -> None:
    end = await stage.write()
    client = stage.connect(end, term=1)
    await hear_keepalive(client)
    await stage.vote(2)
    await hear_keepalive(client)  # a vote alone changes no WAL
    before = trio.current_time()
    await stage.elect(2, end)
    error = await end_of(client)
    assert isinstance(error, TermChanged)
    assert error.requested == 1
    assert trio.current_time() == before


async def test_nothing_is_sent_of_a_read_during_which_the_term_changes(
    stage: Stage, autojump_clock: MockClock
) -> None:
    await stage.write()
    stage.hops.seconds = 5.0
    client = stage.connect(START, term=1)
    await trio.sleep(6)
    stage.hops.seconds = 0.0
    await stage.vote(2)
    assert isinstance(await last_words(client), TermChanged)


async def test_nothing_is_sent_of_a_read_during_which_wal_is_replaced(
    stage: Stage, autojump_clock: MockClock
) -> None:
    """The term is the same before and after: the leader voted for has only now been heard."""
    common = await stage.write()
    await stage.write(30_000)
    await stage.vote(2)
    stage.hops.seconds = 5.0
    client = stage.connect(common, term=2)
    await trio.sleep(6)  # the old WAL has been read and is on its way back
    stage.hops.seconds = 0.0
    replaced = await stage.replace_wal(2, common, 40_000)
    assert joined(await hear_until(client, Lsn(common + len(replaced)))) == replaced


async def test_what_was_read_ahead_is_dropped_when_wal_is_replaced(
    stage: Stage, autojump_clock: MockClock
) -> None:
    await stage.write(2 * MESSAGE_WAL_BYTES_MAX)
    common = await stage.write()
    await stage.write(30_000)
    old = stage.wal
    await stage.vote(2)
    client = stage.connect(START, term=2, lockstep=True)
    await trio.testing.wait_all_tasks_blocked()  # the first message is under way, the others are in memory
    replaced = await stage.replace_wal(2, common, 40_000)
    expected = old[: common - START] + replaced
    assert joined(await hear_until(client, Lsn(START + len(expected)))) == expected


async def test_a_segment_that_was_removed_and_written_anew_is_opened_anew(
    stage: Stage, autojump_clock: MockClock
) -> None:
    common = await stage.write()
    for _ in range(SEGMENT // 10_000 + 60):
        await stage.write(10_000)
    await stage.vote(2)
    client = stage.connect(START, term=2, lockstep=True)
    await hear_until(client, Lsn(SEGMENT_START + SEGMENT))
    await hear_wal(client)  # of the second segment, which is open now
    await trio.testing.wait_all_tasks_blocked()  # the next one is under way
    replaced = await stage.replace_wal(2, common, SEGMENT + 4 * MESSAGE_WAL_BYTES_MAX)
    await hear_wal(client)  # was on its way
    rest = await hear_until(client, Lsn(common + len(replaced)))
    assert joined(rest) == replaced[rest[0].wal_start - common :]
    assert rest[0].wal_start < SEGMENT_START + 2 * SEGMENT


async def test_an_error_of_a_read_during_which_wal_is_withdrawn_is_not_believed(
    stage: Stage, autojump_clock: MockClock
) -> None:
    common = await stage.write()
    begin = SEGMENT_START + SEGMENT
    await stage.write(SEGMENT)
    await stage.vote(2)
    stage.hops.seconds = 5.0
    client = stage.connect(begin, term=2)
    await trio.sleep(1)
    stage.hops.seconds = 0.0
    replaced = await stage.replace_wal(2, common, 1000)  # the segment that is about to be read goes
    assert (await hear_keepalive(client)).wal_end == common + len(replaced)


# -- how it ends ---------------------------------------------------------------------------------------------


async def test_replies_are_read_and_not_answered(stage: Stage, autojump_clock: MockClock) -> None:
    end = await stage.commit()
    client = stage.connect(end)
    status = StandbyStatusUpdate(end, end, end, 0, reply_requested=True)
    await client.report(status, HotStandbyFeedback(1, 5, 4))
    await client.say(b"", b"?")
    await hear_keepalive(client)
    assert client.said is None
    (sender,) = stage.timeline.registry.senders()
    assert (sender.status, sender.hot_standby) == (status, HotStandbyFeedback(1, 5, 4))


async def test_a_reader_that_chatters_lets_others_run(stage: Stage, autojump_clock: MockClock) -> None:
    """What it says at once is read in morsels, each in a turn of its own."""
    end = await stage.commit()
    client = stage.connect(end)
    await hear_keepalive(client)
    (sender,) = stage.timeline.registry.senders()
    with Turns.counted() as turns:
        await client.report(*[StandbyStatusUpdate(end, end, end, number) for number in range(5000)])
        await trio.testing.wait_all_tasks_blocked()
    assert sender.status == StandbyStatusUpdate(end, end, end, 4999)
    assert turns.count >= 5000 / 40


async def test_how_far_a_reader_was_sent_can_be_seen(stage: Stage, autojump_clock: MockClock) -> None:
    end = await stage.commit()
    client = stage.connect(START)
    await hear_until(client, end)
    (sender,) = stage.timeline.registry.senders()
    assert sender.sent_lsn == end


async def test_a_pageserver_with_everything_is_sent_away_when_nobody_writes(
    stage: Stage, autojump_clock: MockClock
) -> None:
    end = await stage.commit()
    client = stage.connect(end, name="pageserver")
    await client.report(PageserverFeedback(remote_consistent_lsn=end))
    assert await end_of(client) == CaughtUp("pageserver", end)


async def test_a_pageserver_is_kept_while_somebody_writes(stage: Stage, autojump_clock: MockClock) -> None:
    end = await stage.commit()
    with stage.timeline.registry.receiving(ServedClient(7), lambda _feedback: None):
        client = stage.connect(end)
        await client.report(PageserverFeedback(remote_consistent_lsn=end))
        for _ in range(3):
            await hear_keepalive(client)
        assert client.said is None
    assert client.metrics.registry.get_sample_value("safekeeper_received_ps_feedbacks_total") == 1


async def test_a_reader_for_a_term_is_not_sent_away(stage: Stage, autojump_clock: MockClock) -> None:
    end = await stage.commit()
    client = stage.connect(end, term=1)
    await client.report(PageserverFeedback(remote_consistent_lsn=end))
    for _ in range(3):
        await hear_keepalive(client)
    assert client.said is None


async def test_a_malformed_reply_ends_the_stream(stage: Stage, autojump_clock: MockClock) -> None:
    end = await stage.commit()
    client = stage.connect(end)
    await client.say(b"r too short")
    assert isinstance(await end_of(client), Malformed)


async def test_a_query_in_a_stream_is_out_of_turn(stage: Stage, autojump_clock: MockClock) -> None:
    client = stage.connect(await stage.commit())
    await client.send(Query("IDENTIFY_SYSTEM"))
    assert isinstance(await end_of(client), OutOfTurn)


@pytest.mark.parametrize(
    ("last_word", "reason"),
    [(CopyDone(), CopyEnd.DONE), (CopyFail("enough"), CopyEnd.FAILED), (Terminate(), CopyEnd.GONE)],
)
async def test_an_idle_client_leaves_at_once(
    stage: Stage, autojump_clock: MockClock, last_word: CopyDone | CopyFail | Terminate, reason: CopyEnd
) -> None:
    client = stage.connect(await stage.commit())
    await trio.testing.wait_all_tasks_blocked()
    before = trio.current_time()
    await client.send(last_word)
    assert await last_words(client) is reason
    assert trio.current_time() == before


async def test_a_client_that_leaves_amid_wal_gets_its_last_message_whole(
    stage: Stage, autojump_clock: MockClock
) -> None:
    await stage.commit(800_000)
    client = stage.connect(START, lockstep=True)
    await trio.testing.wait_all_tasks_blocked()
    await client.send(CopyDone())
    await trio.testing.wait_all_tasks_blocked()
    heard = b""
    with suppress(EOFError):
        while True:
            heard += (await hear_wal(client)).wal
    assert client.said == Goodbye(CopyEnd.DONE)
    assert heard == stage.wal[: len(heard)]
    assert 0 < len(heard) <= STRETCH_BYTES_MAX


async def test_a_client_that_leaves_without_reading_is_not_waited_for(
    stage: Stage, autojump_clock: MockClock
) -> None:
    await stage.commit(800_000)
    client = stage.connect(START, lockstep=True)
    await trio.testing.wait_all_tasks_blocked()
    await client.send(CopyDone())
    await trio.sleep(GOODBYE_SECONDS_MAX + 1)
    assert client.said is not None
    assert client.said.reason is CopyEnd.GONE, "the last message is incomplete: nothing can be said any more"


async def test_the_end_of_the_clients_side_ends_the_stream_at_once_even_amid_wal(
    stage: Stage, autojump_clock: MockClock
) -> None:
    await stage.commit(800_000)
    client = stage.connect(START, lockstep=True)
    await trio.testing.wait_all_tasks_blocked()
    await client.stream.send_stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert client.said is not None
    assert client.said.reason is CopyEnd.GONE


async def test_a_client_that_no_longer_receives_is_gone(stage: Stage, autojump_clock: MockClock) -> None:
    client = stage.connect(await stage.commit())
    await client.stream.receive_stream.aclose()
    await trio.sleep(2)
    assert client.said is not None
    assert client.said.reason is CopyEnd.GONE


async def test_a_client_that_does_not_read_costs_one_read_and_is_dropped_in_the_end(
    stage: Stage, autojump_clock: MockClock
) -> None:
    end = await stage.commit(800_000)
    stage.disk.is_cold = True
    client = stage.connect(START, lockstep=True)
    for _ in range(9):
        await client.report(StandbyStatusUpdate(end, end, end, 0))
        await trio.sleep(SILENCE_SECONDS_MAX / 10)
    assert (client.said, stage.hops.reads) == (None, 1)
    await trio.sleep(SILENCE_SECONDS_MAX / 5)
    assert client.said is not None
    assert client.said.reason is CopyEnd.GONE


async def test_a_client_that_reads_and_says_nothing_is_dropped_in_the_end(
    stage: Stage, autojump_clock: MockClock
) -> None:
    client = stage.connect(await stage.commit())
    began = trio.current_time()
    assert await end_of(client) is CopyEnd.GONE
    assert trio.current_time() - began == pytest.approx(SILENCE_SECONDS_MAX)


async def test_a_client_that_may_be_silent_for_ever_is_never_dropped(
    stage: Stage, autojump_clock: MockClock
) -> None:
    client = stage.connect(await stage.commit(), seconds_max=math.inf)
    for _ in range(3):
        await trio.sleep(2 * SILENCE_SECONDS_MAX)
        end = await stage.commit()
        await client.report(StandbyStatusUpdate(end, end, end, 0))
    assert client.said is None


async def test_a_timeline_that_closes_ends_its_streams(stage: Stage, autojump_clock: MockClock) -> None:
    end = await stage.commit()
    client = stage.connect(end)
    await hear_keepalive(client)
    await stage.timeline.close()
    assert isinstance(await end_of(client), Closing)


async def test_a_timeline_that_has_closed_begins_no_stream(stage: Stage, autojump_clock: MockClock) -> None:
    end = await stage.commit()
    await stage.timeline.close()
    assert isinstance(await end_of(stage.connect(end)), Closing)
    with pytest.raises(Closing):
        await stage.timeline.open_segment(START)


async def test_a_stream_survives_a_timeline_that_is_read_again_from_disk(
    stage: Stage, autojump_clock: MockClock
) -> None:
    begin = await stage.commit()
    client = stage.connect(begin)
    await trio.testing.wait_all_tasks_blocked()
    run = stage.leader.next_run()
    stage.disk.faults[stage.disk.operations] = Fault.IO_ERROR
    with pytest.raises(StorageError):
        await stage.timeline.process(run)
    assert stage.timeline.is_blown
    await trio.sleep(60)
    await stage.timeline.process(ProposerElected(NO_GENERATION, Term(1), begin, TermHistory.of((1, START))))
    await stage.timeline.process(run)
    end = await stage.commit()
    for _ in range(60):
        assert isinstance(await client.hear_sender(), PrimaryKeepalive)
    assert joined(await hear_until(client, end)) == stage.wal[begin - START :]
