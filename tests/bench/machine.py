"""Where the figures were taken: a line for the top of the table, and a warning when they would mean little.

Source: proc(5), ``/proc/self/mountinfo``.
"""

import os
import platform
from pathlib import Path
from typing import Final

MEMORY_FILESYSTEMS: Final = frozenset({"tmpfs", "ramfs"})
BUSY_LOAD: Final = 0.5
"""Runnable processes for each core before we begin, above which others will be seen in our figures."""


def describe(scratch: Path) -> str:
    """The machine in a line, and what is wrong with it for measuring, a line each."""
    kind, cores, load = filesystem_of(scratch), os.cpu_count() or 1, os.getloadavg()[0]
    lines = [
        f"{cores} cores, load {load:.1f}, Linux {platform.release()}, Python {platform.python_version()}, {kind}"
    ]
    if kind in MEMORY_FILESYSTEMS:
        lines.append(
            f"WARNING: {scratch} is in memory, where a sync costs nothing; choose a disk with --directory"
        )
    if load > BUSY_LOAD * cores:
        lines.append("WARNING: the machine is busy; trust the ratios a little and the absolute figures not at all")
    return "\n".join(lines)


def filesystem_of(path: Path) -> str:
    """The kind of filesystem that holds ``path``: that of the mount point that is nearest above it, mounted last."""
    best, kind = -1, "unknown filesystem"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        mount_point = Path(fields.split()[4])
        if path.resolve().is_relative_to(mount_point) and len(mount_point.parts) >= best:
            best, kind = len(mount_point.parts), rest.split()[0]
    return kind
