"""The data directory: whose it is, which keeper it belongs to, and which timelines are in it.

    safekeeper.pid             locked by the daemon that runs here, and says its process id; never removed
    safekeeper.id              the keeper's number in decimal digits, no newline
    walkeeper-check.tmp        what walkeeper check writes while it measures the disk
    tmp/                       timelines being made or removed; emptied at start
    <tenant>/<timeline>/       one timeline each, named by two ids of 32 lower-case hexadecimal digits

Rules: the lock comes before anything else is read or written, and a daemon that does not get it changes nothing.
A timeline's directory appears and disappears by a rename, so that one with its final name always holds a valid
control file (invariant 43, hazard L1).  What a person has to put right is a ConfigError.

Does not open timelines (``storage.store``) and keeps no list of them (``timeline.timelines``).
Source: Neon's ``bin/safekeeper.rs``, ``pid_file.rs``, ``timelines_global_map.rs``.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from walkeeper.errors import ConfigError, DurabilityLost, Exists, FileMissing, StorageError
from walkeeper.formats.control_file import ControlFile
from walkeeper.ids import NodeId, TenantId, TenantTimelineId, TimelineId
from walkeeper.storage.disk import Disk, File, ReadableDisk, Space
from walkeeper.storage.durable import remove_tree, rename_synced, replace_file
from walkeeper.storage.store import TimelineStore, write_new_timeline
from walkeeper.storage.wal import Observe, unobserved

LOCK_FILE: Final = "safekeeper.pid"
ID_FILE: Final = "safekeeper.id"
ID_FILE_BEING_MADE: Final = "safekeeper.id.partial"
ID_FILE_BYTES_MAX: Final = 64
"""How much of it is read: more than any number has."""

STAGING: Final = "tmp"

TRIAL_FILE: Final = "walkeeper-check.tmp"
"""What ``walkeeper check`` writes to measure the disk, and removes; one that was killed has left it."""

_OWN_NAMES: Final = re.compile(
    rf"{re.escape(LOCK_FILE)}|{re.escape(ID_FILE)}(\.partial)?|{STAGING}|{re.escape(TRIAL_FILE)}|lost\+found|server\.(key|crt)|[0-9a-f]{{32}}"
)
"""What may be in a directory before it has a keeper's number; anything else says that it is somebody else's."""

_NODE_ID_MAX: Final = 2**64 - 1


class DataDirectory:
    """A data directory that is this process's alone, until ``close``.  Made by ``claim``."""

    def __init__(self, disk: Disk, path: Path, node_id: NodeId, lock: File) -> None:
        self.path = path
        self.node_id = node_id
        self._disk = disk
        self._lock = lock

    def timelines(self) -> list[TenantTimelineId]:
        """All timelines that are here, in the order of their ids.  Raises StorageError."""
        tenants = map(TenantId, _ids_in(self._disk, self.path))
        return [ttid for tenant_id in tenants for ttid in self.timelines_of(tenant_id)]

    def timelines_of(self, tenant_id: TenantId) -> list[TenantTimelineId]:
        """All timelines of a tenant that are here, in the order of their ids.  Raises StorageError."""
        path = self.path / str(tenant_id)
        if not self._disk.is_directory(path):
            return []
        return [TenantTimelineId(tenant_id, TimelineId(timeline)) for timeline in _ids_in(self._disk, path)]

    def directory_of(self, ttid: TenantTimelineId) -> Path:
        """Where the timeline is, or would be."""
        return self.path / str(ttid.tenant_id) / str(ttid.timeline_id)

    def store(self, ttid: TenantTimelineId, observe: Observe = unobserved) -> TimelineStore:
        """The store of a timeline that is here; nothing is read yet."""
        return TimelineStore(self._disk, self.directory_of(ttid), observe=observe)

    def space(self) -> Space:
        """How much of the file system there is, and is free.  Raises StorageError."""
        return self._disk.space(self.path)

    def create(self, control_file: ControlFile) -> None:
        """Make the directory of a timeline with its first control file, durably.

        It is made under another name first: whatever interrupts this, there is all of the timeline or nothing.
        Not for two threads with the same timeline.

        Raises Exists if one is there (its name is durable then), DiskFull (nothing is left behind), OutOfFiles or
        another StorageError.
        """
        self._disk.require_files()
        target = self.directory_of(control_file.ttid)
        if self._disk.is_directory(target):
            self._disk.fsync_dir(target.parent)
            self._disk.fsync_dir(self.path)
            raise Exists(control_file.ttid)
        staging = self._staging_of(control_file.ttid)
        remove_tree(self._disk, staging)
        try:
            self._disk.mkdir(staging)
            write_new_timeline(self._disk, staging, control_file)
            self._make_tenant(target.parent)
            rename_synced(self._disk, staging, target)
        except StorageError as error:
            if not isinstance(error, DurabilityLost):
                remove_tree(self._disk, staging)
            raise

    def _make_tenant(self, path: Path) -> None:
        """Make the directory of a tenant, durably, unless it is there; for another timeline somebody may do the same."""
        try:
            self._disk.mkdir(path)
        except StorageError:
            if not self._disk.is_directory(path):
                raise
        self._disk.fsync_dir(self.path)

    def remove(self, ttid: TenantTimelineId) -> bool:
        """Remove a timeline and everything in its directory, durably; False if there is none.

        Nobody may use the timeline any more (invariant 42).  Raises StorageError; it can be tried again, and what is not
        there then is durably so.
        """
        self._disk.require_files()
        staging = self._staging_of(ttid)
        remove_tree(self._disk, staging)
        try:
            rename_synced(self._disk, self.directory_of(ttid), staging)
        except FileMissing:
            if self._disk.is_directory(self.directory_of(ttid)):
                raise  # somebody has removed our place for what is being removed
            self._sync_tenant(ttid.tenant_id)  # an earlier attempt may have ended between the rename and its sync
            return False
        remove_tree(self._disk, staging)
        return True

    def remove_tenant(self, tenant_id: TenantId) -> None:
        """Remove a tenant's directory, durably, if there is one and nothing is in it.  Raises StorageError."""
        self._disk.require_files()
        path = self.path / str(tenant_id)
        if self._disk.is_directory(path) and not self._disk.names(path):
            self._disk.rmdir(path)
        self._disk.fsync_dir(self.path)

    def _sync_tenant(self, tenant_id: TenantId) -> None:
        path = self.path / str(tenant_id)
        if self._disk.is_directory(path):
            self._disk.fsync_dir(path)

    def _staging_of(self, ttid: TenantTimelineId) -> Path:
        return self.path / STAGING / f"{ttid.tenant_id}_{ttid.timeline_id}_temptli"

    def close(self) -> None:
        """Let another process have the directory."""
        self._lock.close()


def claim(disk: Disk, path: Path, node_id: NodeId | None) -> DataDirectory:
    """Take the data directory at ``path``, which must exist, for this process.

    ``node_id`` is what the configuration says, None if it says nothing; a new directory needs one and keeps it.
    Everything in the directory is made durable before anybody reads it: an earlier process may have left WAL that
    only the page cache has.

    Raises ConfigError where a person has to act, or DurabilityLost.
    """
    with _for_a_person_to_act(path):
        require_own(disk, path)
        lock = _lock(disk, path)
        try:
            node_id = _settle_id(disk, path, node_id)
            _empty_staging(disk, path)
            disk.syncfs(path)
        except BaseException:
            lock.close()
            raise
        return DataDirectory(disk, path, node_id, lock)


@contextmanager
def _for_a_person_to_act(path: Path) -> Iterator[None]:
    """Whatever the disk says before the keeper has started is for whoever started it."""
    try:
        yield
    except FileMissing as error:
        raise ConfigError(f"data directory {path} cannot be used: {error}; create it first") from error
    except DurabilityLost:
        raise
    except StorageError as error:
        raise ConfigError(f"data directory {path} cannot be used: {error}") from error


def require_own(disk: ReadableDisk, path: Path) -> None:
    """Raises ConfigError for a directory that holds other things and has never been a keeper's."""
    names = disk.names(path)
    foreign = [name for name in names if not _OWN_NAMES.fullmatch(name)]
    if foreign and ID_FILE not in names:
        raise ConfigError(
            f"{path} is not a keeper's data directory: it holds {foreign[0]!r} and no {ID_FILE}; give an empty one"
        )


def _lock(disk: Disk, path: Path) -> File:
    """Lock the directory and say who has it.  The file is emptied only after that: until then it is the owner's."""
    lock_path = path / LOCK_FILE
    lock = disk.lock(lock_path)
    if lock is None:
        with disk.open(lock_path) as file:
            owner = file.pread(20, 0).decode("ascii", "replace").strip()
        raise ConfigError(
            f"data directory {path} is in use by another process, {owner or 'whose id is not known'}"
        )
    lock.truncate(0)
    lock.pwritev((str(os.getpid()).encode(),), 0)
    lock.fsync()
    disk.fsync_dir(path)
    return lock


def _settle_id(disk: Disk, path: Path, configured: NodeId | None) -> NodeId:
    """The keeper's number: once chosen it stays, since quorums count on it."""
    id_path = path / ID_FILE
    try:
        with disk.open(id_path) as file:
            kept = parse_id(id_path, file.pread(ID_FILE_BYTES_MAX, 0))
    except FileMissing:
        return _keep_id(disk, id_path, configured)
    if configured not in (None, kept):
        raise ConfigError(f"this is keeper {configured}, but {path} belongs to keeper {kept}: change one of them")
    return kept


def parse_id(path: Path, content: bytes) -> NodeId:
    """The number in the id file at ``path``.  Raises ConfigError if ``content`` is none."""
    if not re.fullmatch(rb"[0-9]{1,20}", content) or not 0 < int(content) <= _NODE_ID_MAX:
        raise ConfigError(
            f"{path} holds {content[:30]!r} instead of a number from 1 to {_NODE_ID_MAX} without a newline"
        )
    return NodeId(int(content))


def _keep_id(disk: Disk, path: Path, configured: NodeId | None) -> NodeId:
    if configured is None:
        raise ConfigError(f"a new data directory needs the keeper's number, there is no {path}: give it with --id")
    if not 0 < configured <= _NODE_ID_MAX:
        raise ConfigError(f"a keeper's number is from 1 to {_NODE_ID_MAX}, not {configured}")
    replace_file(disk, path, str(configured).encode(), temporary=ID_FILE_BEING_MADE)
    return configured


def _empty_staging(disk: Disk, path: Path) -> None:
    """Remove what was half made or half removed when an earlier process ended."""
    remove_tree(disk, path / STAGING)
    disk.mkdir(path / STAGING)


def _ids_in(disk: Disk, path: Path) -> list[bytes]:
    """The ids that directories in ``path`` have as names; other entries are none of a keeper's."""
    return [
        bytes.fromhex(name)
        for name in disk.names(path)
        if re.fullmatch(r"[0-9a-f]{32}", name) and disk.is_directory(path / name)
    ]
