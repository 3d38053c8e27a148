"""Storage that cuts a corner: losing power everywhere must notice every one of them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sabotage.defect import defect
from simulation.test_power_loss import live_through
from stories import (
    Story,
    append,
    append_over_a_segment_end,
    commit_that_makes_whole,
    first_election,
    greeting,
    switch_without_its_padding,
    truncation,
    vote,
)
from walkeeper.acceptor import acceptor
from walkeeper.acceptor.acceptor import Intent, Kept, Performer
from walkeeper.acceptor.effects import BecomeWhole, Effect, KeepControlFile, SyncWal
from walkeeper.errors import ConfigError, Corrupt, leaves
from walkeeper.formats.control_file import ControlFile
from walkeeper.ids import TimelineNumber
from walkeeper.lsn import Lsn
from walkeeper.messages import Slice
from walkeeper.storage import data_directory, recovery, store, wal
from walkeeper.storage.disk import Disk, File
from walkeeper.storage.durable import rename_synced
from walkeeper.testing.memory_disk import MemoryDisk, MemoryFile
from walkeeper.testing.power_loss import lose_power_everywhere

pytestmark = pytest.mark.usefixtures("steady_clocks")


@defect
class CarelessFile(MemoryFile):
    """Says that its content is durable, and does nothing about it."""

    def fdatasync(self) -> None:
        pass


@defect
class CarelessWithSizes(MemoryFile):
    """Makes content durable, but not the size."""

    def fsync(self) -> None:
        self.fdatasync()


@defect
class NeverShorter(MemoryFile):
    """Ignores that it shall be cut."""

    def truncate(self, size: int) -> None:
        super().truncate(max(size, self.size()))


@defect
class ForgetsNames(MemoryDisk):
    """Does not sync directories."""

    def fsync_dir(self, path: Path) -> None:
        pass


@defect
class RenamesTooEarly(wal.Wal):
    """Gives a segment its final name before its content is durable."""

    def _complete(self, file: File) -> None:
        rename_synced(self._disk, file.path, file.path.with_suffix(""))
        self.sync()
        self._let_go()


@defect
class CutsUnderItsFinalName(wal.Wal):
    """Takes the promise of a complete segment back after it was broken, not before."""

    def _cut(self, path: Path, lsn: Lsn) -> File:
        for name in (path, wal.partial(path)):
            if name.name in self._disk.names(self._directory):
                with self._disk.open_for_writing(name) as file:
                    file.truncate(lsn % self._segment_bytes)
        return super()._cut(path, lsn)


@defect
class RemovesUpwards(wal.Wal):
    """Leaves all later segments where they are."""

    def _remove(self, present: Sequence[wal.Segment], first_segno: int) -> None:
        pass


@defect
class LeavesOldNames(wal.Wal):
    """Leaves a segment that an XLOG_SWITCH has filled without its final name (hazard 2.9)."""

    def _complete_before(self, present: Sequence[wal.Segment], lsn: Lsn) -> None:
        pass


@defect
class DropsTheLastSlice(wal.Wal):
    """Writes zeroes instead of the last piece of what came together."""

    def write(self, begin_lsn: Lsn, slices: Sequence[Slice], tli: TimelineNumber) -> None:
        super().write(begin_lsn, [*slices[:-1], bytes(len(slices[-1]))], tli)


@defect
class ForgetsToSync(store.TimelineStore):
    """Acknowledges WAL that is in the page cache only."""

    def perform(self, effect: Effect) -> None:
        if not isinstance(effect, SyncWal):
            super().perform(effect)


@defect
def replace_in_place(disk: Disk, path: Path, content: bytes, *, temporary: str) -> None:
    """A control file that is overwritten where it is."""
    with disk.create(path) as file:
        file.pwritev((content,), 0)
        file.fsync()
    disk.fsync_dir(path.parent)


@defect
def rename_before_the_sync(disk: Disk, path: Path, content: bytes, *, temporary: str) -> None:
    """A control file that gets its name before its content is durable."""
    with disk.create(path.with_name(temporary)) as file:
        file.pwritev((content,), 0)
        disk.rename(file.path, path)
        file.fsync()
    disk.fsync_dir(path.parent)


@defect
def keep_leftovers(disk: Disk, directory: Path) -> None:
    """A recovery that does not clean up."""


@defect
def write_as_if_whole(disk: Disk, directory: Path, control_file: ControlFile) -> None:
    """A new timeline passes for one that has everything."""
    store.write_control_file(disk, directory, control_file)


@defect
def stay_incomplete(disk: Disk, path: Path) -> None:
    """A keeper that became whole does not remember it."""


@defect
class HistoryBeforeTruncation(Intent):
    """Control file first, WAL later: old WAL gets the new leader's name."""

    def keep(self, store: Performer) -> Kept:
        effects = sorted(self.effects, key=lambda effect: not isinstance(effect, KeepControlFile))
        return Intent(effects, self._kept).keep(store)


@defect
class WholeBeforeItsWal(Intent):
    """Says of itself that it has everything, and makes that durable later."""

    def keep(self, store: Performer) -> Kept:
        effects = sorted(self.effects, key=lambda effect: not isinstance(effect, BecomeWhole))
        return Intent(effects, self._kept).keep(store)


def assert_caught(story: Callable[[], Story]) -> None:
    with pytest.raises(BaseException) as caught:  # some are told of by the keeper, some in groups
        survive(story)
    assert {type(error) for error in leaves(caught.value)} <= {AssertionError, Corrupt, ConfigError}
    assert any(note.startswith("power lost") for note in caught.value.__notes__)


def survive(story: Callable[[], Story]) -> None:
    lose_power_everywhere(lambda power: live_through(story(), power))


@pytest.mark.parametrize(
    ("file_class", "story"),
    [(CarelessFile, append), (CarelessWithSizes, first_election), (NeverShorter, truncation)],
)
def test_a_file_that_cuts_a_corner_is_caught(
    file_class: type[MemoryFile], story: Callable[[], Story], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryDisk, "file_class", file_class)
    assert_caught(story)


def test_directories_that_are_not_synced_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keeping.MemoryDisk", ForgetsNames)
    assert_caught(vote)


@pytest.mark.parametrize(
    ("wal_class", "story"),
    [
        (RenamesTooEarly, append_over_a_segment_end),
        (CutsUnderItsFinalName, truncation),
        (RemovesUpwards, truncation),
        (LeavesOldNames, switch_without_its_padding),
        (DropsTheLastSlice, append),
    ],
)
def test_wal_that_cuts_a_corner_is_caught(
    wal_class: type[wal.Wal], story: Callable[[], Story], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "Wal", wal_class)
    assert_caught(story)


def test_a_store_that_skips_the_sync_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_directory, "TimelineStore", ForgetsToSync)
    assert_caught(append)


@pytest.mark.parametrize("replace", [replace_in_place, rename_before_the_sync])
def test_a_control_file_that_is_not_replaced_whole_is_caught(
    replace: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "replace_file", replace)
    assert_caught(vote)


def test_a_recovery_that_leaves_temporary_files_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "remove_leftovers", keep_leftovers)
    assert_caught(append_over_a_segment_end)


def test_a_new_timeline_that_passes_for_whole_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_directory, "write_new_timeline", write_as_if_whole)
    assert_caught(greeting)


def test_a_store_that_does_not_remember_that_it_became_whole_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "remove_if_there", stay_incomplete)
    assert_caught(commit_that_makes_whole)


@pytest.mark.parametrize(
    ("intent", "story"), [(HistoryBeforeTruncation, truncation), (WholeBeforeItsWal, commit_that_makes_whole)]
)
def test_effects_in_another_order_are_caught(
    intent: type[Intent], story: Callable[[], Story], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hazard T5: the history after the truncation, and what depends on WAL after the WAL."""
    monkeypatch.setattr(acceptor, "Intent", intent)
    assert_caught(story)
