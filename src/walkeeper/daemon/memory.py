"""Python's garbage collector, told how a long-lived process of ours uses memory.

What start-up made lives for ever and need not be looked at again.  After that, nearly everything dies with its
message and by reference counting; the collector is for the few cycles of tasks that ended, so it may come rarely.

And how much of it there is for connections, if nobody has said: every queue and buffer has a limit of its own besides.
"""

import gc
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

CONNECTIONS_SHARE: Final = 4
"""Connections have one part in so many: the page cache is what readers live on."""

CONTROL_GROUPS: Final = Path("/sys/fs/cgroup")
OWN_CONTROL_GROUPS: Final = Path("/proc/self/cgroup")

ALLOCATIONS_BETWEEN_LOOKS: Final = 50_000
"""Containers made and not yet freed before the youngest are looked at.  Python's 700 are reached on every commit of
a large batch, for nothing."""


def settle() -> None:
    """Call once, after start-up."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(ALLOCATIONS_BETWEEN_LOOKS, 20, 50)


def limit_files(own: Path = OWN_CONTROL_GROUPS, root: Path = CONTROL_GROUPS) -> Iterator[Path]:
    """Where limits of this process's memory may stand: in its own control group, which is the root in a container, and in
    all above it.  Source: cgroups(7).
    """
    yield root / "memory" / "memory.limit_in_bytes"
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("0::/"):
            group = Path(line.removeprefix("0::/"))
            yield from (root / each / "memory.max" for each in (group, *group.parents))


def settle_bytes_max(said: int | None, limits: Iterable[Path] | None = None) -> int:
    """What all connections together may hold: ``said``, or a share of what the machine, or the control group, has."""
    if said is not None:
        return said
    there = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in limit_files() if limits is None else limits:
        try:
            there.append(int(path.read_text()))
        except (OSError, ValueError):  # not here, or "max"
            continue
    return min(there) // CONNECTIONS_SHARE
