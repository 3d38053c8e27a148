"""Files that are made for PostgreSQL: whole under their name, and never another's."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from walkeeper.errors import DiskFull, Superseded
from walkeeper.testing.memory_disk import Fault, MemoryDisk
from walkeeper.tools.segment_file import TEMPORARY_MARK, NewFile, new_file

WHERE = Path("/pg_wal")
TARGET = WHERE / "RECOVERYXLOG"


@pytest.fixture
def disk() -> MemoryDisk:
    disk = MemoryDisk()
    disk.mkdir(WHERE)
    disk.syncfs(WHERE)
    return disk


def content(disk: MemoryDisk) -> bytes:
    with disk.open(TARGET) as file:
        return file.pread(file.size(), 0)


def test_a_file_has_its_name_when_it_is_durable_and_nothing_else_is_left(disk: MemoryDisk) -> None:
    with new_file(disk, TARGET) as new:
        new.content.pwritev([b"content"], 0)
        assert TARGET.name not in disk.names(WHERE)
        new.finish(TARGET)
    disk.crash(seed=0)
    assert disk.names(WHERE) == [TARGET.name]
    assert content(disk) == b"content"


def test_what_gets_no_name_is_gone(disk: MemoryDisk) -> None:
    with new_file(disk, TARGET) as new:
        new.content.pwritev([b"content"], 0)
    assert disk.names(WHERE) == []


def test_of_two_that_are_made_at_once_only_the_later_gets_the_name_and_their_bytes_never_meet(
    disk: MemoryDisk,
) -> None:
    with new_file(disk, TARGET) as older, new_file(disk, TARGET) as newer:
        older.content.pwritev([b"old and long"], 0)
        newer.content.pwritev([b"new"], 0)
        with pytest.raises(Superseded):
            older.finish(TARGET)
        newer.finish(TARGET)
        older.content.pwritev([b"still there"], 0)
        with pytest.raises(Superseded):
            older.finish(TARGET)
    assert content(disk) == b"new"
    assert disk.names(WHERE) == [TARGET.name]


class WatchedDisk(MemoryDisk):
    """Calls ``on_names`` before and after names are looked at."""

    on_names: Callable[[], None] = staticmethod(lambda: None)

    def names(self, path: Path) -> Sequence[str]:
        self.on_names()
        names = super().names(path)
        self.on_names()
        return names


@pytest.mark.parametrize("moment", [1, 2])
def test_of_two_that_begin_in_the_same_instant_one_gets_to_give_its_name(moment: int) -> None:
    disk = WatchedDisk()
    disk.mkdir(WHERE)
    moments = iter(range(1, 100))

    with ExitStack() as stack:

        def begin_another() -> None:
            if next(moments) == moment:
                others.append(stack.enter_context(new_file(disk, TARGET)))

        others: list[NewFile] = []
        disk.on_names = begin_another
        for new in [stack.enter_context(new_file(disk, TARGET)), *others]:
            with suppress(Superseded):
                new.finish(TARGET)
        assert len(others) == 1
    assert disk.names(WHERE) == [TARGET.name]


def test_a_call_that_was_superseded_puts_nothing_else_there_either(disk: MemoryDisk) -> None:
    disk.create(WHERE / "ahead").close()
    with new_file(disk, TARGET) as older, new_file(disk, TARGET) as newer:
        with pytest.raises(Superseded):
            older.give_way(WHERE / "ahead")
        newer.give_way(WHERE / "ahead")
    assert disk.names(WHERE) == [TARGET.name]


def test_what_a_killed_call_left_goes_with_the_next_and_other_files_stay(disk: MemoryDisk) -> None:
    others = ["000000010000000000000003", "RECOVERYHISTORY", f"RECOVERYXLOG2{TEMPORARY_MARK}1"]
    for name in (*others, f"RECOVERYXLOG{TEMPORARY_MARK}1", f"RECOVERYXLOG{TEMPORARY_MARK}2"):
        disk.create(WHERE / name).close()
    with new_file(disk, TARGET):
        pass
    assert disk.names(WHERE) == others


def test_a_disk_that_is_full_at_once_leaves_nothing(disk: MemoryDisk) -> None:
    disk.faults[disk.operations] = Fault.NO_SPACE
    with pytest.raises(DiskFull), new_file(disk, TARGET):
        pass
    assert disk.names(WHERE) == []
