"""What the acceptor asks the disk to do, as values; ``storage.store`` performs them in the order given.

Every effect is durable when ``perform`` has returned, except ``WriteWal``, which only ``SyncWal`` makes so.
An intent that writes WAL therefore ends its writing with a ``SyncWal``, before any control file that speaks of it.

Does not perform anything and does not know files: segments and names are the store's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from walkeeper.formats.control_file import ControlFile
from walkeeper.ids import TimelineNumber
from walkeeper.lsn import Lsn
from walkeeper.messages import Slice


@dataclass(frozen=True, slots=True)
class KeepControlFile:
    """Replace the control file atomically and durably."""

    control_file: ControlFile


@dataclass(frozen=True, slots=True)
class InitializeFirstSegment:
    """Create the segment of ``lsn`` with the page headers that precede it, which no leader will ever stream.

    ``lsn`` is inside a segment (not at its start).  ``tli`` names the segment.
    """

    lsn: Lsn
    tli: TimelineNumber


@dataclass(frozen=True, slots=True)
class TruncateWal:
    """Make ``lsn`` the end of the WAL: later segments gone (highest first), the rest of its segment zero.

    The segment of ``lsn`` is ``.partial`` afterwards; every earlier one has its final name (a segment that an
    XLOG_SWITCH left without its padding is complete as it is, hazard 2.9).  ``tli`` is 0 when there is no WAL yet.
    """

    lsn: Lsn
    tli: TimelineNumber


@dataclass(frozen=True, slots=True)
class WriteWal:
    """Write ``slices`` at ``begin_lsn``, which is where the WAL ends, across as many segments as they span."""

    begin_lsn: Lsn
    slices: Sequence[Slice]
    tli: TimelineNumber

    @property
    def end_lsn(self) -> Lsn:
        return Lsn(self.begin_lsn + sum(map(len, self.slices)))


@dataclass(frozen=True, slots=True)
class SyncWal:
    """Make everything written so far durable (fdatasync of the open segment)."""


@dataclass(frozen=True, slots=True)
class BecomeWhole:
    """Remember that this keeper has everything that was ever committed, as far as it can have been asked about it.

    It was made without that: new, or in place of one whose disk was lost.
    """


Effect = KeepControlFile | InitializeFirstSegment | TruncateWal | WriteWal | SyncWal | BecomeWhole
