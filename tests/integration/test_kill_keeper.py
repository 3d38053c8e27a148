"""kill -9 at random moments: a keeper never forgets what it promised, and never comes back stuck.

Kills prove the order of operations, not fsync: the page cache survives the process.
"""

from collections.abc import Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from random import Random

from fix_keepers import NewKeeper
from keeper_client import Client, Ended
from programs import Keeper
from stored_wal import StoredTimeline
from walkeeper.ids import TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import Lsn, format_lsn
from walkeeper.messages import VoteResponse
from writer import Writer

KILLS_UNDER_LOAD = 20
KILLS_AT_START = 5
"""For each of the two keepers: 50 kills together."""

LOAD_SECONDS_MAX = 0.3
START_SECONDS_MAX = 1.2  # from the first import to serving

SEGMENT_BYTES = 1 << 20
IN_MID_PAGE = Lsn(0x1412_2F60)
AT_A_SEGMENT_START = Lsn(0x0500_0000)

APPEND_BYTES_MAX = 24_000
APPENDS_IN_FLIGHT_MAX = 8


def test_after_kill_9_no_acknowledged_byte_is_missing_and_no_timeline_is_stuck(new_keeper: NewKeeper) -> None:
    keepers = [new_keeper(1), new_keeper(2)]
    with ThreadPoolExecutor() as threads:
        tormented = [threads.submit(torment, keeper, seed) for seed, keeper in enumerate(keepers)]
        wait(tormented, return_when=FIRST_EXCEPTION)
        for one in tormented:
            one.result()


def torment(keeper: Keeper, seed: int) -> None:
    """Kill and start a keeper again and again, with two writers."""
    random = Random(seed)
    writers = [
        Writer(ttid(1), start_lsn=IN_MID_PAGE, seed=seed, pg_major=14),
        Writer(ttid(2), start_lsn=AT_A_SEGMENT_START, seed=seed + 100, pg_major=17),
    ]
    rounds = [True] * KILLS_UNDER_LOAD + [False] * KILLS_AT_START
    random.shuffle(rounds)
    promising = 0
    for is_under_load in rounds:
        keeper.start()
        if is_under_load:
            keeper.wait_ready()
            promising += kill_under_load(keeper, writers, random.uniform(0, LOAD_SECONDS_MAX))
        else:
            keeper.pause(random.uniform(0, START_SECONDS_MAX))
            keeper.kill()
    assert promising >= KILLS_UNDER_LOAD / 2  # else that was hardly any load
    keeper.start()
    keeper.wait_ready()
    for writer in writers:
        assert_goes_on(keeper, writer)


def ttid(number: int) -> TenantTimelineId:
    return TenantTimelineId(TenantId(bytes([number]) * 16), TimelineId(bytes([0xF0 + number]) * 16))


def kill_under_load(keeper: Keeper, writers: Iterable[Writer], seconds: float) -> int:
    """Let the writers write, and kill the keeper after so many seconds; how many writers got promises."""
    with ThreadPoolExecutor() as threads:
        writing = [threads.submit(write_until_killed, keeper, writer) for writer in writers]
        wait(writing, timeout=seconds, return_when=FIRST_EXCEPTION)
        keeper.kill()
        return sum(one.result() for one in writing)


def write_until_killed(keeper: Keeper, writer: Writer) -> bool:
    """Campaign, look at what the keeper kept, and write; whether anything of it was acknowledged."""
    try:
        with Client(keeper.pg_port) as client:
            try:
                vote = writer.win(client)
                assert_promises_kept(keeper, writer, vote)
                writer.lead(client, vote, writer.choose_start(vote))
                while True:
                    for _ in range(writer.random.randint(1, APPENDS_IN_FLIGHT_MAX)):
                        writer.append(client, writer.random.randint(1, APPEND_BYTES_MAX))
                    writer.hear_all(client)
            except Ended:
                writer.hear_last_words(client)
    except ConnectionError:
        return False  # killed before it let us in
    return writer.promised_history.last_term == writer.term


def assert_promises_kept(keeper: Keeper, writer: Writer, vote: VoteResponse) -> None:
    """The keeper has all that it promised, and all that it now says it has, byte for byte."""
    assert vote.flush_lsn >= writer.promised_lsn
    stored = StoredTimeline.of(keeper.data, writer.ttid, SEGMENT_BYTES)
    for history, end_lsn in [(writer.promised_history, writer.promised_lsn), (vote.term_history, vote.flush_lsn)]:
        expected = writer.wal_of(history, writer.start_lsn, end_lsn)
        assert stored.wal(writer.start_lsn, end_lsn) == expected


def assert_goes_on(keeper: Keeper, writer: Writer) -> None:
    """A new term is elected, and its WAL is acknowledged and kept."""
    with Client(keeper.pg_port) as client:
        vote = writer.win(client)
        assert_promises_kept(keeper, writer, vote)
        writer.lead(client, vote, vote.flush_lsn)
        writer.append(client, APPEND_BYTES_MAX)
        writer.hear_all(client)
    assert writer.promised_lsn > vote.flush_lsn
    with Client(keeper.pg_port) as client:
        assert_promises_kept(keeper, writer, writer.win(client))
        client.end()
    with Client(keeper.pg_port) as client:
        client.start_up(writer.ttid)
        ((flush_lsn, _),) = client.query("TIMELINE_STATUS")
        assert flush_lsn == format_lsn(writer.promised_lsn)
