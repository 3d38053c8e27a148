"""What an inspection finds in a timeline's directory, and what of it is a problem.

``Evidence`` is what was seen, ``judge`` says what it means.  A *problem* is what a keeper cannot have left behind, or
what keeps it from serving WAL that it has promised; a *remark* is worth knowing.

Rules:
* WAL that does not verify is a problem below the control file's commit_lsn, and in every complete segment: one
  without ``.partial`` was written to its end and synced (invariant 28).  Elsewhere it is how WAL ends.
* Nothing is fine by default: if records do not verify up to commit_lsn, there is a problem, whatever the reason.

Pure: no disk, no printing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from pathlib import Path

from walkeeper.errors import Corrupt, StorageError
from walkeeper.formats.control_file import ControlFile, Envelope
from walkeeper.formats.segments import segment_name, segment_number, segment_offset
from walkeeper.formats.xlog import PAGE_BYTES, Record
from walkeeper.ids import NO_TLI, TenantTimelineId, TimelineNumber
from walkeeper.lsn import INVALID_LSN, Lsn, format_lsn
from walkeeper.messages import ServerInfo
from walkeeper.storage.recovery import CONTROL_FILE, require_here


@dataclass(frozen=True, slots=True)
class Problem:
    """``file`` is relative to the directory that was looked at; ``offset`` in bytes, if there is a place in the file."""

    file: str
    what: str
    offset: int | None = None
    lsn: Lsn | None = None


@dataclass(frozen=True, slots=True)
class FoundSegment:
    """A name that says it is a segment.  ``size`` in bytes, None if it cannot be read: ``trouble`` says why."""

    name: str
    segno: int
    tli: TimelineNumber
    is_partial: bool
    size: int | None
    trouble: str = ""

    @property
    def is_gone(self) -> bool:
        """Whether it was listed, and not there any more when it was opened."""
        return self.size is None and not self.trouble


@dataclass(frozen=True, slots=True)
class Stop:
    """Why no more records verify.  ``lsn`` is the place to look at; what was read on its behalf goes to ``reached``.

    Not ``is_broken``: there are no more bytes.
    """

    lsn: Lsn
    reached: Lsn
    why: str
    is_broken: bool


@dataclass(frozen=True, slots=True)
class Stretch:
    """Records that verify, one behind the other, from ``start`` to ``end``."""

    start: Lsn
    end: Lsn
    records: int
    last: Record | None
    stop: Stop


@dataclass(frozen=True, slots=True)
class Hole:
    """Segments ``first`` to ``last`` (names), ``count`` of them, that are not there while earlier and later ones are."""

    first: str
    last: str
    count: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen in one timeline's ``directory``.

    ``expected_ttid`` is what the directory's name says, None if it says nothing.  ``server`` is the control file's, or
    what the segments themselves say if that cannot be read; None: nothing says it, and no file counts as a segment.
    ``chain``: the segments in use, by number, of one PostgreSQL timeline.
    ``stretches``: the WAL from ``wal_start`` on; more than one if records verify again behind some that do not.
    """

    directory: Path
    expected_ttid: TenantTimelineId | None
    envelope: Envelope | None = None
    control_file: ControlFile | None = None
    server: ServerInfo | None = None
    tli: TimelineNumber = NO_TLI
    segments: Sequence[FoundSegment] = ()
    chain: Mapping[int, FoundSegment] = field(default_factory=dict)
    spares: Sequence[str] = ()
    is_whole: bool = True
    leftovers: Sequence[str] = ()
    others: Sequence[str] = ()
    stretches: Sequence[Stretch] = ()
    troubles: Sequence[Problem] = ()  # met while looking

    @property
    def ttid(self) -> TenantTimelineId | None:
        return self.expected_ttid or (self.control_file.ttid if self.control_file else None)

    @property
    def commit_lsn(self) -> Lsn:
        return self.control_file.commit_lsn if self.control_file else INVALID_LSN

    def holes(self) -> list[Hole]:
        return [
            Hole(self.name_of(before + 1), self.name_of(behind - 1), behind - before - 1)
            for before, behind in pairwise(sorted(self.chain))
            if behind > before + 1
        ]

    def name_of(self, segno: int) -> str:
        """The name of a segment: of the file if there is one, else the final one."""
        assert self.server is not None
        found = self.chain.get(segno)
        return found.name if found else segment_name(self.tli, segno, self.server.wal_seg_size)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the evidence means: all is well if there are no ``problems``."""

    problems: Sequence[Problem]
    remarks: Sequence[str]


def choose_tli(segments: Sequence[FoundSegment], lsn: Lsn, segment_bytes: int) -> TimelineNumber:
    """The PostgreSQL timeline that a keeper goes on with: the one in the name of the segment that ends, or is, at ``lsn``."""
    for position in (lsn - 1, lsn):
        for each in segments:
            if each.segno == position // segment_bytes:
                return each.tli
    return segments[0].tli if segments else NO_TLI


def choose_chain(segments: Sequence[FoundSegment], tli: TimelineNumber) -> dict[int, FoundSegment]:
    """The segments of that timeline, by number.  A ``.partial`` comes behind a complete one, and counts."""
    return {each.segno: each for each in segments if each.tli == tli}


def trouble_of(error: StorageError) -> str:
    """What the disk said, without the path that is named anyway."""
    return f"cannot {error.operation} it: {error.detail}" if error.operation else error.detail


def judge(evidence: Evidence) -> Verdict:
    """What is wrong, and what is worth knowing."""
    problems = [*evidence.troubles, *_control_file_problems(evidence)]
    remarks: list[str] = []
    if evidence.server is not None:
        problems += _segment_problems(evidence, evidence.server.wal_seg_size)
        for stretch, next_one in zip_longest(evidence.stretches, evidence.stretches[1:]):
            _judge_stop(evidence, stretch, next_one, problems, remarks)
        remarks += _segment_remarks(evidence, evidence.server.wal_seg_size)
    if not problems and (missing := _commit_problem(evidence)):
        problems.append(missing)
    return Verdict(problems, remarks)


# -- the control file ---------------------------------------------------------------------------------------


def _control_file_problems(evidence: Evidence) -> Iterator[Problem]:
    control_file = evidence.control_file
    if control_file is None:
        return
    if evidence.expected_ttid not in (None, control_file.ttid):
        yield Problem(CONTROL_FILE, f"it is that of {control_file.ttid}, another timeline than its directory's")
    try:
        require_here(control_file, evidence.directory)
    except Corrupt as error:
        yield Problem(CONTROL_FILE, error.detail)


def _commit_problem(evidence: Evidence) -> Problem | None:
    """Committed WAL of which no record tells, for a reason that nothing else has named."""
    control_file = evidence.control_file
    if control_file is None or control_file.commit_lsn <= control_file.local_start_lsn:
        return None  # there is no WAL yet
    end_lsn = evidence.stretches[-1].end if evidence.stretches else INVALID_LSN
    if end_lsn >= control_file.commit_lsn:
        return None
    found = f"records verify up to {format_lsn(end_lsn)} only" if end_lsn else "there is no WAL"
    return Problem(CONTROL_FILE, f"commit_lsn is {format_lsn(control_file.commit_lsn)}, but {found}")


# -- segments -----------------------------------------------------------------------------------------------


def _segment_problems(evidence: Evidence, segment_bytes: int) -> Iterator[Problem]:
    for each in evidence.segments:
        if each.tli != evidence.tli:
            yield Problem(each.name, f"it is of PostgreSQL's timeline {each.tli}, the other WAL of {evidence.tli}")
        if each.size is None:
            yield Problem(each.name, each.trouble)
        elif each.size != segment_bytes and not _may_be_short(evidence, each, each.size, segment_bytes):
            what = f"it has {each.size} bytes instead of {segment_bytes}"
            yield Problem(each.name, what, min(each.size, segment_bytes))
    for hole in evidence.holes():
        more = f", and all up to {hole.last}" if hole.count > 1 else ""
        yield Problem(hole.first, f"is missing{more}, while there are later segments")
    yield from _end_problems(evidence, segment_bytes)


def _may_be_short(evidence: Evidence, segment: FoundSegment, size: int, segment_bytes: int) -> bool:
    """An interrupted truncation leaves the last segment cut; what is cut off was never committed."""
    is_last = segment.segno == max(evidence.chain)
    end_lsn = segment.segno * segment_bytes + size
    return segment.is_partial and is_last and size < segment_bytes and end_lsn >= evidence.commit_lsn


def _end_problems(evidence: Evidence, segment_bytes: int) -> Iterator[Problem]:
    """Segments that commit_lsn promises, before the first one or behind the last one that is there."""
    control_file = evidence.control_file
    if control_file is None or control_file.commit_lsn <= control_file.local_start_lsn:
        return
    if control_file.evicted_at is not None or not evidence.chain:
        return
    segno = segment_number(control_file.commit_lsn - 1, segment_bytes)
    if not min(evidence.chain) <= segno <= max(evidence.chain):
        what = f"is missing, but holds WAL up to commit_lsn {format_lsn(control_file.commit_lsn)}"
        yield Problem(evidence.name_of(segno), what)


def _segment_remarks(evidence: Evidence, segment_bytes: int) -> Iterator[str]:
    chain = evidence.chain
    for each in evidence.segments:
        if each.tli == evidence.tli and each is not chain[each.segno]:
            yield f"{each.name} is not used: there is {chain[each.segno].name} too, which counts"
        if each.size is not None and each.is_partial and each.size < segment_bytes:
            yield f"{each.name} has {each.size} bytes: its end was cut off, or it was never made at its full size"
    start_lsn = evidence.control_file.local_start_lsn if evidence.control_file else INVALID_LSN
    if chain and start_lsn >= PAGE_BYTES and segment_number(start_lsn, segment_bytes) < min(chain):
        first_lsn = format_lsn(min(chain) * segment_bytes)
        yield f"WAL from local_start_lsn {format_lsn(start_lsn)} to {first_lsn} has been removed"


# -- records ------------------------------------------------------------------------------------------------


def _judge_stop(
    evidence: Evidence, stretch: Stretch, next_one: Stretch | None, problems: list[Problem], remarks: list[str]
) -> None:
    """A stretch ends: as WAL does, or is something broken?  Missing bytes are the segments' problem."""
    assert evidence.server is not None
    segment_bytes, stop = evidence.server.wal_seg_size, stretch.stop
    if not stop.is_broken:
        return
    file = evidence.name_of(segment_number(stop.lsn, segment_bytes))
    offset = segment_offset(stop.lsn, segment_bytes)
    again = f"; records verify again from {format_lsn(next_one.start)}" if next_one else ""
    reached = evidence.chain.get(segment_number(stop.reached, segment_bytes))
    if stretch.end < evidence.commit_lsn:
        behind = "" if next_one else "; nothing behind it verifies"
        problems.append(Problem(file, f"{stop.why}{again or behind}", offset, stop.lsn))
    elif reached is not None and not reached.is_partial:
        problems.append(Problem(file, f"{stop.why}, in a segment that is complete{again}", offset, stop.lsn))
    elif next_one:
        advice = "damage, or a write that a power failure tore: compare with another keeper"
        remarks.append(f"{file} at byte {offset}: {stop.why}{again}: {advice}")
