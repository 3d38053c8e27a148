"""The disk as primitives: blocking calls on paths and open files, and what their failures are called.

Rules:
* A write writes everything or raises; after a raise any part of it may be in the file.
* ENOENT, and nothing else, means "does not exist": ``FileMissing``.
* ENOSPC and EDQUOT are ``DiskFull``.  Here that only says why *this* call failed; whoever began something larger
  must undo it before letting the error out.
* EMFILE and ENFILE are ``OutOfFiles``.  Whatever may open files to change them asks for descriptors first, on the thread
  that does it all (``require_files``), and once it has begun it takes from those that are held back: what is half done
  must not end because clients have all the rest.  What is closed while some are missing is held back again in the same
  moment, so what counts is how many files are open at once, not how many are opened.  That is true of this process's
  descriptors; where the whole machine has none (ENFILE), other programs may be faster.
* A failed sync, whatever its errno, is ``DurabilityLost``.  It is never tried again: Linux marks the pages clean
  and the second attempt succeeds without them (invariant 29).
* Everything else is ``StorageError`` with the operation and the path.

Only this module calls fsync and its kin.  Does not know WAL, control files or which order is durable
(``storage.durable``).  ``walkeeper.testing.MemoryDisk`` is the same in memory, with crashes.
Source: POSIX; Linux syncfs(2), fdatasync(2), flock(2).
"""

import ctypes
import errno
import fcntl
import os
import stat
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar

from walkeeper.errors import DiskFull, DurabilityLost, FileMissing, OutOfFiles, StorageError, TooFewFiles
from walkeeper.messages import Slice

T = TypeVar("T")

SLICES_PER_WRITE_MAX: Final = 1024
"""IOV_MAX of Linux: pwritev(2) refuses more."""

_FILE_MODE: Final = 0o600
_DIRECTORY_MODE: Final = 0o700
"""WAL holds the database's content: nobody else's business (PostgreSQL's own modes)."""

FILES_PER_JOB: Final = 8
"""Descriptors for what has been begun.  Two files at most are open at once, and listing a directory, three times at most,
gives one away.  The rest is to spare: between giving one free and opening a file, somebody else may be quick enough."""

FILES_HELD_BACK: Final = 8 * FILES_PER_JOB
"""So many jobs are at work at once (``offload.THREADS``), and none begins unless all of these are there: what the others
take meanwhile leaves enough for it."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE})


class File(Protocol):
    """An open file.  Positions are always given, so none is kept: several threads may read and write at once."""

    @property
    def path(self) -> Path:
        """The name the file was opened by; a rename does not change it."""

    def pwritev(self, slices: Sequence[Slice], offset: int) -> None:
        """Write ``slices`` one after the other from ``offset`` (bytes) on, all of them."""

    def pread(self, length: int, offset: int) -> bytes:
        """The ``length`` bytes at ``offset``; fewer only where the file ends."""

    def try_pread(self, buffer: memoryview, offset: int) -> bool:
        """Fill ``buffer`` with what is at ``offset`` if that needs no waiting; False if it does, or if the file ends."""

    def size(self) -> int:
        """In bytes."""

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes, or lengthen it with zeroes that take no space."""

    def fdatasync(self) -> None:
        """Make the content durable.  A changed size is not part of that: ``fsync``.  Raises DurabilityLost."""

    def fsync(self) -> None:
        """Make content and size durable; the name is the directory's.  Raises DurabilityLost."""

    def close(self) -> None:
        """Give the descriptor (and a lock) back; nothing else may be called then, but ``close`` again."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None, /
    ) -> None: ...


class ReadableDisk(Protocol):
    """What it takes to look.  All raise StorageError, and FileMissing where a name is missing."""

    def open(self, path: Path) -> File:
        """An existing file, to read."""

    def names(self, path: Path) -> Sequence[str]:
        """The names in a directory, sorted."""

    def is_directory(self, path: Path) -> bool:
        """Whether there is a directory of that name; False also when there is nothing."""


@dataclass(frozen=True, slots=True)
class Space:
    """Of a file system, in bytes: how large it is, and what of that is free for us."""

    total_bytes: int
    free_bytes: int


class Disk(ReadableDisk, Protocol):
    """What storage asks of an operating system.  All raise StorageError, and FileMissing where a name is missing."""

    def require_files(self) -> None:
        """Raises TooFewFiles if there may be too few descriptors to finish what changes files.

        Asked by the job that is about to do that, when it begins: what others have taken since counts.  Of its operations
        only opening a file to read it fails then for want of one.  Never waits.
        """

    def open_for_writing(self, path: Path) -> File:
        """An existing file, to read and write."""

    def create(self, path: Path) -> File:
        """An empty file, to read and write, in the place of any other of that name."""

    def lock(self, path: Path) -> File | None:
        """A file, made if missing, that nobody else can lock until it is closed; None if somebody has it locked."""

    def rename(self, old: Path, new: Path) -> None:
        """Give ``old`` the name ``new``, which may exist; at every moment one of both files has it."""

    def unlink(self, path: Path) -> None: ...

    def mkdir(self, path: Path) -> None:
        """Make a directory that does not exist yet."""

    def rmdir(self, path: Path) -> None:
        """Remove an empty directory."""

    def fsync_dir(self, path: Path) -> None:
        """Make the names in a directory durable: creations, renames, removals.  Raises DurabilityLost."""

    def syncfs(self, path: Path) -> None:
        """Make the whole file system that holds ``path`` durable.  Raises DurabilityLost."""

    def space(self, path: Path) -> Space:
        """What the file system that holds ``path`` has; quotas are not part of it."""


def storage_error(error: OSError, operation: str, path: Path) -> StorageError:
    """The named error for what the kernel said; not for syncs."""
    detail, where = error.strerror or str(error), str(path)
    if error.errno == errno.ENOENT:
        return FileMissing(detail, operation=operation, path=where)
    if error.errno in _FULL:
        return DiskFull(detail, operation=operation, path=where)
    if error.errno in _NO_FILES:
        return OutOfFiles(detail, operation=operation, path=where)
    return StorageError(detail, operation=operation, path=where)


class naming_errors:  # noqa: N801
    """Raises what the kernel says in the block as a named error.  On the path of every commit: no generator."""

    __slots__ = ("_operation", "_path")

    def __init__(self, operation: str, path: Path) -> None:
        self._operation = operation
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            raise self._named(error) from error

    def _named(self, error: OSError) -> StorageError:
        return storage_error(error, self._operation, self._path)


class requiring_files(naming_errors):  # noqa: N801
    """The same where nothing has been begun yet for which a descriptor is wanted."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("hold back descriptors", Path(os.devnull))

    def _named(self, error: OSError) -> StorageError:
        named = super()._named(error)
        return TooFewFiles(str(named)) if isinstance(named, OutOfFiles) else named


class naming_lost_durability(naming_errors):  # noqa: N801
    """The same for syncs: however one fails, what it covered may be gone."""

    __slots__ = ()

    def _named(self, error: OSError) -> StorageError:
        detail = error.strerror or str(error)
        return DurabilityLost(detail, operation=self._operation, path=str(self._path))


def write_all(write_some: Callable[[Sequence[Slice], int], int], slices: Sequence[Slice], offset: int) -> None:
    """Call ``write_some(slices, offset) -> bytes written`` until nothing is left: the kernel may write less."""
    for first in range(0, len(slices), SLICES_PER_WRITE_MAX):
        rest = slices[first : first + SLICES_PER_WRITE_MAX]
        while rest:
            written = write_some(rest, offset)
            offset += written
            rest = _after(rest, written)
            if rest and not written:  # never seen; PostgreSQL reads it the same way
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _after(slices: Sequence[Slice], skipped: int) -> Sequence[Slice]:
    """What remains of ``slices`` behind their first ``skipped`` bytes; nothing is copied."""
    if skipped == sum(map(len, slices)):  # nearly always
        return ()
    for index, piece in enumerate(slices):
        if skipped < len(piece):
            return [memoryview(piece)[skipped:], *islice(slices, index + 1, None)]
        skipped -= len(piece)
    return ()


class OsFile:
    """A file descriptor that closes itself and names its errors."""

    __slots__ = ("_fd", "_give_back", "_is_synced", "path")

    def __init__(
        self, fd: int, path: Path, *, is_synced: bool, give_back: Callable[[int], None] = os.close
    ) -> None:
        self._fd = fd
        self._is_synced = is_synced
        self._give_back = give_back
        self.path = path

    def pwritev(self, slices: Sequence[Slice], offset: int) -> None:
        with naming_errors("write to", self.path):
            write_all(self._write_some, slices, offset)

    def _write_some(self, slices: Sequence[Slice], offset: int) -> int:
        return os.pwritev(self._fd, slices, offset)

    def pread(self, length: int, offset: int) -> bytes:
        with naming_errors("read", self.path):
            content = os.pread(self._fd, length, offset)
            while len(content) < length:  # rare: a signal, or a read beyond the kernel's 2 GiB
                more = os.pread(self._fd, length - len(content), offset + len(content))
                if not more:
                    break
                content += more
            return content

    def try_pread(self, buffer: memoryview, offset: int) -> bool:
        try:
            return os.preadv(self._fd, [buffer], offset, os.RWF_NOWAIT) == len(buffer)
        except OSError:  # not cached, or a file system that cannot tell: whoever waits learns what else is wrong
            return False

    def size(self) -> int:
        with naming_errors("stat", self.path):
            return os.fstat(self._fd).st_size

    def truncate(self, size: int) -> None:
        with naming_errors("truncate", self.path):
            os.ftruncate(self._fd, size)

    def fdatasync(self) -> None:
        if self._is_synced:
            with naming_lost_durability("fdatasync", self.path):
                os.fdatasync(self._fd)

    def fsync(self) -> None:
        if self._is_synced:
            with naming_lost_durability("fsync", self.path):
                os.fsync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._give_back(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None, /
    ) -> None:
        self.close()


class OsDisk:
    """The operating system's.  ``sync=False`` (``--no-sync``) makes every sync a no-op: for tests of other things."""

    def __init__(self, *, sync: bool = True) -> None:
        self._sync = sync
        self._held_back: list[int] = []
        self._lock = Lock()  # around its changes: any thread makes some
        weakref.finalize(self, _close_all, self._held_back)

    def require_files(self) -> None:
        with requiring_files(), self._lock:
            while len(self._held_back) < FILES_HELD_BACK:
                self._held_back.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    def _give_back(self, fd: int) -> None:
        """Close ``fd``, and hold it back in the same moment if one is missing."""
        with self._lock:
            if 0 < len(self._held_back) < FILES_HELD_BACK:
                with suppress(OSError):  # EBADF where the limit has been lowered since
                    os.dup2(self._held_back[0], fd, inheritable=False)
                    self._held_back.append(fd)
                    return
        os.close(fd)

    def open(self, path: Path) -> OsFile:
        # Many read, and for long: nothing is held back for them.  O_NONBLOCK: a pipe in its place would wait for ever.
        with naming_errors("open", path):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            return OsFile(fd, path, is_synced=self._sync, give_back=self._give_back)

    def open_for_writing(self, path: Path) -> OsFile:
        return self._open("open", path, os.O_RDWR)

    def create(self, path: Path) -> OsFile:
        return self._open("create", path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW)

    def lock(self, path: Path) -> OsFile | None:
        file = self._open("open", path, os.O_RDWR | os.O_CREAT)  # not truncated: the content is the owner's
        try:
            with naming_errors("lock", path):
                fcntl.flock(file._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except StorageError as error:
            file.close()
            if isinstance(error.__cause__, BlockingIOError):
                return None
            raise
        return file

    def _open(self, operation: str, path: Path, flags: int) -> OsFile:
        with naming_errors(operation, path):
            there = path.parent if flags & os.O_CREAT else path
            fd = self._with_files(there, lambda: os.open(path, flags | os.O_CLOEXEC, _FILE_MODE))
            return OsFile(fd, path, is_synced=self._sync, give_back=self._give_back)

    def _with_files(self, there: Path, attempt: Callable[[], T]) -> T:
        """Call ``attempt``, again and again while there is no descriptor for it but one that is held back.

        Somebody else may be faster to take what is given free, hence not only once.  Nothing is given free in vain, for
        an attempt that must fail since ``there`` is missing.
        """
        while True:
            try:
                return attempt()
            except OSError as error:
                if error.errno not in _NO_FILES:
                    raise
                os.stat(there)
                with self._lock:
                    if not self._held_back:
                        raise
                    os.close(self._held_back.pop())

    def rename(self, old: Path, new: Path) -> None:
        with naming_errors("rename", old):
            os.rename(old, new)

    def unlink(self, path: Path) -> None:
        with naming_errors("unlink", path):
            os.unlink(path)

    def mkdir(self, path: Path) -> None:
        with naming_errors("mkdir", path):
            os.mkdir(path, _DIRECTORY_MODE)

    def rmdir(self, path: Path) -> None:
        with naming_errors("rmdir", path):
            os.rmdir(path)

    def names(self, path: Path) -> Sequence[str]:
        with naming_errors("list", path):
            return sorted(self._with_files(path, lambda: os.listdir(path)))

    def is_directory(self, path: Path) -> bool:
        try:
            with naming_errors("stat", path):
                return stat.S_ISDIR(os.stat(path).st_mode)
        except FileMissing:
            return False

    def fsync_dir(self, path: Path) -> None:
        if self._sync:
            with self._open("open", path, os.O_RDONLY | os.O_DIRECTORY) as directory:
                directory.fsync()

    def syncfs(self, path: Path) -> None:
        if self._sync:
            with self._open("open", path, os.O_RDONLY | os.O_DIRECTORY) as directory:
                with naming_lost_durability("syncfs", path):
                    _syncfs(directory._fd)

    def space(self, path: Path) -> Space:
        with naming_errors("stat the file system of", path):
            said = os.statvfs(path)
        return Space(said.f_blocks * said.f_frsize, said.f_bavail * said.f_frsize)


class LookingDisk:
    """The operating system's, for a look at what may be anybody's: a ``ReadableDisk`` that cannot write.

    Opens regular files and directories and nothing else: no symbolic link is followed, no pipe or device touched.
    """

    def open(self, path: Path) -> OsFile:
        _require_kind(stat.S_ISREG, "a file", "open", path)
        with naming_errors("open", path):
            return OsFile(os.open(path, _LOOKING | os.O_NONBLOCK), path, is_synced=False)

    def names(self, path: Path) -> Sequence[str]:
        _require_kind(stat.S_ISDIR, "a directory", "list", path)
        with naming_errors("list", path):
            fd = os.open(path, _LOOKING | os.O_DIRECTORY)
            try:
                return sorted(os.listdir(fd))
            finally:
                os.close(fd)

    def is_directory(self, path: Path) -> bool:
        try:
            with naming_errors("stat", path):
                return stat.S_ISDIR(os.lstat(path).st_mode)
        except FileMissing:
            return False


_LOOKING: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


def _require_kind(is_kind: Callable[[int], bool], kind: str, operation: str, path: Path) -> None:
    """Raises StorageError unless ``path`` itself, not what it may lead to, is of that kind."""
    with naming_errors(operation, path):
        mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        raise StorageError("it is a symbolic link, which is not followed", operation=operation, path=str(path))
    if not is_kind(mode):
        raise StorageError(f"it is not {kind}", operation=operation, path=str(path))


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def _syncfs(fd: int) -> None:
    """syncfs(2), which Python's os does not have."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(fd) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def read_regular(path: Path, bytes_max: int) -> bytes:
    """At most so much of a file that somebody else keeps up: a key, a certificate.  Raises OSError.

    Never waits, as the first look at a pipe in its place would; links are followed.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is not a file", str(path))
        return file.read(bytes_max)
