"""The WAL of one timeline as one growing file, kept in segments.

The segment that is being written is ``<name>.partial`` and has its full size from the beginning, so that fdatasync
is enough.  It is made under a temporary name and gets its own when it is durable; when it is full it is synced and
loses the suffix.  So a file without the suffix is whole, written to its end and synced (invariant 28).

Rules:
* Behind the end of the WAL there are only zeroes, and no later segment (invariant 26).  Whatever breaks that
  (an error, a crash, an operation of which only a part was kept) is repaired by the ``truncate`` that ``write``
  does first when the WAL does not end where it begins (invariant 27).
* Writes are positional; nothing depends on what an earlier call left in memory (hazards W1 to W6).
* ``.partial`` is tried first, then the final name: completion renames in this direction.
* DiskFull means that everything is as before the call.  Where that cannot be had, it is another StorageError.

Not for several threads, except ``prepare_spare``.  Does not know records, terms or what is committed.
Source: Neon's ``wal_storage.rs``; PostgreSQL ``access/transam/xlog.c`` (XLogFileInit).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Final, NamedTuple

from walkeeper.errors import Corrupt, DiskFull, FileMissing, StorageError
from walkeeper.formats.segments import (
    PARTIAL_SUFFIX,
    parse_segment_name,
    segment_name,
    segment_number,
    segment_offset,
)
from walkeeper.ids import NO_TLI, TimelineNumber
from walkeeper.lsn import Lsn, format_lsn
from walkeeper.messages import Slice
from walkeeper.storage.disk import Disk, File
from walkeeper.storage.durable import remove_if_there, rename_synced, replace_file
from walkeeper.storage.spare import SpareSegments

SEGMENT_BEING_MADE: Final = "waltmp"
"""The name of a segment that is not one yet, as Neon has it: leftovers are ignored by everybody."""

BULK_BYTES_PER_SECOND: Final = 64 * 1024 * 1024
"""WAL that comes faster is a load or a catch-up, not commits: the disk's bandwidth is worth more than latency."""

REMOVE_SEGMENT: Final = "remove_segment"
"""What observers call the removal of one segment."""

Observe = Callable[[str, float, int], None]
"""Told about each operation that succeeded: its name, seconds, bytes."""


def unobserved(_operation: str, _seconds: float, _size: int) -> None:
    """Nobody watches."""


class observed:  # noqa: N801
    """Tells ``observe`` how long the block took and how many bytes it was about, unless it raises."""

    __slots__ = ("_began", "_observe", "_operation", "_size")

    def __init__(self, observe: Observe, operation: str, size: int = 0) -> None:
        self._observe = observe
        self._operation = operation
        self._size = size

    def __enter__(self) -> None:
        self._began = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if error is None:
            self._observe(self._operation, perf_counter() - self._began, self._size)


class Segment(NamedTuple):
    """A segment file that is there.  Sorted by number, complete before partial."""

    segno: int
    is_partial: bool
    tli: TimelineNumber
    path: Path


def segments_in(disk: Disk, directory: Path, segment_bytes: int) -> list[Segment]:
    """Every segment in ``directory``, of any PostgreSQL timeline, in the order of their numbers."""
    parsed = ((name, parse_segment_name(name, segment_bytes)) for name in disk.names(directory))
    return sorted(
        Segment(found.segno, found.partial, found.tli, directory / name) for name, found in parsed if found
    )


def segment_path(directory: Path, tli: TimelineNumber, lsn: int, segment_bytes: int) -> Path:
    """The final name of the segment that holds the byte at ``lsn``."""
    return directory / segment_name(tli, segment_number(lsn, segment_bytes), segment_bytes)


def partial(path: Path) -> Path:
    """The name of the same segment while it is being written."""
    return path.with_name(path.name + PARTIAL_SUFFIX)


def split_at_segments(
    begin_lsn: Lsn, slices: Sequence[Slice], segment_bytes: int
) -> Iterator[tuple[Lsn, Sequence[Slice], int]]:
    """Which of the bytes that begin at ``begin_lsn`` go where: (LSN, slices, length) for each segment."""
    room = segment_bytes - segment_offset(begin_lsn, segment_bytes)
    total = sum(map(len, slices))
    if 0 < total < room:  # nearly always
        yield begin_lsn, slices, total
        return
    lsn, length = begin_lsn, 0
    pieces: list[Slice] = []
    for piece in slices:
        rest: Slice = piece
        while len(rest) >= room:
            head, rest = memoryview(rest)[:room], memoryview(rest)[room:]
            yield lsn, [*pieces, head], length + room
            lsn, pieces, length, room = Lsn(lsn + length + room), [], 0, segment_bytes
        if len(rest):
            pieces.append(rest)
            length += len(rest)
            room -= len(rest)
    if pieces:
        yield lsn, pieces, length


@contextmanager
def no_way_back(doing: str) -> Iterator[None]:
    """A disk that is full in this block is not DiskFull to the caller: what was begun stays half done."""
    try:
        yield
    except DiskFull as full:
        raise StorageError(f"the disk was full while {doing}: {full}") from full


class Wal:
    """The segments in ``directory``, each of ``segment_bytes``.

    Nothing is known at first of where the WAL ends: the first ``write`` or ``truncate`` settles it.
    """

    def __init__(self, disk: Disk, directory: Path, segment_bytes: int, observe: Observe = unobserved) -> None:
        self.spares = SpareSegments(disk, directory, segment_bytes)
        self._disk = disk
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._observe = observe
        self._end_lsn: Lsn | None = None  # None: not known, or what is behind it is not known to be zero
        self._file: File | None = None  # the segment that is being written
        self._is_dirty = False
        self._segment_began_at = perf_counter()

    # -- writing --------------------------------------------------------------------------------------------

    def write(self, begin_lsn: Lsn, slices: Sequence[Slice], tli: TimelineNumber) -> None:
        """Write ``slices`` at ``begin_lsn``, which is from now on where the WAL ended before; ``sync`` makes it durable.

        Raises DiskFull (everything is as it was), Corrupt (there is no WAL up to ``begin_lsn``) or another
        StorageError (anything may have been written: truncate, or read the timeline again).
        """
        if begin_lsn != self._end_lsn:
            self.truncate(begin_lsn, tli)
        was_open = self._file is not None
        self._end_lsn = None
        try:
            end_lsn = self._append(begin_lsn, slices, tli)
        except DiskFull:
            with no_way_back("room was being made again"):
                if was_open:
                    self.truncate(begin_lsn, tli)
                else:
                    self._drop(segment_number(begin_lsn, self._segment_bytes), begin_lsn)
            raise
        self._end_lsn = end_lsn

    def _append(self, begin_lsn: Lsn, slices: Sequence[Slice], tli: TimelineNumber) -> Lsn:
        end_lsn = begin_lsn
        for lsn, pieces, length in split_at_segments(begin_lsn, slices, self._segment_bytes):
            file = self._file or self._make_segment(lsn, tli)
            self._file = file
            self._is_dirty = True
            file.pwritev(pieces, segment_offset(lsn, self._segment_bytes))
            end_lsn = Lsn(lsn + length)
            if segment_offset(end_lsn, self._segment_bytes) == 0:
                self._complete(file)
        return end_lsn

    def _complete(self, file: File) -> None:
        """Sync a full segment and give it its final name (invariant 28)."""
        self.sync()
        self._let_go()
        rename_synced(self._disk, file.path, file.path.with_name(file.path.name.removesuffix(PARTIAL_SUFFIX)))

    def sync(self) -> None:
        """Make everything written so far durable.  Raises DurabilityLost."""
        if self._is_dirty and self._file is not None:
            self._file.fdatasync()
        self._is_dirty = False

    def is_open_for(self, begin_lsn: Lsn, size: int) -> bool:
        """Whether writing ``size`` bytes at ``begin_lsn`` and syncing them is all there is to do: in the open segment, which
        they do not fill."""
        is_next = self._file is not None and begin_lsn == self._end_lsn
        return is_next and segment_offset(begin_lsn, self._segment_bytes) + size < self._segment_bytes

    # -- making segments ------------------------------------------------------------------------------------

    def initialize_first_segment(self, lsn: Lsn, head: bytes, tli: TimelineNumber) -> None:
        """Make the segment of ``lsn`` with ``head``, the bytes before ``lsn``, in the place of all that are there.

        There is no WAL yet, so what may be there was never spoken of: earlier attempts that were interrupted, perhaps
        at other positions.  Raises DiskFull (no segment was made) or another StorageError.
        """
        assert len(head) == segment_offset(lsn, self._segment_bytes)
        self._forget_end()
        self._remove(segments_in(self._disk, self._directory, self._segment_bytes), first_segno=0)
        self._make_sparse(partial(segment_path(self._directory, tli, lsn, self._segment_bytes)), head)

    def _make_segment(self, lsn: Lsn, tli: TimelineNumber) -> File:
        """The segment of ``lsn``, full of zeroes and ``.partial``: a spare if one is ready."""
        path = partial(segment_path(self._directory, tli, lsn, self._segment_bytes))
        with observed(self._observe, "initialize_segment", self._segment_bytes):
            if not self.spares.install(path):
                self._make_sparse(path)
        self._segment_began_at = perf_counter()
        return self._disk.open_for_writing(path)

    def _make_sparse(self, path: Path, head: bytes = b"") -> None:
        """A segment without blocks: quick to make, on the path of a commit."""
        replace_file(self._disk, path, head, temporary=SEGMENT_BEING_MADE, size=self._segment_bytes)

    # -- truncating -----------------------------------------------------------------------------------------

    def truncate(self, lsn: Lsn, tli: TimelineNumber) -> None:
        """Make ``lsn`` the end of the WAL.  Can be done again after an interruption at any step (hazards T1 to T4).

        Later segments are removed, the highest first.  Earlier ones get their final names; one whose end never came
        because an XLOG_SWITCH filled it has zeroes there, which is just its padding.  The segment of ``lsn`` gets its
        ``.partial`` name durably *before* it is cut.  Without a ``tli`` there is no WAL yet, and every segment is
        removed: none of them was ever spoken of, and a stale one must never get a final name.

        Raises DiskFull (nothing has changed), Corrupt (the WAL does not reach ``lsn``) or another StorageError.
        """
        if tli == NO_TLI:
            with no_way_back(f"removing segments before WAL begins at {format_lsn(lsn)}"):
                self._drop(0, lsn)
            return
        self._forget_end()
        present = segments_in(self._disk, self._directory, self._segment_bytes)
        path = segment_path(self._directory, tli, lsn, self._segment_bytes)
        if not any(segment.path in (path, partial(path)) for segment in present):
            self._make_missing(lsn, tli)
        with no_way_back(f"truncating WAL at {format_lsn(lsn)}"):
            self._remove(present, segment_number(lsn, self._segment_bytes) + 1)
            self._complete_before(present, lsn)
            self._file = self._cut(path, lsn)
            self._disk.fsync_dir(self._directory)
        self._end_lsn = lsn

    def _drop(self, first_segno: int, lsn: Lsn) -> None:
        """Remove the segments from ``first_segno`` on, durably: the WAL ends at ``lsn``, which has no segment yet."""
        self._forget_end()
        self._remove(segments_in(self._disk, self._directory, self._segment_bytes), first_segno)
        self._disk.fsync_dir(self._directory)
        self._end_lsn = lsn

    def _make_missing(self, lsn: Lsn, tli: TimelineNumber) -> None:
        """The segment of ``lsn`` where WAL ends at its very start; a hole elsewhere would be a lie (invariant 25)."""
        if segment_offset(lsn, self._segment_bytes):
            missing = segment_path(self._directory, tli, lsn, self._segment_bytes)
            raise Corrupt(f"is missing, but holds WAL up to {format_lsn(lsn)}", path=str(missing))
        self._make_segment(lsn, tli).close()

    def _remove(self, present: Sequence[Segment], first_segno: int) -> None:
        for segment in reversed(present):
            if segment.segno >= first_segno:
                with observed(self._observe, REMOVE_SEGMENT, self._segment_bytes):
                    self._disk.unlink(segment.path)

    def _complete_before(self, present: Sequence[Segment], lsn: Lsn) -> None:
        """Give the segments before that of ``lsn`` their final names.

        A short one was made in place by a version that did so; its zeroes are only missing from the file.
        """
        for segment in present:
            if segment.is_partial and segment.segno < segment_number(lsn, self._segment_bytes):
                with self._disk.open_for_writing(segment.path) as file:
                    file.truncate(self._segment_bytes)
                    file.fsync()
                name = segment_name(segment.tli, segment.segno, self._segment_bytes)
                rename_synced(self._disk, segment.path, self._directory / name)

    def _cut(self, path: Path, lsn: Lsn) -> File:
        """Open the segment at ``path`` under its ``.partial`` name, with zeroes from ``lsn`` on."""
        file = self._open_partial(path)
        offset = segment_offset(lsn, self._segment_bytes)
        try:
            if file.size() < offset:
                raise Corrupt(f"ends before {format_lsn(lsn)}", path=str(file.path))
            file.truncate(offset)
            file.truncate(self._segment_bytes)
            file.fsync()
        except StorageError:
            file.close()
            raise
        return file

    def _open_partial(self, path: Path) -> File:
        try:
            file = self._disk.open_for_writing(partial(path))
        except FileMissing:
            rename_synced(self._disk, path, partial(path))  # before it is cut: a complete name is a promise
            return self._disk.open_for_writing(partial(path))
        remove_if_there(self._disk, path)  # of an interrupted start at another place: never the better one
        return file

    # -- the rest -------------------------------------------------------------------------------------------

    @property
    def wants_spare(self) -> bool:
        """Whether the next segment will be needed soon and is not ready.  May be asked without the lock."""
        end_lsn = self._end_lsn
        if end_lsn is None or self.spares.is_ready:
            return False
        return segment_offset(end_lsn, self._segment_bytes) > self._segment_bytes // 2

    def prepare_spare(self) -> None:
        """Make the next segment.  On any thread, without the lock.  Raises StorageError."""
        end_lsn = self._end_lsn or 0
        written = segment_offset(end_lsn, self._segment_bytes)
        pours_in = written > (perf_counter() - self._segment_began_at) * BULK_BYTES_PER_SECOND
        self.spares.prepare(sparse=pours_in)

    def close(self) -> None:
        """Give the files back.  What was synced stays, and nothing else was promised."""
        self._forget_end()
        self.spares.discard()

    def _forget_end(self) -> None:
        self._end_lsn = None
        self._let_go()

    def _let_go(self) -> None:
        self._is_dirty = False
        if self._file is not None:
            self._file.close()
            self._file = None
