"""A full disk: the keeper says so, stays up, loses nothing, and goes on when there is room again.

The disk is a tmpfs of a few megabytes in a mount namespace of the keeper's own, so that it is gone with the keeper
and needs no privilege beyond what the kernel gives everybody.  From outside it is seen through /proc.
"""

import os
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from fix_keepers import NewKeeper
from keeper_client import Client, Refused
from programs import Keeper
from stored_wal import StoredTimeline
from walkeeper.formats.frontend import CopyData, Query
from walkeeper.ids import TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import Lsn, format_lsn
from writer import Writer

DISK_FULL = "53100"

MIB = 1 << 20
MORE_BYTES = MIB + MIB // 2
"""What must fit when the ballast is gone: more than a segment, so that a new one has to be made."""
BALLAST_BYTES = 8 * MIB
"""Room for ``MORE_BYTES`` in each of two timelines: three segments at most for each, and the spare that one may have."""
DISK_BYTES = BALLAST_BYTES + 5 * MIB

TTID = TenantTimelineId(TenantId(b"\x0c" * 16), TimelineId(b"\x0d" * 16))
OTHER_TTID = TenantTimelineId(TenantId(b"\x0e" * 16), TimelineId(b"\x0f" * 16))
START = Lsn(0x0200_0000)


@pytest.fixture
def cramped(new_keeper: NewKeeper) -> Keeper:
    """A keeper that serves from a small disk, part of which is taken by something that can be removed, and that uses all."""
    return on_small_disk(new_keeper(1, "--max-global-disk-usage-ratio", "0"))


@pytest.fixture
def careful(new_keeper: NewKeeper) -> Keeper:
    """The same for one that keeps a reserve, as is the default."""
    return on_small_disk(new_keeper())


def on_small_disk(keeper: Keeper) -> Keeper:
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    mount = f'mount -t tmpfs -o size={DISK_BYTES} walkeeper-test "$0" && exec "$@"'
    keeper.command = ["unshare", "--mount", *user, "sh", "-c", mount, str(keeper.data), *keeper.command]
    keeper.start()
    keeper.wait_ready()
    ballast(keeper).write_bytes(bytes(BALLAST_BYTES))
    return keeper


def inside(keeper: Keeper) -> Path:
    """The data directory as the keeper sees it."""
    return Path(f"/proc/{keeper.pid}/root{keeper.data}")


def ballast(keeper: Keeper) -> Path:
    return inside(keeper) / "ballast"


def free_bytes(keeper: Keeper) -> int:
    disk = os.statvfs(inside(keeper))
    return disk.f_bavail * disk.f_frsize


def write_until_refused(keeper: Keeper, writer: Writer, append_bytes: int) -> None:
    """Write until the disk is full; that must be what the keeper says."""
    with Client(keeper.pg_port) as client:
        vote = writer.win(client)
        writer.lead(client, vote, vote.flush_lsn or START)
        with pytest.raises(Refused) as refused:
            write(client, writer, DISK_BYTES, append_bytes)
    assert refused.value.sqlstate == DISK_FULL


def write(
    client: Client, writer: Writer, wal_bytes: int, append_bytes: int, rest: Callable[[], None] = lambda: None
) -> None:
    for _ in range(wal_bytes // append_bytes):
        writer.append(client, append_bytes)
        writer.hear_all(client)
        rest()


def assert_has_what_it_promised(keeper: Keeper, writer: Writer) -> None:
    stored = StoredTimeline.of(inside(keeper), writer.ttid, MIB)
    expected = writer.wal_of(writer.promised_history, START, writer.promised_lsn)
    assert stored.wal(START, writer.promised_lsn) == expected
    with Client(keeper.pg_port) as client:
        client.start_up(writer.ttid)
        ((flush_lsn, _),) = client.query("TIMELINE_STATUS")
    assert flush_lsn == format_lsn(writer.promised_lsn)


def write_more(keeper: Keeper, writer: Writer) -> None:
    """A new term, and enough WAL for a new segment."""
    with Client(keeper.pg_port) as client:
        vote = writer.win(client)
        writer.lead(client, vote, vote.flush_lsn or START)
        writer.append(client, MORE_BYTES)
        writer.hear_all(client)


@pytest.mark.parametrize("append_bytes", [3_000, 130_000])
def test_a_full_disk_is_told_and_survived_and_forgotten(append_bytes: int, cramped: Keeper) -> None:
    writer = Writer(TTID, start_lsn=START, seed=append_bytes)
    write_until_refused(cramped, writer, append_bytes)
    assert writer.promised_lsn - START > MIB
    assert_has_what_it_promised(cramped, writer)
    assert cramped.status("/v1/status") == 200
    ballast(cramped).unlink()
    write_more(cramped, writer)
    assert_has_what_it_promised(cramped, writer)
    assert "Traceback" not in cramped.log


def test_on_a_disk_without_a_free_page_votes_and_new_timelines_are_refused_and_leave_nothing(
    cramped: Keeper,
) -> None:
    writer, other = Writer(TTID, start_lsn=START, seed=1), Writer(OTHER_TTID, start_lsn=START, seed=2)
    write_until_refused(cramped, writer, 100_000)
    fill(cramped)
    names = {path.name for path in inside(cramped).rglob("*")}
    for one in (writer, other):
        with Client(cramped.pg_port) as client, pytest.raises(Refused) as refused:
            one.win(client)
        assert refused.value.sqlstate == DISK_FULL
    assert {path.name for path in inside(cramped).rglob("*")} == names
    assert_has_what_it_promised(cramped, writer)
    ballast(cramped).unlink()
    for one in (writer, other):
        write_more(cramped, one)
        assert_has_what_it_promised(cramped, one)
    assert "Traceback" not in cramped.log


def fill(keeper: Keeper) -> None:
    """Take the last free page."""
    with ballast(keeper).open("ab") as file:
        while free := free_bytes(keeper):
            os.write(file.fileno(), bytes(free))


LOOKS_MAX = 200


def free_when_refused(keeper: Keeper, writer: Writer) -> int:
    """Write until refused, and for the disk's sake: how much is left then."""
    with Client(keeper.pg_port) as client:
        vote = writer.win(client)
        writer.lead(client, vote, vote.flush_lsn or START)
        with pytest.raises(Refused, match="Global disk usage exceeded limit") as refused:
            write(client, writer, DISK_BYTES, 10_000, lambda: keeper.pause(0.002))
    assert refused.value.sqlstate == DISK_FULL
    return free_bytes(keeper)


def test_wal_is_refused_before_the_disk_is_full_and_taken_again_when_there_is_room(careful: Keeper) -> None:
    writer = Writer(TTID, start_lsn=START, seed=3)
    left_bytes = free_when_refused(careful, writer)
    assert left_bytes > MIB // 2
    with ballast(careful).open("ab") as file:  # an election gives back what was made ahead: not enough to go on
        file.write(bytes(left_bytes - MIB // 2))
    assert_has_what_it_promised(careful, writer)
    for _ in range(3):  # votes are saved, and WAL is refused each time
        with Client(careful.pg_port) as client:
            vote = writer.win(client)
            writer.lead(client, vote, vote.flush_lsn)
            writer.append(client, 50_000)
            with pytest.raises(Refused) as refused:
                writer.hear_all(client)
        assert refused.value.sqlstate == DISK_FULL
    assert_streams_what_it_has(careful, writer)
    assert metric(careful, "walkeeper_disk_refuses_wal") == 1
    assert careful.status("/readyz") == careful.status("/livez") == 200
    ballast(careful).unlink()
    for _ in range(LOOKS_MAX):
        if metric(careful, "walkeeper_disk_refuses_wal") == 0:
            break
        careful.pause()
    write_more(careful, writer)
    assert_has_what_it_promised(careful, writer)
    assert careful.log.count("the disk is nearly full") == careful.log.count("the disk has room again") == 1
    assert "No space left" not in careful.log


def assert_streams_what_it_has(keeper: Keeper, writer: Writer) -> None:
    """A reader that comes while WAL is refused gets what was promised, to the last byte."""
    expected = writer.wal_of(writer.promised_history, START, writer.promised_lsn)
    got = bytearray()
    with Client(keeper.pg_port) as client:
        client.start_up(writer.ttid)
        query = f"START_REPLICATION PHYSICAL {format_lsn(START)} (term='{writer.term}')"
        client.send(Query(query).encode())
        while len(got) < len(expected):
            message = client.next_message()
            if isinstance(message, CopyData) and message.payload[:1] == b"w":
                got += message.payload[25:]
    assert bytes(got) == expected


def metric(keeper: Keeper, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{keeper.http_port}/metrics", timeout=5.0) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))
