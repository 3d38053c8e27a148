"""A segment's way from keepers to where PostgreSQL wants it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from fake_servers import CHUNK_BYTES, SEGMENT_BYTES, SYSTEM_ID, FakeKeeper
from walkeeper.errors import DiskFull, NotKept, Unreachable
from walkeeper.formats.segments import segment_name
from walkeeper.ids import TenantTimelineId
from walkeeper.lsn import Lsn
from walkeeper.testing.memory_disk import Fault, MemoryDisk
from walkeeper.testing.wal import WalGenerator
from walkeeper.tools.committed_wal import STALL_SECONDS_MAX
from walkeeper.tools.fetch_config import FetchConfig
from walkeeper.tools.fetch_wal import AHEAD_SECONDS_MAX, fetch_wal
from walkeeper.tools.spool import Spool

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
        return Spool.beside(self.disk, TARGET, TTID)

    async def fetch(self, segno: int, ahead_bytes: int = 0) -> None:
        addresses = tuple(keeper.address for keeper in self.keepers)
        config = FetchConfig(
            addresses, TTID, name_of(segno), TARGET, server=None, system_id=None, ahead_bytes=ahead_bytes,
            may_be_unfinished=True, timeout_seconds=5.0,
        )  # fmt: skip
        await fetch_wal(config, self.disk, self.spool, self.warnings.append)

    def segment(self, segno: int) -> bytes:
        """As it should be."""
        begin = segno * SEGMENT_BYTES - START
        return bytes(self.wal.wal[begin : begin + SEGMENT_BYTES]).ljust(SEGMENT_BYTES, b"\0")

    def content(self, path: Path = TARGET) -> bytes:
        with self.disk.open(path) as file:
            return file.pread(file.size(), 0)

    def names(self) -> Sequence[str]:
        return self.disk.names(WHERE)

    def ahead(self) -> Sequence[str]:
        return self.disk.names(self.spool.path) if self.disk.is_directory(self.spool.path) else []


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


async def test_a_keeper_that_breaks_in_the_middle_is_followed_by_the_next(scene: Scene) -> None:
    scene.keepers[0].breaks_at = Lsn(17 * SEGMENT_BYTES + 3 * CHUNK_BYTES)
    scene.keepers[1].breaks_at = Lsn(17 * SEGMENT_BYTES + 5 * CHUNK_BYTES)
    await scene.fetch(17)
    assert scene.content() == scene.segment(17)
    begun = [keeper.queries[-1] for keeper in scene.keepers]
    assert begun == [
        f"START_REPLICATION PHYSICAL 0/{lsn:X}"
        for lsn in (17 << 20, (17 << 20) + 3 * CHUNK_BYTES, (17 << 20) + 5 * CHUNK_BYTES)
    ]


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


# -- ahead ---------------------------------------------------------------------------------------------------


async def test_whole_segments_are_read_ahead_in_the_same_stream(scene: Scene) -> None:
    await scene.fetch(16, ahead_bytes=2 * SEGMENT_BYTES + 5)
    assert scene.ahead() == [name_of(17), name_of(18)]
    assert [scene.content(scene.spool.path / name_of(segno)) for segno in (17, 18)] == [
        scene.segment(17),
        scene.segment(18),
    ]
    asked = [query for keeper in scene.keepers for query in keeper.queries if query.startswith("START")]
    assert len(asked) == 1


async def test_an_unfinished_segment_is_never_read_ahead(scene: Scene) -> None:
    await scene.fetch(18, ahead_bytes=10 * SEGMENT_BYTES)
    assert scene.ahead() == [name_of(19)]


async def test_what_a_majority_does_not_know_of_is_never_read_ahead(scene: Scene) -> None:
    for keeper in scene.keepers[1:]:
        keeper.commit_lsn = Lsn(18 * SEGMENT_BYTES)
    await scene.fetch(16, ahead_bytes=10 * SEGMENT_BYTES)
    assert scene.ahead() == [name_of(17)]


async def test_a_miss_empties_the_spool(scene: Scene) -> None:
    await scene.fetch(16, ahead_bytes=3 * SEGMENT_BYTES)
    await scene.fetch(18)
    assert scene.names() == [TARGET.name]


async def test_a_disk_that_is_too_small_for_reading_ahead_harms_nobody(scene: Scene) -> None:
    fill_disk(scene, name_of(18))
    await scene.fetch(16, ahead_bytes=3 * SEGMENT_BYTES)
    assert scene.content() == scene.segment(16)
    assert scene.ahead() == [name_of(17)]
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
    assert scene.ahead() == [name_of(17)]
