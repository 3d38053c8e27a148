"""A disk in memory with a write cache that a crash loses: wholly, or a part chosen by a seed.

It is meaner than real ones, within what POSIX allows:
* unsynced content survives a crash by sectors of 512 bytes, in any combination;
* unsynced names (creations, renames, removals) survive in any combination, or as a prefix, as journals keep them;
* ``fdatasync`` does not save a changed size, and ``fsync`` of a file does not save its name;
* after a failed sync of a file the cache still shows what the disk does not have, and the next sync succeeds without
  it (as Linux does since pages are marked clean).  Names stay pending when a directory's sync fails: a file system
  whose journal fails stops, and does not go on without what was in it.

``faults`` lets the operations with these numbers fail, and without ``free_bytes`` all fail that take room;
``cut_power`` ends everything at one of them.  Operations are counted from 0, and ``on_operation`` hears of each before
it happens.

Does not model permissions, directories that are renamed over, or time.
"""

import errno
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Final, NoReturn, Self

from walkeeper.messages import Slice
from walkeeper.storage.disk import (
    FILES_HELD_BACK,
    Space,
    naming_errors,
    naming_lost_durability,
    requiring_files,
    write_all,
)

SECTOR_BYTES: Final = 512

MEMORY_DISK_BYTES: Final = 1 << 40
"""What it says of its size and of its free space, until somebody sets ``total_bytes`` or ``free_bytes``."""


class PowerCut(BaseException):
    """The machine went off.  Nothing can be done with the disk before ``crash`` has turned it on again."""


_TAKES_ROOM: Final = frozenset({"create", "write", "mkdir"})
"""What fails while there are no ``free_bytes``; writing what has room already as well, as where every write takes a new place."""


def unwatched(_operation: str, _path: Path) -> None:
    """Nobody wants to hear of operations."""


class Fault(Enum):
    """What can go wrong with one operation; a sync that fails loses what it should have kept."""

    NO_SPACE = errno.ENOSPC
    IO_ERROR = errno.EIO
    SHORT_WRITE = 0  # half of it is written, and the kernel says so


@dataclass(eq=False, slots=True)
class _FileNode:
    """What programs see, and what would be found after a crash."""

    cached: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    dirty: set[int] = field(default_factory=set)  # sectors to be written
    sizes: list[int] = field(default_factory=list)  # every size since the last fsync
    is_locked: bool = False

    def write(self, content: Slice, offset: int) -> None:
        end = offset + len(content)
        if end > len(self.cached):
            self.resize(end)
        self.cached[offset:end] = content
        self._mark(offset, end)

    def resize(self, size: int) -> None:
        before = len(self.cached)
        if size < before:
            del self.cached[size:]
        else:
            self.cached.extend(bytes(size - before))
        self._mark(min(size, before), max(size, before))
        self.sizes.append(size)

    def _mark(self, begin: int, end: int) -> None:
        self.dirty.update(range(begin // SECTOR_BYTES, -(-end // SECTOR_BYTES)))

    def sync_data(self) -> None:
        self._save(self.dirty, len(self.durable))
        self.dirty = {sector for sector in self.dirty if (sector + 1) * SECTOR_BYTES > len(self.durable)}

    def sync(self) -> None:
        self._save(self.dirty, len(self.cached))
        self.forget_dirt()

    def forget_dirt(self) -> None:
        self.dirty.clear()
        self.sizes.clear()

    def lose_cache(self, random: Random, keeping: float) -> None:
        """Become what a crash leaves, with ``keeping`` (0 to 1) as the chance of each thing that was not synced."""
        kept = {sector for sector in sorted(self.dirty) if random.random() < keeping}
        sizes = [len(self.durable), *(size for size in self.sizes if random.random() < keeping)]
        self._save(kept, sizes[-1] if keeping == 1 else random.choice(sizes))
        self.cached = bytearray(self.durable)
        self.forget_dirt()
        self.is_locked = False

    def _save(self, sectors: set[int], size: int) -> None:
        """Let the durable content have ``size`` bytes, with ``sectors`` taken from the cache."""
        del self.durable[size:]
        self.durable.extend(bytes(size - len(self.durable)))
        for begin, end in _runs(sectors):
            if begin < size:
                fresh = self.cached[begin : min(end, size)]
                self.durable[begin : begin + len(fresh)] = fresh


def _runs(sectors: set[int]) -> Iterator[tuple[int, int]]:
    """Neighbouring sectors as (begin, end) in bytes: most writes are long."""
    begin = end = 0
    for sector in sorted(sectors):
        if sector != end:
            yield begin * SECTOR_BYTES, end * SECTOR_BYTES
            begin = sector
        end = sector + 1
    yield begin * SECTOR_BYTES, end * SECTOR_BYTES


@dataclass(eq=False, slots=True)
class _DirectoryNode:
    entries: dict[str, "_Node"] = field(default_factory=dict)
    durable: dict[str, "_Node"] = field(default_factory=dict)


_Node = _FileNode | _DirectoryNode


@dataclass(frozen=True, slots=True, eq=False)
class _NameChange:
    """One atomic change of names: each edit puts a node, or nothing, under a name of a directory."""

    edits: tuple[tuple[_DirectoryNode, str, _Node | None], ...]

    def touches(self, directory: _DirectoryNode) -> bool:
        return any(edited is directory for edited, _, _ in self.edits)

    def things(self) -> set[object]:
        """The names and nodes it is about; of two changes about one thing, the later needs the earlier."""
        names = {(id(directory), name) for directory, name, _ in self.edits}
        return names | {id(node) for _, _, node in self.edits if node is not None}

    def persist(self) -> None:
        for directory, name, node in self.edits:
            _put(directory.durable, name, node)


def _put(entries: dict[str, _Node], name: str, node: _Node | None) -> None:
    if node is None:
        entries.pop(name, None)
    else:
        entries[name] = node


class MemoryDisk:
    """A ``storage.disk.Disk``.  Only its root directory ``/`` exists at first."""

    file_class: type["MemoryFile"]

    def __init__(self) -> None:
        self.operations = 0
        self.faults: dict[int, Fault] = {}
        self.is_cold = False
        self.is_out_of_files = False
        self.total_bytes = self.free_bytes = MEMORY_DISK_BYTES
        self.on_operation: Callable[[str, Path], None] = unwatched
        self.cuts = 0
        self._root = _DirectoryNode()
        self._changes: list[_NameChange] = []
        self._cut_at: tuple[int, bool] | None = None
        self._is_off = False
        self._held_back = 0

    # -- what tests do to it --------------------------------------------------------------------------------

    def cut_power(self, operation: int, *, after: bool) -> None:
        """Go off right before or after an operation: PowerCut there, and at every operation that follows."""
        self._cut_at = (operation, after)

    def crash(self, seed: int) -> None:
        """Lose what was not synced, and go on again.  Files that were open cannot be used any more.

        Seed 0 loses all of it, seed 1 nothing (as when only the process dies); any other a part of it.
        """
        random = Random(seed)
        keeping = {0: 0.0, 1: 1.0}.get(seed, 0.5)
        self._keep_some_names(random, keeping)
        for node in _walk(self._root, durable=True):
            if isinstance(node, _DirectoryNode):
                node.entries = dict(node.durable)
            else:
                node.lose_cache(random, keeping)
        self.cuts += 1
        self._cut_at, self._is_off = None, False

    def after_crash(self, seed: int) -> Self:
        """What ``crash`` would leave, as a disk of its own that nobody watches; this one goes on."""
        copy = deepcopy(self)
        copy.on_operation = unwatched
        copy.crash(seed)
        return copy

    def end_process(self) -> None:
        """Let go of files and locks, as when whoever used them was killed; the cache stays as it is."""
        for node in _walk(self._root, durable=False):
            if isinstance(node, _FileNode):
                node.is_locked = False
        self.cuts += 1
        self._cut_at, self._is_off = None, False

    def _keep_some_names(self, random: Random, keeping: float) -> None:
        kept = [change for change in self._changes if random.random() < keeping]
        if random.random() < 0.5:  # a journal keeps all that came before
            kept = self._changes[: len(kept)]
        self._persist(kept)
        self._changes.clear()

    def _persist(self, wanted: Sequence[_NameChange]) -> None:
        """Make changes of names durable, and those before them that they need."""
        chosen: list[_NameChange] = []
        things: set[object] = set()
        for change in reversed(self._changes):
            if change in wanted or things & change.things():
                chosen.append(change)
                things |= change.things()
        for change in reversed(chosen):
            change.persist()
        self._changes = [change for change in self._changes if change not in chosen]

    def durable_content(self, path: Path, offset: int = 0, length: int | None = None) -> bytes | None:
        """What a power cut would certainly leave of the file, or of that part of it; None if not even its name."""
        node: _Node | None = self._root
        for name in path.parts[1:]:
            node = node.durable.get(name) if isinstance(node, _DirectoryNode) else None
        end = None if length is None else offset + length
        return bytes(node.durable[offset:end]) if isinstance(node, _FileNode) else None

    def fingerprint(self) -> Hashable:
        """Equal for disks on which programs find the same names and the same content; of use in this process."""
        return _fingerprint(self._root)

    # -- how operations happen ------------------------------------------------------------------------------

    @contextmanager
    def operating(self, operation: str, path: Path) -> Iterator[Fault | None]:
        """Count an operation; let it fail or end the world if that was asked for.

        Only writes and syncs get to see their fault, since they do something before they fail.
        """
        if self._is_off:
            raise PowerCut
        number, self.operations = self.operations, self.operations + 1
        self.on_operation(operation, path)
        if self._cut_at == (number, False):
            self._go_off()
        fault = self.faults.get(number)
        if not self.free_bytes and operation in _TAKES_ROOM:
            fault = Fault.NO_SPACE
        if fault is Fault.SHORT_WRITE and operation != "write":
            fault = None
        if fault and operation not in ("write", "sync"):
            _fail(fault.value)
        yield fault
        if self._cut_at == (number, True):
            self._go_off()

    def _go_off(self) -> NoReturn:
        self._is_off = True
        raise PowerCut

    def _find(self, path: Path) -> _Node:
        node: _Node = self._root
        for name in path.parts[1:]:
            if not isinstance(node, _DirectoryNode):
                _fail(errno.ENOTDIR)
            if name not in node.entries:
                _fail(errno.ENOENT)
            node = node.entries[name]
        return node

    def _directory(self, path: Path) -> _DirectoryNode:
        node = self._find(path)
        if not isinstance(node, _DirectoryNode):
            _fail(errno.ENOTDIR)
        return node

    def _file(self, path: Path) -> _FileNode:
        node = self._find(path)
        if not isinstance(node, _FileNode):
            _fail(errno.EISDIR)
        return node

    def _change(self, *edits: tuple[_DirectoryNode, str, _Node | None]) -> None:
        for directory, name, node in edits:
            _put(directory.entries, name, node)
        self._changes.append(_NameChange(edits))

    # -- the Disk -------------------------------------------------------------------------------------------

    def require_files(self) -> None:
        with requiring_files():
            if self.is_out_of_files and self._held_back < FILES_HELD_BACK:
                _fail(errno.EMFILE)
        self._held_back = FILES_HELD_BACK

    def _take_file(self) -> None:
        """When others have all descriptors, what is given free is theirs at once."""
        if self.is_out_of_files:
            if not self._held_back:
                _fail(errno.EMFILE)
            self._held_back -= 1

    def give_back(self) -> None:
        """A file was closed: its descriptor is held back if one is missing."""
        if self._held_back:
            self._held_back = min(self._held_back + 1, FILES_HELD_BACK)

    def open(self, path: Path) -> "MemoryFile":
        with naming_errors("open", path), self.operating("open", path):
            if self.is_out_of_files:
                _fail(errno.EMFILE)
            return self.file_class(self, self._file(path), path)

    def open_for_writing(self, path: Path) -> "MemoryFile":
        with naming_errors("open", path), self.operating("open", path):
            node = self._file(path)
            self._take_file()
            return self.file_class(self, node, path)

    def create(self, path: Path) -> "MemoryFile":
        with naming_errors("create", path), self.operating("create", path):
            self._directory(path.parent)
            self._take_file()
            node = self._find_or_make(path)
            node.resize(0)
        return self.file_class(self, node, path)

    def _find_or_make(self, path: Path) -> _FileNode:
        directory = self._directory(path.parent)
        if path.name not in directory.entries:
            self._change((directory, path.name, _FileNode()))
        return self._file(path)

    def lock(self, path: Path) -> "MemoryFile | None":
        with naming_errors("lock", path), self.operating("lock", path):
            node = self._find_or_make(path)
            if node.is_locked:
                return None
            node.is_locked = True
        return self.file_class(self, node, path, holds_lock=True)

    def rename(self, old: Path, new: Path) -> None:
        with naming_errors("rename", old), self.operating("rename", old):
            node, target = self._find(old), self._directory(new.parent)
            replaced = target.entries.get(new.name)
            if isinstance(replaced, _DirectoryNode):
                _fail(errno.ENOTEMPTY if replaced.entries else errno.EEXIST)
            if node is not replaced:
                self._change((self._directory(old.parent), old.name, None), (target, new.name, node))

    def unlink(self, path: Path) -> None:
        with naming_errors("unlink", path), self.operating("unlink", path):
            self._file(path)
            self._change((self._directory(path.parent), path.name, None))

    def mkdir(self, path: Path) -> None:
        with naming_errors("mkdir", path), self.operating("mkdir", path):
            directory = self._directory(path.parent)
            if path.name in directory.entries:
                _fail(errno.EEXIST)
            self._change((directory, path.name, _DirectoryNode()))

    def rmdir(self, path: Path) -> None:
        with naming_errors("rmdir", path), self.operating("rmdir", path):
            if self._directory(path).entries:
                _fail(errno.ENOTEMPTY)
            self._change((self._directory(path.parent), path.name, None))

    def names(self, path: Path) -> Sequence[str]:
        with naming_errors("list", path), self.operating("list", path):
            names = sorted(self._directory(path).entries)
            self._take_file()  # and it is not held back again
            return names

    def is_directory(self, path: Path) -> bool:
        with naming_errors("stat", path), self.operating("stat", path):
            try:
                return isinstance(self._find(path), _DirectoryNode)
            except FileNotFoundError:
                return False

    def fsync_dir(self, path: Path) -> None:
        with naming_errors("open", path):
            directory = self._directory(path)
            self._take_file()
            self.give_back()
        with naming_lost_durability("fsync", path), self.operating("sync", path) as fault:
            if fault:
                _fail(fault.value)
            self._persist([change for change in self._changes if change.touches(directory)])

    def syncfs(self, path: Path) -> None:
        with naming_lost_durability("syncfs", path), self.operating("sync", path) as fault:
            if fault:
                _fail(fault.value)
            for change in self._changes:
                change.persist()
            self._changes.clear()
            for node in _walk(self._root, durable=False):
                if isinstance(node, _FileNode):
                    node.sync()

    def space(self, path: Path) -> Space:
        with naming_errors("stat the file system of", path), self.operating("stat", path):
            self._find(path)
            return Space(self.total_bytes, self.free_bytes)


class MemoryFile:
    """A ``storage.disk.File`` of a ``MemoryDisk``."""

    def __init__(self, disk: MemoryDisk, node: _FileNode, path: Path, *, holds_lock: bool = False) -> None:
        self.path = path
        self._disk = disk
        self._node = node
        self._holds_lock = holds_lock
        self._cuts = disk.cuts
        self._is_closed = False

    @contextmanager
    def _operating(self, operation: str) -> Iterator[Fault | None]:
        assert self._cuts == self._disk.cuts, f"{self.path} was opened before the crash"
        with self._disk.operating(operation, self.path) as fault:
            yield fault

    def pwritev(self, slices: Sequence[Slice], offset: int) -> None:
        with naming_errors("write to", self.path):
            write_all(self._write_some, slices, offset)

    def _write_some(self, slices: Sequence[Slice], offset: int) -> int:
        content = b"".join(slices)
        with self._operating("write") as fault:
            written = len(content) if fault is None else len(content) // 2
            self._node.write(content[:written], offset)
            if fault and fault is not Fault.SHORT_WRITE:
                _fail(fault.value)
        return written

    def pread(self, length: int, offset: int) -> bytes:
        with naming_errors("read", self.path), self._operating("read"):
            return bytes(memoryview(self._node.cached)[offset : offset + length])

    def try_pread(self, buffer: memoryview, offset: int) -> bool:
        """Everything is cached, unless the disk's ``is_cold``."""
        content = self._node.cached[offset : offset + len(buffer)]
        if self._disk.is_cold or len(content) < len(buffer):
            return False
        buffer[:] = content
        return True

    def size(self) -> int:
        with naming_errors("stat", self.path), self._operating("stat"):
            return len(self._node.cached)

    def truncate(self, size: int) -> None:
        with naming_errors("truncate", self.path), self._operating("truncate"):
            self._node.resize(size)

    def fdatasync(self) -> None:
        with self._syncing("fdatasync"):
            self._node.sync_data()

    def fsync(self) -> None:
        with self._syncing("fsync"):
            self._node.sync()

    @contextmanager
    def _syncing(self, operation: str) -> Iterator[None]:
        with naming_lost_durability(operation, self.path), self._operating("sync") as fault:
            if fault:
                self._node.forget_dirt()
                _fail(fault.value)
            yield

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._disk.give_back()
        if self._holds_lock and self._cuts == self._disk.cuts:
            self._node.is_locked = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None, /
    ) -> None:
        self.close()


MemoryDisk.file_class = MemoryFile


def _walk(directory: _DirectoryNode, *, durable: bool) -> Iterator[_Node]:
    yield directory
    for node in (directory.durable if durable else directory.entries).values():
        if isinstance(node, _DirectoryNode):
            yield from _walk(node, durable=durable)
        else:
            yield node


def _fingerprint(node: _Node) -> Hashable:
    if isinstance(node, _FileNode):
        return hash(bytes(node.cached))
    return tuple((name, _fingerprint(entry)) for name, entry in sorted(node.entries.items()))


def _fail(code: int) -> NoReturn:
    raise OSError(code, os.strerror(code))
