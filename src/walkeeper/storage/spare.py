"""Spare segments: zero-filled files made ahead of need, so that the commit that needs the next segment finds one.

A segment whose blocks are allocated and written makes the fdatasync of a small append about twice as fast as a
sparse one, but filling it takes tens of milliseconds: too long for a commit.  So it is filled on another thread,
without the timeline's lock, under a name that means nothing; only ``install``, under the lock, makes it a segment.
While WAL pours in, writing everything twice would cost more than it gains: the spare is then a sparse file.

Rules: nothing but zeroes, never an old segment under a new name (invariant 26).  Filled and synced in bounded pieces, so
that no commit's sync waits behind all of it.  A spare has one name while it is made and another when it is ready:
what is still being filled can never be installed, and nothing piles up.  Recovery deletes both.

For one task that makes spares and reads the timeline again, one after the other.
"""

from pathlib import Path
from typing import Final

from walkeeper.errors import DiskFull, DurabilityLost, FileMissing, StorageError
from walkeeper.storage.disk import Disk
from walkeeper.storage.durable import remove_if_there, rename_synced

SPARE: Final = "walspare"
SPARE_BEING_MADE: Final = "walspare.partial"

PIECE_BYTES: Final = 1 << 20
"""Written and synced at once: a few milliseconds on a slow disk."""


class SpareSegments:
    """The spare of one directory, of ``segment_bytes``.  At most one is kept ready."""

    def __init__(self, disk: Disk, directory: Path, segment_bytes: int) -> None:
        self._disk = disk
        self._spare = directory / SPARE
        self._being_made = directory / SPARE_BEING_MADE
        self._segment_bytes = segment_bytes
        self._is_ready = False  # set and cleared at once: the hand-over between threads

    @property
    def is_ready(self) -> bool:
        return self._is_ready

    def prepare(self, *, sparse: bool = False) -> None:
        """Make a spare unless one is ready.  On any thread, without the timeline's lock.

        Raises StorageError, DiskFull among them; no file is left then, unless it cannot be removed either.  After
        DurabilityLost the process ends, and nothing is touched any more.
        """
        if self._is_ready:
            return
        try:
            self._fill(sparse=sparse)
            rename_synced(self._disk, self._being_made, self._spare)
        except DurabilityLost:
            raise
        except StorageError:
            remove_if_there(self._disk, self._being_made)
            raise
        self._is_ready = True

    def _fill(self, *, sparse: bool) -> None:
        zeroes = bytes(min(PIECE_BYTES, self._segment_bytes))
        remove_if_there(self._disk, self._being_made)  # nobody can have this file open but we
        with self._disk.create(self._being_made) as file:
            if sparse:
                file.truncate(self._segment_bytes)
                file.fsync()
                return
            for offset in range(0, self._segment_bytes, len(zeroes)):
                file.pwritev((zeroes,), offset)
                file.fsync()

    def install(self, segment: Path) -> bool:
        """Make the spare, if it is ready, the file ``segment``, durably.  Under the timeline's lock.

        False if there is none, or if recovery has deleted it.  Raises DiskFull (the spare is gone, no file is new)
        or another StorageError.
        """
        if not self._is_ready:
            return False
        try:
            rename_synced(self._disk, self._spare, segment)
        except FileMissing:
            return False
        except DiskFull:
            self._disk.unlink(self._spare)
            raise
        finally:
            self._is_ready = False  # not before: until then ``prepare`` leaves the name alone
        return True

    def discard(self) -> None:
        """Delete the spare if one is ready; on a directory that stays."""
        if self._is_ready:
            self._is_ready = False
            remove_if_there(self._disk, self._spare)
