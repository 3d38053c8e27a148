"""Files are replaced whole, durably, or not at all."""

from copy import deepcopy
from pathlib import Path

import pytest

from walkeeper.errors import DiskFull, DurabilityLost, StorageError
from walkeeper.storage.durable import remove_tree, rename_synced, replace_file
from walkeeper.testing.memory_disk import Fault, MemoryDisk
from walkeeper.testing.power_loss import Power, lose_power_everywhere

FILE = Path("/file")
TEMPORARY = "file.tmp"


def content(disk: MemoryDisk, path: Path = FILE) -> bytes:
    with disk.open(path) as file:
        return file.pread(file.size(), 0)


@pytest.fixture
def disk() -> MemoryDisk:
    disk = MemoryDisk()
    replace_file(disk, FILE, b"old", temporary=TEMPORARY)
    return disk


def test_a_replaced_file_survives_any_crash(disk: MemoryDisk) -> None:
    replace_file(disk, FILE, b"new", temporary=TEMPORARY)
    disk.crash(0)
    assert content(disk) == b"new"
    assert disk.names(Path("/")) == ["file"]


def test_a_file_can_be_made_longer_than_its_content(disk: MemoryDisk) -> None:
    replace_file(disk, FILE, b"new", temporary=TEMPORARY, size=6)
    disk.crash(0)
    assert content(disk) == b"new\0\0\0"


def test_a_crash_at_any_moment_leaves_the_old_or_the_new_file(disk: MemoryDisk) -> None:
    """Hazards C1 and W9: what is made under a temporary name has its own only when it is durable (invariant 32)."""
    found: set[bytes] = set()

    async def scenario(power: Power) -> None:
        crashing = deepcopy(disk)
        with power.on(crashing):
            power.may_go()
            replace_file(crashing, FILE, b"new", temporary=TEMPORARY)
        found.update(content(survivor) for survivor in power.survivors())

    lose_power_everywhere(scenario, survivors=range(4))
    assert found == {b"old", b"new"}


def test_a_full_disk_leaves_the_old_file_and_nothing_else(disk: MemoryDisk) -> None:
    full = 0
    for step in range(20):
        crashing = deepcopy(disk)
        crashing.faults[crashing.operations + step] = Fault.NO_SPACE
        try:
            replace_file(crashing, FILE, b"new", temporary=TEMPORARY)
        except DiskFull:
            full += 1
            assert crashing.names(Path("/")) == ["file"]
            assert content(crashing) == b"old"
        except DurabilityLost:
            pass
    assert full == 3  # create, write, rename


def test_a_temporary_file_that_cannot_be_removed_is_not_just_a_full_disk(disk: MemoryDisk) -> None:
    disk.faults[disk.operations + 1] = Fault.NO_SPACE
    disk.faults[disk.operations + 2] = Fault.IO_ERROR
    with pytest.raises(StorageError) as caught:
        replace_file(disk, FILE, b"new", temporary=TEMPORARY)
    assert not isinstance(caught.value, DiskFull)


def test_a_rename_between_directories_is_durable_in_both(disk: MemoryDisk) -> None:
    disk.mkdir(Path("/directory"))
    rename_synced(disk, FILE, Path("/directory/file"))
    disk.crash(0)
    assert disk.names(Path("/")) == ["directory"]
    assert content(disk, Path("/directory/file")) == b"old"


def test_a_tree_is_removed_with_all_that_is_in_it(disk: MemoryDisk) -> None:
    disk.mkdir(Path("/tree"))
    disk.mkdir(Path("/tree/branch"))
    disk.create(Path("/tree/branch/leaf")).close()
    for _ in range(2):
        remove_tree(disk, Path("/tree"))
        assert disk.names(Path("/")) == ["file"]
    remove_tree(disk, FILE)
    assert disk.names(Path("/")) == []
