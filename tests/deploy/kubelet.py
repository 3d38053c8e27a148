"""A kubelet's side of a pod, as far as files go: Secrets that change while they are mounted, and volumes of a group.

A Secret is a directory of links: ``name -> ..data/name``, and ``..data`` is a link to the directory of the moment, which is
exchanged by a rename.  Whatever is in the middle of that can be seen by whoever looks.

Source: Kubernetes' ``pkg/volume/util/atomic_writer.go``.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

SECRET_MODE = 0o440
ROOT = 0


class MountedSecret:
    """A Secret at ``path``, readable for ``group``."""

    def __init__(self, path: Path, group: int, files: Mapping[str, bytes]) -> None:
        self.path = path
        self._group = group
        self._versions = 0
        path.mkdir()
        self._own(path, 0o3777)
        self.replace(files)

    def replace(self, files: Mapping[str, bytes]) -> None:
        for _ in self.replacing(files):
            pass

    def replacing(self, files: Mapping[str, bytes]) -> Iterator[None]:
        """The same in steps, each of which others see."""
        before = set(os.listdir(self.path))
        self._versions += 1
        version = self.path / f"..2026_11_27_00_00_00.{self._versions}"
        version.mkdir()
        self._own(version, 0o755)
        yield
        for name, content in files.items():
            (version / name).write_bytes(content)
            self._own(version / name, SECRET_MODE)
            yield
        (self.path / "..data_tmp").symlink_to(version.name)
        yield
        (self.path / "..data_tmp").rename(self.path / "..data")
        yield
        for name in files.keys() - before:
            (self.path / name).symlink_to(f"..data/{name}")
            yield
        for name in before - files.keys() - {"..data"}:
            self._remove(self.path / name)
            yield

    def _remove(self, path: Path) -> None:
        if path.is_symlink():
            path.unlink()
            return
        for file in path.iterdir():
            file.unlink()
        path.rmdir()

    def _own(self, path: Path, mode: int) -> None:
        if os.geteuid() == ROOT:
            os.chown(path, ROOT, self._group)
        path.chmod(mode)


def give_to_group(path: Path, group: int) -> None:
    """A volume that was just made, as ``fsGroup`` has it: its root is root's, and the group may write."""
    if os.geteuid() == ROOT:
        os.chown(path, ROOT, group)
    path.chmod(0o2775)


@contextmanager
def as_user(user: int) -> Iterator[None]:
    """A block without the rights of root, if this process has them."""
    if os.geteuid() != ROOT:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(user)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(ROOT)
        os.setegid(ROOT)
        os.setgroups(groups)
