"""A data directory belongs to one keeper and one process, and holds whole timelines or none."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from crash_points import SERVER, START, TTID
from walkeeper.errors import ConfigError, DiskFull, DurabilityLost, Exists, FileMissing
from walkeeper.formats.control_file import ControlFile
from walkeeper.ids import NodeId, TenantTimelineId, TimelineId
from walkeeper.lsn import Lsn
from walkeeper.storage.data_directory import DataDirectory, claim
from walkeeper.storage.disk import Disk, OsDisk
from walkeeper.storage.recovery import recover
from walkeeper.testing.memory_disk import Fault, MemoryDisk
from walkeeper.testing.power_loss import Power, lose_power_everywhere

PATH = Path("/data")
NODE = NodeId(7)
CONTROL_FILE = ControlFile(ttid=TTID, server=SERVER, timeline_start_lsn=START)


def new_disk() -> MemoryDisk:
    disk = MemoryDisk()
    disk.mkdir(PATH)
    disk.fsync_dir(PATH.parent)
    return disk


@pytest.fixture
def disk() -> MemoryDisk:
    return new_disk()


@pytest.fixture
def data(disk: MemoryDisk) -> DataDirectory:
    return claim(disk, PATH, NODE)


def put(disk: Disk, path: Path, content: bytes) -> None:
    with disk.create(path) as file:
        file.pwritev((content,), 0)


def get(disk: Disk, path: Path) -> bytes:
    with disk.open(path) as file:
        return file.pread(1000, 0)


def refused(disk: MemoryDisk, node_id: NodeId | None = NODE) -> None:
    """Claiming raises ConfigError and leaves nobody locked out."""
    with pytest.raises(ConfigError):
        claim(disk, PATH, node_id)
    lock = disk.lock(PATH / "safekeeper.pid")
    assert lock is not None
    lock.close()


# -- whose it is --------------------------------------------------------------------------------------------


def test_a_new_directory_keeps_the_number_it_is_given(disk: MemoryDisk) -> None:
    assert claim(disk, PATH, NODE).node_id == 7
    disk.crash(0)
    assert get(disk, PATH / "safekeeper.id") == b"7"
    assert claim(disk, PATH, None).node_id == 7


def test_a_directory_that_was_claimed_once_keeps_its_number_whatever_crashes() -> None:
    async def scenario(power: Power) -> None:
        disk, claimed = new_disk(), False
        with power.on(disk):
            power.may_go()
            claim(disk, PATH, NODE)
            claimed = True
        for survivor in power.survivors():
            data = claim(survivor, PATH, None if claimed else NODE)
            assert data.node_id == NODE

    lose_power_everywhere(scenario)


def test_a_new_directory_needs_a_number(disk: MemoryDisk) -> None:
    refused(disk, None)
    refused(disk, NodeId(0))
    refused(disk, NodeId(2**64))


def test_who_gives_no_number_to_a_new_directory_is_told_how_to(disk: MemoryDisk) -> None:
    with pytest.raises(ConfigError, match="--id"):
        claim(disk, PATH, None)


def test_another_number_than_the_kept_one_is_refused(disk: MemoryDisk, data: DataDirectory) -> None:
    data.close()
    refused(disk, NodeId(8))
    assert claim(disk, PATH, NODE).node_id == 7


@pytest.mark.parametrize("content", [b"", b"7\n", b"seven", b"-7", b" 7", b"0", b"18446744073709551616", b"\xff"])
def test_a_number_that_is_none_is_refused_and_left_alone(content: bytes, disk: MemoryDisk) -> None:
    put(disk, PATH / "safekeeper.id", content)
    refused(disk)
    assert get(disk, PATH / "safekeeper.id") == content


def test_a_second_daemon_is_refused_and_changes_nothing(disk: MemoryDisk, data: DataDirectory) -> None:
    data.create(CONTROL_FILE)
    owner = get(disk, PATH / "safekeeper.pid")
    assert owner.isdigit()
    disk.mkdir(PATH / "tmp" / "being made")
    with pytest.raises(ConfigError, match=owner.decode()):
        claim(disk, PATH, NODE)
    assert get(disk, PATH / "safekeeper.pid") == owner
    assert disk.names(PATH / "tmp") == ["being made"]


def test_the_lock_file_holds_the_owners_process_id_and_nothing_of_an_earlier_one(disk: MemoryDisk) -> None:
    put(disk, PATH / "safekeeper.pid", b"12345678901234")
    claim(disk, PATH, NODE)
    assert get(disk, PATH / "safekeeper.pid") == str(os.getpid()).encode()


def test_a_directory_can_be_claimed_again_when_it_was_closed(disk: MemoryDisk, data: DataDirectory) -> None:
    data.close()
    assert claim(disk, PATH, NODE).node_id == NODE


def test_somebody_elses_directory_is_refused_and_nothing_is_put_there(disk: MemoryDisk) -> None:
    put(disk, PATH / "PG_VERSION", b"17\n")
    with pytest.raises(ConfigError):
        claim(disk, PATH, NODE)
    assert disk.names(PATH) == ["PG_VERSION"]


def test_a_keepers_directory_may_hold_other_files(disk: MemoryDisk, data: DataDirectory) -> None:
    data.close()
    put(disk, PATH / "notes", b"of the operator")
    assert claim(disk, PATH, None).node_id == NODE


def test_a_fresh_volume_with_certificates_is_not_somebody_elses(disk: MemoryDisk) -> None:
    disk.mkdir(PATH / "lost+found")
    put(disk, PATH / "server.key", b"")
    assert claim(disk, PATH, NODE).node_id == NODE


def test_a_directory_that_is_missing_or_unreadable_is_for_a_person_to_put_right(disk: MemoryDisk) -> None:
    with pytest.raises(ConfigError):
        claim(disk, Path("/missing"), NODE)
    disk.faults[disk.operations] = Fault.IO_ERROR
    with pytest.raises(ConfigError):
        claim(disk, PATH, NODE)


def test_a_directory_that_cannot_be_made_durable_is_not_used(disk: MemoryDisk, data: DataDirectory) -> None:
    data.close()
    syncs = []

    def fail_the_last_sync(operation: str, path: Path) -> None:
        if operation == "sync":
            syncs.append(path)
            if len(syncs) == 3:  # the lock, its directory, and then the file system
                disk.faults[disk.operations - 1] = Fault.IO_ERROR

    disk.on_operation = fail_the_last_sync
    with pytest.raises(DurabilityLost):
        claim(disk, PATH, NODE)
    assert syncs[-1] == PATH


def test_wal_that_only_the_page_cache_has_is_durable_once_the_directory_is_claimed(
    disk: MemoryDisk, data: DataDirectory
) -> None:
    put(disk, PATH / "file", b"of an earlier process")
    data.close()
    claim(disk, PATH, NODE)
    disk.crash(0)
    assert get(disk, PATH / "file") == b"of an earlier process"


def test_two_processes_cannot_claim_one_real_directory(tmp_path: Path) -> None:
    data = claim(OsDisk(), tmp_path, NODE)
    with pytest.raises(ConfigError):
        claim(OsDisk(), tmp_path, NODE)
    data.create(CONTROL_FILE)
    assert data.directory_of(TTID) == tmp_path / str(TTID.tenant_id) / str(TTID.timeline_id)
    assert data.timelines() == [TTID]
    assert data.remove(TTID)
    data.close()


# -- its timelines ------------------------------------------------------------------------------------------


def test_a_created_timeline_is_listed_and_survives_a_crash(disk: MemoryDisk, data: DataDirectory) -> None:
    data.create(CONTROL_FILE)
    disk.crash(0)
    data = claim(disk, PATH, NODE)
    assert data.timelines() == [TTID]
    assert recover(disk, data.directory_of(TTID)).control_file == CONTROL_FILE


def test_only_directories_named_by_ids_are_timelines(disk: MemoryDisk, data: DataDirectory) -> None:
    data.create(CONTROL_FILE)
    tenant = data.directory_of(TTID).parent
    put(disk, tenant / ("ab" * 16), b"a file")
    disk.mkdir(tenant / "other")
    disk.mkdir(tenant / ("AB" * 16))
    put(disk, PATH / ("cd" * 16), b"a file")
    assert data.timelines() == [TTID]


def test_a_timeline_cannot_be_created_over_anything(data: DataDirectory) -> None:
    data.create(CONTROL_FILE)
    with pytest.raises(Exists) as caught:
        data.create(replace(CONTROL_FILE, timeline_start_lsn=Lsn(0)))
    assert caught.value.ttid == TTID


def test_a_timeline_that_was_found_on_disk_has_a_durable_name(disk: MemoryDisk, data: DataDirectory) -> None:
    directory = data.directory_of(TTID)
    disk.mkdir(directory.parent)
    disk.mkdir(directory)
    with pytest.raises(Exists):
        data.create(CONTROL_FILE)
    disk.crash(0)
    assert data.timelines() == [TTID]


def test_a_second_timeline_of_a_tenant_stands_beside_the_first(data: DataDirectory) -> None:
    other = TenantTimelineId(TTID.tenant_id, TimelineId(b"m" * 16))
    data.create(CONTROL_FILE)
    data.create(replace(CONTROL_FILE, ttid=other))
    assert data.timelines() == [TTID, other]


def test_a_removed_timeline_is_gone_for_good(disk: MemoryDisk, data: DataDirectory) -> None:
    data.create(CONTROL_FILE)
    put(disk, data.directory_of(TTID) / "000000010000000000000001", b"wal")
    assert data.remove(TTID)
    assert disk.names(PATH / "tmp") == []
    disk.crash(0)
    data = claim(disk, PATH, NODE)
    assert data.timelines() == []
    assert not data.remove(TTID)


def test_a_timeline_that_cannot_be_moved_away_is_not_said_to_be_gone(
    disk: MemoryDisk, data: DataDirectory
) -> None:
    data.create(CONTROL_FILE)
    disk.rmdir(PATH / "tmp")
    with pytest.raises(FileMissing):
        data.remove(TTID)
    assert data.timelines() == [TTID]


def test_what_an_earlier_attempt_has_left_is_not_in_the_way(disk: MemoryDisk, data: DataDirectory) -> None:
    staging = PATH / "tmp" / f"{TTID.tenant_id}_{TTID.timeline_id}_temptli"
    for _ in range(2):
        disk.mkdir(staging)
        put(disk, staging / "stale", b"")
        data.create(CONTROL_FILE)
        assert disk.names(data.directory_of(TTID)) == ["incomplete", "safekeeper.control"]
        disk.mkdir(staging)
        put(disk, staging / "stale", b"")
        assert data.remove(TTID)
        assert disk.names(PATH / "tmp") == []


def test_what_was_half_made_is_cleaned_at_the_next_start(disk: MemoryDisk, data: DataDirectory) -> None:
    disk.mkdir(PATH / "tmp" / "half")
    put(disk, PATH / "tmp" / "half" / "safekeeper.control", b"")
    data.close()
    claim(disk, PATH, NODE)
    assert disk.names(PATH / "tmp") == []


@pytest.mark.parametrize("removing", [False, True])
def test_a_crash_leaves_a_timeline_whole_or_not_at_all(removing: bool) -> None:
    """Hazards L1 and L5, invariant 43: made or removed, and what was interrupted can be done again."""
    counts = set()

    async def scenario(power: Power) -> None:
        disk, done = new_disk(), False
        with power.on(disk):
            data = claim(disk, PATH, NODE)
            if removing:
                data.create(CONTROL_FILE)
            power.may_go()
            data.remove(TTID) if removing else data.create(CONTROL_FILE)
            done = True
        for survivor in power.survivors():
            data = claim(survivor, PATH, NODE)
            found = data.timelines()
            counts.add(len(found))
            assert not done or len(found) == (0 if removing else 1)
            for ttid in found:
                recovered = recover(survivor, data.directory_of(ttid))
                assert (recovered.control_file, recovered.is_whole) == (CONTROL_FILE, False)
                assert data.remove(ttid)
            data.create(CONTROL_FILE)

    lose_power_everywhere(scenario, survivors=range(4))
    assert counts == {0, 1}


def test_a_creation_that_finds_no_space_leaves_nothing_behind(disk: MemoryDisk, data: DataDirectory) -> None:
    left_behind: list[object] = []
    for step in range(40):
        disk.faults = {disk.operations + step: Fault.NO_SPACE}
        try:
            data.create(CONTROL_FILE)
        except DiskFull:
            left_behind.append([*disk.names(PATH / "tmp"), *data.timelines()])
        except DurabilityLost:
            pass
        disk.faults = {}
        data.remove(TTID)
    assert len(left_behind) > 5
    assert not any(left_behind)
