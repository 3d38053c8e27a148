"""``walkeeper inspect``: what a keeper's data directory holds, looked at from outside, without a daemon.

Rules: it only looks.  Nothing is written, no lock is taken (whether a daemon has it is read from the kernel's list),
and no symbolic link inside is followed.  What is wrong in one timeline hides nothing in the others.

A timeline's directory that was copied elsewhere can be looked at too.  Does not print: ``inspect_report``.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from walkeeper.errors import ConfigError, FileMissing, StorageError
from walkeeper.ids import NodeId, TenantId, TenantTimelineId, TimelineId
from walkeeper.storage.data_directory import ID_FILE, ID_FILE_BYTES_MAX, LOCK_FILE, parse_id
from walkeeper.storage.disk import LookingDisk
from walkeeper.storage.recovery import CONTROL_FILE
from walkeeper.tools.inspect_findings import Evidence, Problem, Verdict, judge, trouble_of
from walkeeper.tools.inspect_timeline import Progress, is_like_segment, look

LOCKS: Final = Path("/proc/locks")

PID_BYTES_MAX: Final = 20

_ID: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which timelines to look at: None is all."""

    tenant_id: TenantId | None = None
    timeline_id: TimelineId | None = None

    def has(self, ttid: TenantTimelineId) -> bool:
        return self.tenant_id in (None, ttid.tenant_id) and self.timeline_id in (None, ttid.timeline_id)

    def __str__(self) -> str:
        said = {"tenant": self.tenant_id, "timeline": self.timeline_id}
        return " ".join(f"--{name} {value}" for name, value in said.items() if value)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found.  ``path`` is a data directory, or one timeline's; ``problems`` are those of no single timeline.

    ``node_id`` is the keeper's number, None if nothing says it.  ``owner_pid``: the daemon that has it locked, so that
    it may change while it is looked at.
    """

    path: Path
    node_id: NodeId | None
    owner_pid: int | None
    timelines: Sequence[tuple[Evidence, Verdict]]
    problems: Sequence[Problem]

    def count_problems(self) -> int:
        return len(self.problems) + sum(len(verdict.problems) for _, verdict in self.timelines)


def inspect_directory(path: Path, wanted: Wanted, progress: Progress) -> Inspection:
    """Look at ``path``.  Raises ConfigError if it is none of a keeper's, or has none of the timelines that are wanted."""
    path = Path(os.path.realpath(path))
    disk = LookingDisk()
    try:
        names = disk.names(path)
    except StorageError as error:
        raise ConfigError(f"{path} cannot be inspected: {trouble_of(error)}") from error
    if CONTROL_FILE in names or any(map(is_like_segment, names)):
        return _inspect_timeline(disk, path, wanted, progress)
    if not any(name in (ID_FILE, LOCK_FILE) or _ID.fullmatch(name) for name in names):
        holds = f"there is no {ID_FILE} and no timeline in it" if names else "it is empty"
        raise ConfigError(f"{path} is not a keeper's data directory: {holds}")
    return _inspect_all(disk, path, wanted, progress)


def _inspect_timeline(disk: LookingDisk, path: Path, wanted: Wanted, progress: Progress) -> Inspection:
    evidence = look(disk, path, None, progress)
    if evidence.ttid is None and wanted != Wanted():
        raise ConfigError(f"{path} holds one timeline and does not say which: leave out {wanted}")
    if evidence.ttid is not None and not wanted.has(evidence.ttid):
        raise ConfigError(f"{path} holds timeline {evidence.ttid} only, not {wanted}")
    return Inspection(path, None, None, [(evidence, judge(evidence))], [])


def _inspect_all(disk: LookingDisk, path: Path, wanted: Wanted, progress: Progress) -> Inspection:
    problems: list[Problem] = []
    owner_pid = lock_owner(disk, path)
    node_id = _node_id(disk, path, problems)
    timelines = []
    for ttid in _timelines(disk, path, wanted, problems):
        evidence = look(disk, path / str(ttid.tenant_id) / str(ttid.timeline_id), ttid, progress)
        timelines.append((evidence, judge(evidence)))
    if not timelines and wanted != Wanted() and not problems:
        raise ConfigError(f"{path} has no timeline that is {wanted}")
    return Inspection(path, node_id, owner_pid, timelines, problems)


def _timelines(
    disk: LookingDisk, path: Path, wanted: Wanted, problems: list[Problem]
) -> Iterator[TenantTimelineId]:
    """The timelines that are there and wanted, in the order of their ids."""
    for tenant in _ids(disk, path, "", wanted.tenant_id, problems):
        for timeline in _ids(disk, path / tenant, f"{tenant}/", wanted.timeline_id, problems):
            yield TenantTimelineId(TenantId.parse(tenant), TimelineId.parse(timeline))


def _ids(
    disk: LookingDisk, path: Path, prefix: str, wanted: TenantId | TimelineId | None, problems: list[Problem]
) -> Iterator[str]:
    """The directories in ``path`` that have ids as names, or the only one that is wanted."""
    try:
        names = [name for name in disk.names(path) if _ID.fullmatch(name)]
    except StorageError as error:
        problems.append(Problem(prefix, trouble_of(error)))
        return
    for name in names:
        if wanted is not None and name != str(wanted):
            continue
        if disk.is_directory(path / name):
            yield name
        else:
            problems.append(
                Problem(prefix + name, "it is no directory, or a symbolic link, which is not followed")
            )


def _node_id(disk: LookingDisk, path: Path, problems: list[Problem]) -> NodeId | None:
    try:
        with disk.open(path / ID_FILE) as file:
            return parse_id(path / ID_FILE, file.pread(ID_FILE_BYTES_MAX, 0))
    except FileMissing:
        return None
    except StorageError as error:
        problems.append(Problem(ID_FILE, trouble_of(error)))
    except ConfigError as error:
        problems.append(Problem(ID_FILE, str(error)))
    return None


# -- who else is there --------------------------------------------------------------------------------------


def lock_owner(disk: LookingDisk, path: Path, locks: Path = LOCKS) -> int | None:
    """The process that has the data directory locked, as far as the kernel's list tells; the lock is left alone.

    The list has the processes of this machine, or container, only.
    """
    try:
        place = os.lstat(path / LOCK_FILE)
        with disk.open(path / LOCK_FILE) as file:
            said = file.pread(PID_BYTES_MAX, 0).decode("ascii", "replace")
        listed = locks.read_text()
    except (OSError, StorageError):
        return None
    device = f"{os.major(place.st_dev):02x}:{os.minor(place.st_dev):02x}"
    for pid, where in _file_locks(listed):
        # Some file systems (btrfs) tell the kernel another device than us.
        if where.endswith(f":{place.st_ino}") and (where.startswith(f"{device}:") or str(pid) == said):
            return pid
    return None


def _file_locks(listed: str) -> Iterator[tuple[int, str]]:
    """Who holds which flock(2): ``1: FLOCK  ADVISORY  WRITE 4711 fe:00:9977973 0 EOF``; see proc_locks(5)."""
    for line in listed.splitlines():
        fields = line.split()
        if len(fields) >= 6 and fields[1] == "FLOCK":
            yield int(fields[4]), fields[5]
