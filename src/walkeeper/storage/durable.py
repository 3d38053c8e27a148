"""What durable means: in which order a file is written, synced, named, and its directory synced.

``rename`` is atomic but says nothing about durability, and a file's fsync says nothing about its name.  So content
is synced before the name is given, and the directory after.  Everything that renames does it here.

Does not know what is in the files.
Source: fsync(2), rename(2); PostgreSQL ``storage/file/fd.c`` (durable_rename).
"""

from pathlib import Path

from walkeeper.errors import DiskFull, FileMissing
from walkeeper.storage.disk import Disk


def replace_file(disk: Disk, path: Path, content: bytes, *, temporary: str, size: int | None = None) -> None:
    """Make ``path`` hold ``content``, followed by zeroes up to ``size`` bytes if that is given.

    At every moment, crashes included, ``path`` is what it was or what it shall be (invariant 32).  ``temporary`` is
    the name, in the same directory, under which the new file is made; two calls with one temporary name must not
    overlap (hazard C3).

    Raises DiskFull (nothing has changed and no temporary file is left), DurabilityLost or another StorageError.
    """
    being_made = path.with_name(temporary)
    try:
        with disk.create(being_made) as file:
            file.pwritev((content,), 0)
            if size is not None:
                file.truncate(size)
            file.fsync()
        disk.rename(being_made, path)
    except DiskFull:
        remove_if_there(disk, being_made)
        raise
    disk.fsync_dir(path.parent)


def rename_synced(disk: Disk, old: Path, new: Path) -> None:
    """Give a file or directory, whose content is durable already, another name, durably."""
    disk.rename(old, new)
    disk.fsync_dir(new.parent)
    if old.parent != new.parent:
        disk.fsync_dir(old.parent)


def remove_if_there(disk: Disk, path: Path) -> None:
    """Unlink a file that may be missing; not durable before the directory is synced."""
    try:
        disk.unlink(path)
    except FileMissing:
        pass


def remove_tree(disk: Disk, path: Path) -> None:
    """Remove a file, or a directory with all that is in it; nothing to do if it is missing.  Not durable."""
    if not disk.is_directory(path):
        remove_if_there(disk, path)
        return
    for name in disk.names(path):
        remove_tree(disk, path / name)
    disk.rmdir(path)
