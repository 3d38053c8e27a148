"""``walkeeper check -D``: is this directory, on this disk, fit to keep WAL?

Measured as a keeper uses a disk: one write behind the other into a file that has its size already, each made durable
before the next.  A second or some, and a megabyte, at most; the file is removed again.

Rules: beside that file nothing is written and no lock is taken, so it may run beside a daemon, and says so then.
Does not know what a disk should be: it warns where commits would be slow, or where WAL would not survive.
Source: proc_pid_mountinfo(5), statvfs(3).
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from walkeeper.errors import ConfigError, StorageError
from walkeeper.storage.data_directory import ID_FILE, TRIAL_FILE, require_own
from walkeeper.storage.disk import Disk, LookingDisk
from walkeeper.storage.durable import remove_if_there
from walkeeper.tools.inspect import lock_owner
from walkeeper.tools.verdicts import Grade, Verdict, fail, graded, ok, warn

MOUNTS: Final = Path("/proc/self/mountinfo")

BLOCK: Final = bytes(8192)
"""A page of WAL: what a small commit writes."""

TRIAL_BYTES: Final = 1024 * 1024
"""The file that is written to, again and again from its beginning."""

SYNCS_MAX: Final = 500
"""Of which a 99th percentile is made of five."""

SYNCS_SECONDS_MAX: Final = 3.0
"""Enough for 500 on a good disk, and for somebody who waits."""

USUAL_SECONDS_MAX: Final = 0.02
"""Half of the commits of a single client wait at least for that: 50 a second are no more than a rotating disk can."""

SLOW_SECONDS_MAX: Final = 0.25
"""One in a hundred: somebody notices."""

FREE_BYTES_MIN: Final = 1024**3
"""64 usual segments."""

FREE_SHARE_MIN: Final = 0.1
FREE_INODES_MIN: Final = 1000

NETWORKED: Final = re.compile(r"nfs\d?|cifs|smb\d?|smbfs|9p|ceph|glusterfs|fuse(\..*)?|virtiofs|afs|lustre")
"""An fsync is as durable as somebody else makes it, and takes as long."""

LAYERED: Final = re.compile(r"overlay|aufs")
"""A container's own file system, which goes with the container."""

FLEETING: Final = re.compile(r"tmpfs|ramfs|devtmpfs|zram")


@dataclass(frozen=True, slots=True)
class Mount:
    """Where a file system is seen, of which type it is, and how it is mounted."""

    point: str
    kind: str
    options: tuple[str, ...]


def find_mount(mountinfo: str, path: Path) -> Mount | None:
    """The mount that ``path``, without symbolic links, is on: of two at one point the later one hides the other.

    A line: ``36 35 98:0 /root /mnt rw,noatime master:1 - ext3 /dev/root rw``; blanks in names are ``\\040``.
    """
    found: Mount | None = None
    for line in mountinfo.splitlines():
        place, _, source = line.partition(" - ")
        fields, kinds = place.split(), source.split()
        if len(fields) < 6 or not kinds:
            continue
        mount = Mount(_unescaped(fields[4]), kinds[0], tuple(fields[5].split(",")))
        if path.is_relative_to(mount.point) and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def check_disk(
    disk: Disk, path: Path, mounts: Path = MOUNTS, now: Callable[[], float] = time.perf_counter
) -> list[Verdict]:
    """Raises nothing of what can be wrong with the directory."""
    real = Path(os.path.realpath(path))
    subject = f"directory {path}"
    try:
        require_own(disk, real)
    except (ConfigError, StorageError) as error:
        return [fail(subject, str(error), "make it, empty and owned by the user that runs the keeper")]
    owned = list(_check_owner(subject, real))
    if graded(Grade.FAIL, owned):
        return owned  # where anybody may write nothing is tried: it might be written through a link of somebody else's
    return [
        *owned,
        *_check_daemon(subject, real),
        *_check_mount(real, mounts),
        *_check_space(real),
        *_check_syncs(disk, real, now),
    ]


def _check_owner(subject: str, path: Path) -> Iterator[Verdict]:
    status = os.stat(path)
    if status.st_mode & 0o002:
        yield fail(subject, f"anybody may write to it (mode {status.st_mode & 0o777:o})", f"chmod o-w {path}")
    elif status.st_uid != os.geteuid():
        yield warn(
            subject,
            f"it belongs to the user with the number {status.st_uid}, this one is {os.geteuid()}",
            "run this command, and the keeper, as its owner",
        )


def _check_daemon(subject: str, path: Path) -> Iterator[Verdict]:
    looking = LookingDisk()
    owner = lock_owner(looking, path)
    with suppress(StorageError), looking.open(path / ID_FILE) as file:
        yield ok(subject, f"it is that of keeper {file.pread(64, 0).decode('ascii', 'replace').strip()}")
    if owner is not None:
        yield ok(subject, f"a keeper uses it now (process {owner}): what is measured is what it leaves")


def _check_mount(path: Path, mounts: Path) -> Iterator[Verdict]:
    try:
        mount = find_mount(mounts.read_text(errors="surrogateescape"), path)
    except OSError:
        mount = None
    if mount is None:
        yield warn("file system", "its type cannot be told", "see that it is a local disk: df -T")
        return
    subject = f"file system {mount.point}"
    if "ro" in mount.options:
        yield fail(subject, f"it is {mount.kind}, mounted read-only", "mount it with rw")
    elif FLEETING.fullmatch(mount.kind):
        yield fail(subject, f"it is {mount.kind}: memory, gone at the next start", "use a disk")
    elif NETWORKED.fullmatch(mount.kind):
        yield warn(
            subject,
            f"it is {mount.kind}: how durable an fsync is, and whether two can lock one directory, somebody else decides",
            "use a local disk, or a block device of the network with ext4 or XFS",
        )
    elif LAYERED.fullmatch(mount.kind):
        yield warn(
            subject,
            f"it is {mount.kind}: a container's own, and gone with it",
            "mount a volume at the data directory",
        )
    else:
        yield ok(subject, f"it is {mount.kind}")


def _check_space(path: Path) -> Iterator[Verdict]:
    said = os.statvfs(path)
    free_bytes, total_bytes = said.f_bavail * said.f_frsize, said.f_blocks * said.f_frsize
    what = f"{free_bytes >> 20} MiB of {total_bytes >> 20} MiB are free"
    if free_bytes < FREE_BYTES_MIN or free_bytes < FREE_SHARE_MIN * total_bytes:
        yield warn("space", what, "make room: WAL is kept until somebody removes it, and a full disk refuses it")
    else:
        yield ok("space", what)
    if said.f_files and said.f_favail < FREE_INODES_MIN:
        yield warn(
            "space", f"{said.f_favail} of {said.f_files} inodes are free", "remove files: each segment needs one"
        )


def _check_syncs(disk: Disk, path: Path, now: Callable[[], float]) -> Iterator[Verdict]:
    try:
        seconds = sorted(measure_syncs(disk, path / TRIAL_FILE, now))
    except StorageError as error:
        yield fail("fsync", str(error), "the user that runs the keeper must be able to write there, durably")
        return
    usual, slow, slowest = _percentile(seconds, 50), _percentile(seconds, 99), seconds[-1]
    figures = (f"{each * 1000:.2f} ms" for each in (usual, slow, slowest))
    what = "{} p50, {} p99, {} at most".format(*figures) + f", of {len(seconds)} writes of 8 KiB"
    if usual > USUAL_SECONDS_MAX or slow > SLOW_SECONDS_MAX:
        yield warn(
            "fsync", what, "every commit waits for a majority of these: use a quicker disk, or one of its own"
        )
    else:
        yield ok("fsync", what)


def measure_syncs(disk: Disk, path: Path, now: Callable[[], float]) -> Sequence[float]:
    """How long each of some writes took until it was durable, in seconds.  Raises StorageError."""
    took: list[float] = []
    try:
        remove_if_there(disk, path)  # it may be another's link
        with disk.create(path) as file:
            file.pwritev([bytes(TRIAL_BYTES)], 0)
            file.fsync()
            began = before = now()
            while not took or (len(took) < SYNCS_MAX and before - began < SYNCS_SECONDS_MAX):
                before = now()
                file.pwritev([BLOCK], len(took) * len(BLOCK) % TRIAL_BYTES)
                file.fdatasync()
                took.append(now() - before)
    finally:
        with suppress(StorageError):
            disk.unlink(path)
    return took


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """The smallest that so many percent are not above."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
