"""What a keeper has stored against the primary's pg_wal: byte for byte, and as pg_waldump reads it.

Purpose: one proof for the tests and the demonstration that segments are PostgreSQL's own, whole and `.partial` ones.
Rules: blocking; the keeper has no writer meanwhile.  Up to where the keeper says that its WAL ends everything counts;
what is behind may be anything.  A segment that the primary has removed, or renamed for later use, cannot be compared
and is only read.

Not here: waiting until keepers have caught up, and how much is enough.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import postgres
import programs
from walkeeper.formats.segments import PARTIAL_SUFFIX, parse_segment_name


class WalDiffers(Exception):
    """A keeper has something else than the primary, or not what it says it has; the text says where."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What was looked at in one keeper's segments: `records` by pg_waldump, `equal_bytes` in the primary's files too."""

    whole_segments: int
    partial_segments: int
    records: int
    equal_bytes: int


def compare_wal(primary: postgres.Cluster, segments: Sequence[Path], end_lsn: int, segment_bytes: int) -> Compared:
    """Look at all of a keeper's `segments` (in order, at least one) up to `end_lsn`, the end of its WAL.

    Raises WalDiffers, or PostgresFailed when pg_waldump does not read them to that end.
    """
    begin_lsns = [_begin_of(segment, segment_bytes) for segment in segments]
    begin_lsn, *_ = begin_lsns
    behind_lsn = begin_lsn + len(segments) * segment_bytes
    if begin_lsns != list(range(begin_lsn, behind_lsn, segment_bytes)) or behind_lsn < end_lsn:
        names = ", ".join(segment.name for segment in segments)
        raise WalDiffers(f"not one segment after the other up to {programs.format_lsn(end_lsn)}: {names}")
    equal_bytes = sum(
        _compare_segment(primary, segment, segment_bytes, min(segment_bytes, max(0, end_lsn - lsn)))
        for segment, lsn in zip(segments, begin_lsns, strict=True)
    )
    with _as_archived(primary, segments) as directory:
        records = count_records(primary, directory, begin_lsn, end_lsn)
    partial = sum(segment.suffix == PARTIAL_SUFFIX for segment in segments)
    return Compared(len(segments) - partial, partial, records, equal_bytes)


def count_records(cluster: postgres.Cluster, directory: Path, begin_lsn: int, end_lsn: int) -> int:
    """How many records pg_waldump finds; raises PostgresFailed if it stumbles before `end_lsn`."""
    span = ["-s", programs.format_lsn(begin_lsn), "-e", programs.format_lsn(end_lsn)]
    return cluster.wal_dump("-p", str(directory), *span).stdout.count("rmgr: ")


def _begin_of(segment: Path, segment_bytes: int) -> int:
    parsed = parse_segment_name(segment.name, segment_bytes)
    if parsed is None:
        raise WalDiffers(f"{segment} is not the name of a segment of {segment_bytes} bytes")
    return parsed.segno * segment_bytes


def _compare_segment(primary: postgres.Cluster, segment: Path, segment_bytes: int, length: int) -> int:
    """How many bytes are the same: all of `length`, or 0 if the primary has no such segment any more."""
    if segment.stat().st_size != segment_bytes:
        raise WalDiffers(f"{segment} has {segment.stat().st_size} bytes instead of {segment_bytes}")
    theirs = primary.wal / _plain_name(segment)
    if not theirs.exists():
        return 0
    with segment.open("rb") as ours, theirs.open("rb") as original:
        if ours.read(length) != original.read(length):
            raise WalDiffers(f"{segment} differs from the primary's in its first {length} bytes")
    return length


@contextmanager
def _as_archived(primary: postgres.Cluster, segments: Sequence[Path]) -> Iterator[Path]:
    """Copies under the names that pg_waldump knows, which the primary's account can read."""
    copies = primary.directory / "copied_segments"
    copies.mkdir()
    try:
        for segment in segments:
            shutil.copyfile(segment, copies / _plain_name(segment))
        primary.account.own(copies)
        yield copies
    finally:
        shutil.rmtree(copies)


def _plain_name(segment: Path) -> str:
    return segment.name.removesuffix(PARTIAL_SUFFIX)
