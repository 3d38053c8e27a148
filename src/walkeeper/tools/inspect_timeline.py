"""Looking at one timeline's directory: its control file, its other files, its WAL.

Rules: nothing is written and no name leads out of the directory (``LookingDisk``).  What cannot be read is said, and
the rest looked at: segments tell by themselves what the control file would have told of the server.  The control file
comes first, then the names, then the WAL: of a keeper at work the WAL only grows in the meantime.

Does not judge: ``inspect_findings`` does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from walkeeper.errors import FileMissing, Malformed, StorageError
from walkeeper.formats.control_file import ControlFile, parse_control_file, read_envelope
from walkeeper.formats.segments import (
    PARTIAL_SUFFIX,
    WAL_SEG_SIZE_MIN,
    is_legal_segment_size,
    parse_segment_name,
    segment_name,
    segment_number,
)
from walkeeper.formats.xlog import LONG_HEADER_BYTES, PAGE_BYTES
from walkeeper.formats.xlog_pages import server_of_segment
from walkeeper.ids import NO_TLI, TenantTimelineId
from walkeeper.lsn import Lsn
from walkeeper.messages import ServerInfo
from walkeeper.storage.disk import ReadableDisk
from walkeeper.storage.reader import WalReader
from walkeeper.storage.recovery import CONTROL_FILE, CONTROL_FILE_BYTES_MAX, INCOMPLETE, LEFTOVERS
from walkeeper.storage.spare import SPARE, SPARE_BEING_MADE
from walkeeper.tools.inspect_findings import Evidence, FoundSegment, Problem, choose_chain, choose_tli, trouble_of
from walkeeper.tools.inspect_wal import WalScan

Progress = Callable[[int, int], None]
"""Told how many bytes of WAL have been read, and how many there are."""

LOOKS_MAX: Final = 5
"""A keeper at work renames a segment now and then; a directory that changes faster is not one."""

_SPARES: Final = frozenset({SPARE, SPARE_BEING_MADE})


def look(
    disk: ReadableDisk, directory: Path, expected_ttid: TenantTimelineId | None, progress: Progress
) -> Evidence:
    """Everything that can be seen in ``directory``."""
    evidence = _with_control_file(disk, Evidence(directory, expected_ttid))
    try:
        evidence = _with_files(disk, evidence)
    except StorageError as error:
        return _met(evidence, Problem(".", trouble_of(error)))
    return _with_wal(disk, evidence, progress) if evidence.chain else evidence


def is_like_segment(name: str) -> bool:
    """Whether a file would be a segment, of some size."""
    return parse_segment_name(name, WAL_SEG_SIZE_MIN) is not None


def _met(evidence: Evidence, problem: Problem) -> Evidence:
    return replace(evidence, troubles=(*evidence.troubles, problem))


# -- the control file ---------------------------------------------------------------------------------------


def _with_control_file(disk: ReadableDisk, evidence: Evidence) -> Evidence:
    try:
        with disk.open(evidence.directory / CONTROL_FILE) as file:
            content = file.pread(CONTROL_FILE_BYTES_MAX, 0)
    except FileMissing:
        return _met(evidence, Problem(CONTROL_FILE, "is missing"))
    except StorageError as error:
        return _met(evidence, Problem(CONTROL_FILE, trouble_of(error)))
    evidence = replace(evidence, envelope=read_envelope(content))
    try:
        control_file = parse_control_file(content)
    except Malformed as error:
        return _met(evidence, Problem(CONTROL_FILE, str(error)))
    return replace(evidence, control_file=control_file)


# -- other files --------------------------------------------------------------------------------------------


def _with_files(disk: ReadableDisk, evidence: Evidence) -> Evidence:
    """All names in the directory, sorted into what they are.  Raises StorageError if it cannot be listed."""
    names, server, segments = _settled_files(disk, evidence)
    known = {each.name for each in segments} | LEFTOVERS | {CONTROL_FILE, INCOMPLETE}
    others = [name for name in names if name not in known]
    tli = choose_tli(segments, evidence.commit_lsn, server.wal_seg_size) if server else NO_TLI
    strays = [Problem(name, _why_none(server)) for name in others if is_like_segment(name)]
    return replace(
        evidence,
        server=server,
        tli=tli,
        segments=segments,
        chain=choose_chain(segments, tli),
        spares=[name for name in names if name in _SPARES],
        is_whole=INCOMPLETE not in names,
        leftovers=[name for name in names if name in LEFTOVERS - _SPARES],
        others=others,
        troubles=(*evidence.troubles, *strays),
    )


def _settled_files(
    disk: ReadableDisk, evidence: Evidence
) -> tuple[Sequence[str], ServerInfo | None, list[FoundSegment]]:
    """Names, whose WAL, and segments, listed again if a daemon has renamed one meanwhile.  Raises StorageError."""
    for _ in range(LOOKS_MAX):
        names = disk.names(evidence.directory)
        server = _server(disk, evidence, names)
        segments = _segments(disk, evidence.directory, names, server.wal_seg_size) if server else []
        if not any(each.is_gone for each in segments):
            break
    return names, server, [each for each in segments if not each.is_gone]


def _why_none(server: ServerInfo | None) -> str:
    if server is None:
        return "it is named like a segment, but nothing tells how long segments are"
    return f"no segment of {server.wal_seg_size} bytes is named so"


def _server(disk: ReadableDisk, evidence: Evidence, names: Sequence[str]) -> ServerInfo | None:
    """Whose WAL this is: by the control file, or by the first segment that tells."""
    if evidence.control_file and is_legal_segment_size(evidence.control_file.server.wal_seg_size):
        return evidence.control_file.server
    for name in filter(is_like_segment, names):
        try:
            with disk.open(evidence.directory / name) as file:
                return server_of_segment(file.pread(LONG_HEADER_BYTES, 0))
        except (StorageError, Malformed):
            continue
    return None


def _segments(disk: ReadableDisk, directory: Path, names: Sequence[str], segment_bytes: int) -> list[FoundSegment]:
    """Those of ``names`` that are segments, in the order of their numbers, ``.partial`` behind complete."""
    found = (_segment(disk, directory, name, segment_bytes) for name in names)
    return sorted((each for each in found if each), key=lambda each: (each.segno, each.tli, each.is_partial))


def _segment(disk: ReadableDisk, directory: Path, name: str, segment_bytes: int) -> FoundSegment | None:
    """The segment of that name, None if it says nothing of the kind."""
    parsed = parse_segment_name(name, segment_bytes)
    if parsed is None or name.removesuffix(PARTIAL_SUFFIX) != segment_name(
        parsed.tli, parsed.segno, segment_bytes
    ):
        return None
    segment = FoundSegment(name, parsed.segno, parsed.tli, parsed.partial, None)
    try:
        with disk.open(directory / name) as file:
            return replace(segment, size=file.size())
    except FileMissing:
        return segment  # renamed by the daemon since it was listed
    except StorageError as error:
        return replace(segment, trouble=trouble_of(error))


# -- the WAL ------------------------------------------------------------------------------------------------


def _with_wal(disk: ReadableDisk, evidence: Evidence, progress: Progress) -> Evidence:
    assert evidence.server is not None
    server, chain = evidence.server, evidence.chain
    total = sum(each.size or 0 for each in chain.values())
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    try:
        reader = WalReader(disk, evidence.directory, server.wal_seg_size)
        scan = WalScan(reader, server, evidence.tli, chain, advance)
        start, inside_record = _start(evidence.control_file, chain, server.wal_seg_size) or (
            scan.first_page(),
            True,
        )
        return replace(evidence, stretches=list(scan.stretches(start, inside_record=inside_record)))
    except Malformed as error:
        return _met(evidence, Problem(CONTROL_FILE, f"its WAL cannot be read: {error}"))


def _start(
    control_file: ControlFile | None, chain: Mapping[int, FoundSegment], segment_bytes: int
) -> tuple[Lsn, bool] | None:
    """Where the WAL begins, and whether a record may be in progress there; None if that WAL is not here.

    Only the first page of a timeline may go on with a record that began before: all else is cut at records.
    """
    if control_file is None or segment_number(control_file.local_start_lsn, segment_bytes) not in chain:
        return None
    start = control_file.local_start_lsn
    return start, start == control_file.timeline_start_lsn and start % PAGE_BYTES == 0
