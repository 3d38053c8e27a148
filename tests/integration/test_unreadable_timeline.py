"""A timeline whose files cannot be read stays shut and says so; the keeper and its other timelines serve on."""

from collections.abc import Callable

import pytest

from keeper_client import Client, Refused
from programs import Keeper
from stored_wal import CONTROL_FILE, StoredTimeline
from walkeeper.ids import TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import Lsn
from writer import Writer

MIB = 1 << 20
START = Lsn(0x0200_0000)
CANNOT_CONNECT_NOW = "57P03"


def flip_a_bit(stored: StoredTimeline) -> None:
    content = bytearray(stored.control_bytes)
    content[40] ^= 1
    (stored.directory / CONTROL_FILE).write_bytes(content)


def cut_the_control_file(stored: StoredTimeline) -> None:
    (stored.directory / CONTROL_FILE).write_bytes(stored.control_bytes[:-10])


def remove_the_control_file(stored: StoredTimeline) -> None:
    (stored.directory / CONTROL_FILE).unlink()


def remove_committed_wal(stored: StoredTimeline) -> None:
    for segment in stored.directory.glob("[0-9A-F]" * 24 + "*"):
        segment.unlink()


@pytest.mark.parametrize(
    "damage", [flip_a_bit, cut_the_control_file, remove_the_control_file, remove_committed_wal]
)
def test_a_damaged_timeline_is_shut_and_its_neighbour_is_not(
    damage: Callable[[StoredTimeline], None], keeper: Keeper
) -> None:
    damaged, whole = (Writer(ttid(number), start_lsn=START, seed=number) for number in (1, 2))
    for writer in (damaged, whole):
        write(keeper, writer)
    assert keeper.stop() == 0
    directory = StoredTimeline.of(keeper.data, damaged.ttid, MIB)
    damage(directory)
    left = sorted(path.name for path in directory.directory.iterdir())
    keeper.start()
    keeper.wait_ready()
    with Client(keeper.pg_port) as client:
        with pytest.raises(Refused) as refused:
            damaged.win(client)
        assert refused.value.sqlstate == CANNOT_CONNECT_NOW
    write(keeper, whole)
    assert sorted(path.name for path in directory.directory.iterdir()) == left
    (line,) = [line for line in keeper.log.splitlines() if "stays shut" in line]
    assert str(damaged.ttid) in line
    assert "Traceback" not in keeper.log


def ttid(number: int) -> TenantTimelineId:
    return TenantTimelineId(TenantId(bytes([number]) * 16), TimelineId(bytes([number]) * 16))


def write(keeper: Keeper, writer: Writer) -> None:
    """A term that writes and commits."""
    with Client(keeper.pg_port) as client:
        vote = writer.win(client)
        writer.lead(client, vote, vote.flush_lsn or START)
        writer.append(client, 100_000)
        writer.hear_all(client)
        writer.heartbeat(client)
        writer.hear(client)
