"""A segment's way from keepers to where PostgreSQL wants it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from crc32c import crc32c
from trio.testing import MockClock

from fake_servers import CHUNK_BYTES, SEGMENT_BYTES, SYSTEM_ID, FakeKeeper
from walkeeper.errors import DiskFull, NotKept, Superseded, Unreachable
from walkeeper.formats.segments import segment_name
from walkeeper.ids import TenantTimelineId
from walkeeper.lsn import LSN_MAX, Lsn, format_lsn
from walkeeper.testing.memory_disk import Fault, MemoryDisk
from walkeeper.testing.wal import WalGenerator
from walkeeper.tools.committed_wal import LOOK_BACK_BYTES, STALL_SECONDS_MAX
from walkeeper.tools.fetch_config import FetchConfig
from walkeeper.tools.fetch_wal import AHEAD_SECONDS_MAX, fetch_wal
from walkeeper.tools.segment_file import new_file
from walkeeper.tools.spool import RESERVE_SEGMENTS, Spool

START = Lsn(16 * SEGMENT_BYTES)
END_SEGMENT = 20
TTID = TenantTimelineId.of_system(SYSTEM_ID)
WHERE = Path("/pg_wal")
TARGET = WHERE / "RECOVERYXLOG"


def name_of(segno: int) -> str:
    return segment_name(1, segno, SEGMENT_BYTES)


def new_wal(system_id: int = SYSTEM_ID) -> WalGenerator:
    """Segments 16 to 19, and the beginning of 20."""
    wal = WalGenerator(START, wal_seg_size=SEGMENT_BYTES, system_id=system_id)
    while wal.lsn < END_SEGMENT * SEGMENT_BYTES + 3 * CHUNK_BYTES:
        wal.logical_message("test", bytes(100_000))
    return wal


@dataclass
class Scene:
    """Three keepers that have the same WAL, all of it committed, and PostgreSQL's directory."""

    wal: WalGenerator = field(default_factory=new_wal)
    keepers: Sequence[FakeKeeper] = field(default_factory=lambda: [FakeKeeper() for _ in range(3)])
    disk: MemoryDisk = field(default_factory=MemoryDisk)
    warnings: list[str] = field(default_factory=list)

    @property
    def spool(self) -> Spool:
        return Spool.beside(self.disk, self.disk, TARGET, TTID)

    async def fetch(self, segno: int, ahead_bytes: int = 0) -> None:
        addresses = tuple(keeper.address for keeper in self.keepers)
        config = FetchConfig(
            addresses, TTID, name_of(segno), TARGET, server=None, system_id=None, ahead_bytes=ahead_bytes,
            may_be_unfinished=True, timeout_seconds=5.0,
        )  # fmt: skip
        with new_file(self.disk, TARGET) as target:
            await fetch_wal(config, target, self.spool, self.warnings.append)

    def segment(self, segno: int) -> bytes:
        """As it should be."""
        begin = segno * SEGMENT_BYTES - START
        return bytes(self.wal.wal[begin : begin + SEGMENT_BYTES]).ljust(SEGMENT_BYTES, b"\0")

    def content(self, path: Path = TARGET) -> bytes:
        with self.disk.open(path) as file:
            return file.pread(file.size(), 0)

    def names(self) -> Sequence[str]:
        return self.disk.names(WHERE)

    def ahead(self) -> Sequence[int]:
        """The numbers of the segments that the spool has, which are as they should be."""
        names = self.disk.names(self.spool.path) if self.disk.is_directory(self.spool.path) else []
        segnos = [segno for segno in range(16, END_SEGMENT + 1) if self.entry(segno).name in names]
        assert len(names) == len(segnos)
        assert all(self.content(self.entry(segno)) == self.segment(segno) for segno in segnos)
        return segnos

    def entry(self, segno: int) -> Path:
        return self.spool.entry(name_of(segno), crc32c(self.segment(segno)))


@pytest.fixture
async def scene(nursery: trio.Nursery) -> Scene:
    scene = Scene()
    scene.disk.mkdir(WHERE)
    scene.disk.syncfs(Path("/"))
    for keeper in scene.keepers:
        keeper.keep(scene.wal, scene.wal.lsn)
        await nursery.start(keeper.serve)
    return scene


async def test_whole_segments_and_the_unfinished_one_are_given_and_are_durable(scene: Scene) -> None:
    for segno in range(16, END_SEGMENT + 1):
        await scene.fetch(segno)
        scene.disk.crash(seed=segno)
        assert scene.content() == scene.segment(segno)
    assert scene.names() == [TARGET.name]


async def test_nothing_is_given_beyond_what_a_majority_knows_to_be_committed(scene: Scene) -> None:
    commit_lsn = scene.wal.lsn - CHUNK_BYTES
    for keeper in scene.keepers:
        keeper.commit_lsn = Lsn(commit_lsn)
    await scene.fetch(END_SEGMENT)
    length = commit_lsn - END_SEGMENT * SEGMENT_BYTES
    assert scene.content() == scene.segment(END_SEGMENT)[:length].ljust(SEGMENT_BYTES, b"\0")


async def test_a_keeper_that_breaks_in_the_middle_is_followed_by_the_next_which_gives_it_all(scene: Scene) -> None:
    scene.keepers[0].breaks_at = Lsn(17 * SEGMENT_BYTES + 3 * CHUNK_BYTES)
    scene.keepers[1].breaks_at = Lsn(17 * SEGMENT_BYTES + 5 * CHUNK_BYTES)
    await scene.fetch(17)
    assert scene.content() == scene.segment(17)
    assert {keeper.queries[-1] for keeper in scene.keepers} == {f"START_REPLICATION PHYSICAL 0/{17 << 20:X}"}


async def test_a_keeper_that_stops_in_the_middle_is_given_up_in_time(
    autojump_clock: MockClock, scene: Scene
) -> None:
    scene.keepers[0].stalls_at = Lsn(17 * SEGMENT_BYTES + 3 * CHUNK_BYTES)
    before = trio.current_time()
    await scene.fetch(17)
    assert scene.content() == scene.segment(17)
    assert trio.current_time() - before == pytest.approx(STALL_SECONDS_MAX, abs=1.0)


async def test_if_nobody_gives_it_to_the_end_nobody_can_tell_and_nothing_is_left(scene: Scene) -> None:
    for keeper in scene.keepers:
        keeper.breaks_at = Lsn(17 * SEGMENT_BYTES + CHUNK_BYTES)
    with pytest.raises(Unreachable):
        await scene.fetch(17)
    assert scene.names() == []


async def test_what_every_keeper_says_it_does_not_have_does_not_exist(scene: Scene) -> None:
    for keeper in scene.keepers:
        keeper.removed_below = Lsn(18 * SEGMENT_BYTES)
    with pytest.raises(NotKept):
        await scene.fetch(17)
    await scene.fetch(18)
    assert scene.content() == scene.segment(18)


async def test_while_a_keeper_is_away_nobody_can_tell_that_what_the_others_removed_does_not_exist(
    autojump_clock: MockClock, scene: Scene
) -> None:
    for keeper in scene.keepers[:2]:
        keeper.removed_below = Lsn(18 * SEGMENT_BYTES)
    absent = scene.keepers[2]
    with absent.hold(), pytest.raises(Unreachable) as hanging:
        await scene.fetch(17)
    assert str(absent.address) in str(hanging.value)
    scene.keepers = [*scene.keepers[:2], FakeKeeper()]
    with pytest.raises(Unreachable) as down:
        await scene.fetch(17)
    assert "127.0.0.1:0" in str(down.value)


async def test_a_keeper_that_never_heard_of_the_timeline_does_not_have_the_segment_either(scene: Scene) -> None:
    for keeper in scene.keepers[:2]:
        keeper.removed_below = Lsn(18 * SEGMENT_BYTES)
    scene.keepers[2].wipe()
    with pytest.raises(NotKept):
        await scene.fetch(17)


async def test_a_keeper_that_does_not_know_of_all_commits_is_asked_last_and_may_have_the_segment(
    autojump_clock: MockClock, scene: Scene
) -> None:
    late = scene.keepers[0]
    late.commit_lsn = Lsn(17 * SEGMENT_BYTES + CHUNK_BYTES)
    await scene.fetch(17)
    assert not any(query.startswith("START") for query in late.queries)
    for keeper in scene.keepers[1:]:
        keeper.removed_below = Lsn(18 * SEGMENT_BYTES)
    with pytest.raises(Unreachable):
        await scene.fetch(17)
    late.removed_below = Lsn(18 * SEGMENT_BYTES)
    with pytest.raises(NotKept):
        await scene.fetch(17)


async def test_what_one_keeper_still_has_exists_and_if_it_fails_nobody_can_tell(scene: Scene) -> None:
    for keeper in scene.keepers[:2]:
        keeper.removed_below = Lsn(18 * SEGMENT_BYTES)
    await scene.fetch(17)
    assert scene.content() == scene.segment(17)
    scene.keepers[2].breaks_at = Lsn(17 * SEGMENT_BYTES)
    with pytest.raises(Unreachable):
        await scene.fetch(17)


async def test_wal_of_another_cluster_is_not_taken(scene: Scene) -> None:
    scene.keepers[0].wal = bytearray(new_wal(system_id=5).wal)
    await scene.fetch(17)
    assert scene.content() == scene.segment(17)
    for keeper in scene.keepers[1:]:
        keeper.wal = scene.keepers[0].wal
    with pytest.raises(Unreachable):
        await scene.fetch(18)
    assert scene.content() == scene.segment(17)


async def test_a_full_disk_is_told_and_leaves_nothing(scene: Scene) -> None:
    fill_disk(scene, TARGET.name)
    with pytest.raises(DiskFull):
        await scene.fetch(17)
    assert scene.names() == []


def fill_disk(scene: Scene, name: str) -> None:
    """Writing to files whose names begin so fails."""

    def hear(operation: str, path: Path) -> None:
        if operation == "write" and path.name.startswith(name):
            scene.disk.faults[scene.disk.operations - 1] = Fault.NO_SPACE

    scene.disk.on_operation = hear


# -- damage --------------------------------------------------------------------------------------------------


def damage(keeper: FakeKeeper, lsn: int) -> None:
    """One bit is not what it was."""
    keeper.wal[lsn - START] ^= 1


IN_17 = 17 * SEGMENT_BYTES + SEGMENT_BYTES // 2 + 100


async def test_damaged_wal_is_not_given_while_another_keeper_has_it_whole(scene: Scene) -> None:
    damage(scene.keepers[0], IN_17)
    damage(scene.keepers[1], IN_17 + 100)
    await scene.fetch(17, ahead_bytes=SEGMENT_BYTES)
    assert scene.content() == scene.segment(17)
    assert scene.ahead() == [18]


async def test_a_keeper_that_breaks_and_one_with_damage_leave_the_third(scene: Scene) -> None:
    scene.keepers[0].breaks_at = Lsn(IN_17)
    damage(scene.keepers[1], 17 * SEGMENT_BYTES + SEGMENT_BYTES // 4)
    await scene.fetch(17)
    assert scene.content() == scene.segment(17)


async def test_if_all_copies_are_damaged_nobody_can_tell_and_every_keeper_is_named(scene: Scene) -> None:
    for keeper in scene.keepers:
        damage(keeper, IN_17)
    (record,) = [each for each in scene.wal.records if each.start <= IN_17 < each.end]
    with pytest.raises(Unreachable) as told:
        await scene.fetch(17)
    where = f"damaged WAL in {name_of(17)}: WAL record at {format_lsn(record.start)}"
    assert all(f"{keeper.address} has {where}" in str(told.value) for keeper in scene.keepers)
    assert scene.names() == []


@pytest.mark.parametrize("place", [-40, 60])
async def test_a_record_that_ends_in_the_next_segment_is_checked_with_either(scene: Scene, place: int) -> None:
    damage(scene.keepers[0], 18 * SEGMENT_BYTES + place)
    for segno in (17, 18):
        await scene.fetch(segno)
        assert scene.content() == scene.segment(segno)
    asked = [query for query in scene.keepers[1].queries if query.startswith("START")]
    assert len(asked) == 4, "the first keeper's copy was not taken"


async def test_a_segment_is_given_although_the_end_of_its_last_record_cannot_be_had(
    autojump_clock: MockClock, scene: Scene
) -> None:
    for keeper in scene.keepers:
        keeper.breaks_at = Lsn(18 * SEGMENT_BYTES)
    await scene.fetch(17)
    for keeper in scene.keepers:
        keeper.breaks_at, keeper.stalls_at = LSN_MAX, Lsn(19 * SEGMENT_BYTES)
    await scene.fetch(18)
    assert scene.content() == scene.segment(18)


async def test_damage_in_what_is_read_ahead_harms_nobody_and_stays_out_of_the_spool(scene: Scene) -> None:
    damage(scene.keepers[0], 18 * SEGMENT_BYTES + SEGMENT_BYTES // 2)
    await scene.fetch(16, ahead_bytes=3 * SEGMENT_BYTES)
    assert scene.content() == scene.segment(16)
    assert scene.ahead() == [17]
    assert len(scene.warnings) == 1


# -- two at once ---------------------------------------------------------------------------------------------


async def test_of_two_calls_at_once_each_gives_a_whole_file_or_fails(scene: Scene) -> None:
    """They want different segments at one path, as one does that has outlived its PostgreSQL."""
    given: list[int] = []

    async def fetch(segno: int) -> None:
        try:
            await scene.fetch(segno, ahead_bytes=2 * SEGMENT_BYTES)
            given.append(segno)
        except Superseded:
            pass

    for _ in range(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch, 16)
            nursery.start_soon(fetch, 17)
        assert len(given) == 1
        assert scene.content() == scene.segment(given.pop())
        assert set(scene.ahead()) <= {17, 18, 19}
        assert set(scene.names()) <= {TARGET.name, scene.spool.path.name}


# -- ahead ---------------------------------------------------------------------------------------------------


async def test_whole_segments_are_read_ahead_in_the_same_stream(scene: Scene) -> None:
    await scene.fetch(16, ahead_bytes=2 * SEGMENT_BYTES + 5)
    assert scene.ahead() == [17, 18]
    asked = [query for keeper in scene.keepers for query in keeper.queries if query.startswith("START")]
    before, begin = START - LOOK_BACK_BYTES, START
    assert asked == [f"START_REPLICATION PHYSICAL 0/{lsn:X}" for lsn in (before, begin)]


async def test_an_unfinished_segment_is_never_read_ahead(scene: Scene) -> None:
    await scene.fetch(18, ahead_bytes=10 * SEGMENT_BYTES)
    assert scene.ahead() == [19]


async def test_what_a_majority_does_not_know_of_is_never_read_ahead(scene: Scene) -> None:
    for keeper in scene.keepers[1:]:
        keeper.commit_lsn = Lsn(18 * SEGMENT_BYTES)
    await scene.fetch(16, ahead_bytes=10 * SEGMENT_BYTES)
    assert scene.ahead() == [17]


async def test_a_miss_empties_the_spool(scene: Scene) -> None:
    await scene.fetch(16, ahead_bytes=3 * SEGMENT_BYTES)
    await scene.fetch(18)
    assert scene.names() == [TARGET.name]


async def test_a_disk_that_is_too_small_for_reading_ahead_harms_nobody(scene: Scene) -> None:
    fill_disk(scene, name_of(18))
    await scene.fetch(16, ahead_bytes=3 * SEGMENT_BYTES)
    assert scene.content() == scene.segment(16)
    assert scene.ahead() == [17]
    assert len(scene.warnings) == 1


async def test_nothing_is_read_ahead_into_the_reserve(scene: Scene) -> None:
    scene.disk.total_bytes = 1 << 30
    scene.disk.free_bytes = RESERVE_SEGMENTS * SEGMENT_BYTES
    await scene.fetch(16, ahead_bytes=3 * SEGMENT_BYTES)
    assert scene.content() == scene.segment(16)
    assert scene.names() == [TARGET.name]
    assert len(scene.warnings) == 1


async def test_a_disk_without_room_for_the_spool_harms_nobody(scene: Scene) -> None:
    def hear(operation: str, path: Path) -> None:
        if operation == "mkdir":
            scene.disk.faults[scene.disk.operations - 1] = Fault.NO_SPACE

    scene.disk.on_operation = hear
    await scene.fetch(16, ahead_bytes=3 * SEGMENT_BYTES)
    assert scene.content() == scene.segment(16)
    assert scene.names() == [TARGET.name]
    assert len(scene.warnings) == 1


async def test_a_spool_that_cannot_be_emptied_harms_nobody(scene: Scene) -> None:
    scene.spool.prepare()
    scene.disk.mkdir(scene.spool.path / "directory")
    await scene.fetch(16)
    assert scene.content() == scene.segment(16)
    assert len(scene.warnings) == 1


async def test_a_keeper_that_breaks_while_reading_ahead_harms_nobody(scene: Scene) -> None:
    scene.keepers[0].breaks_at = Lsn(17 * SEGMENT_BYTES + CHUNK_BYTES)
    await scene.fetch(16, ahead_bytes=3 * SEGMENT_BYTES)
    assert scene.content() == scene.segment(16)
    assert scene.ahead() == []
    assert len(scene.warnings) == 1


async def test_reading_ahead_ends_in_time(autojump_clock: MockClock, scene: Scene) -> None:
    scene.keepers[0].stalls_at = Lsn(18 * SEGMENT_BYTES + CHUNK_BYTES)
    before = trio.current_time()
    await scene.fetch(16, ahead_bytes=3 * SEGMENT_BYTES)
    assert trio.current_time() - before == pytest.approx(AHEAD_SECONDS_MAX, abs=1.0)
    assert scene.ahead() == [17]
