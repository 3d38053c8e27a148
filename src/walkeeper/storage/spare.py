"""Spare segments: zero-filled files made ahead of need, so that the commit that needs the next segment finds one.

A segment whose blocks are allocated and written makes the fdatasync of a small append about twice as fast as a
sparse one, but filling it takes tens of milliseconds: too long for a commit.  So it is filled on another thread,
without the timeline's lock, under a name that means nothing; only ``install``, under the lock, makes it a segment.
While WAL pours in, writing everything twice would cost more than it gains: the spare is then a sparse file.

Rules: nothing but zeroes, never an old segment under a new name (invariant 26).  Filled and synced in bounded pieces, so
that no commit's sync waits behind all of it.  Every file has a name of its own, so that one that is being filled
can neither be installed nor be mistaken for another; what is never installed, recovery deletes.
"""

from collections import deque
from itertools import count
from pathlib import Path
from typing import Final

from walkeeper.errors import DiskFull, FileMissing
from walkeeper.storage.disk import Disk
from walkeeper.storage.durable import remove_if_there, rename_synced

SPARE_PREFIX: Final = "walspare."

PIECE_BYTES: Final = 1 << 20
"""Written and synced at once: a few milliseconds on a slow disk."""


class SpareSegments:
    """The spares of one directory, each of ``segment_bytes``.  At most one is kept ready."""

    def __init__(self, disk: Disk, directory: Path, segment_bytes: int) -> None:
        self._disk = disk
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._numbers = count()
        self._ready: deque[Path] = deque()  # appending and popping are atomic: the hand-over between threads

    @property
    def is_ready(self) -> bool:
        return bool(self._ready)

    def prepare(self, *, sparse: bool = False) -> None:
        """Make a spare unless one is ready.  On any thread, without the timeline's lock.

        Raises StorageError, DiskFull among them; no file is left then, unless it cannot be removed either.
        """
        if self.is_ready:
            return
        path = self._unused_name()
        try:
            self._fill(path, sparse=sparse)
        except DiskFull:
            remove_if_there(self._disk, path)
            raise
        self._ready.append(path)

    def _unused_name(self) -> Path:
        """A name that nobody else fills: whoever does is alive, and so has another id than we."""
        return self._directory / f"{SPARE_PREFIX}{id(self):x}.{next(self._numbers)}"

    def _fill(self, path: Path, *, sparse: bool) -> None:
        zeroes = bytes(min(PIECE_BYTES, self._segment_bytes))
        with self._disk.create(path) as file:
            if sparse:
                file.truncate(self._segment_bytes)
                file.fsync()
                return
            for offset in range(0, self._segment_bytes, len(zeroes)):
                file.pwritev((zeroes,), offset)
                file.fsync()

    def install(self, segment: Path) -> bool:
        """Make a spare that is ready the file ``segment``, durably.  Under the timeline's lock.

        False if there is none, or if recovery has deleted it.  Raises DiskFull (the spare is gone, no file is new)
        or another StorageError.
        """
        if not self._ready:
            return False
        spare = self._ready.popleft()
        try:
            rename_synced(self._disk, spare, segment)
        except FileMissing:
            return False
        except DiskFull:
            remove_if_there(self._disk, spare)
            raise
        return True

    def discard(self) -> None:
        """Delete the spares that are ready; on a directory that stays."""
        while self._ready:
            remove_if_there(self._disk, self._ready.popleft())
