"""An inspection, for people and for programs; and how far it has come, for those who wait.

Text and JSON say the same.  The keys of the JSON are stable: LSNs are text, sizes and counts are numbers.  File names
and host names may be anybody's: whatever could act on a terminal is escaped.

Does not find anything out: ``inspect`` has.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import Any, Final, TextIO

from walkeeper.formats.control_file import ControlFile, control_file_as_json
from walkeeper.formats.resource_managers import resource_manager_name
from walkeeper.formats.sizes import format_size
from walkeeper.formats.xlog import Record
from walkeeper.lsn import format_lsn
from walkeeper.membership import Configuration, Member
from walkeeper.messages import ServerInfo
from walkeeper.tools.inspect import Inspection
from walkeeper.tools.inspect_findings import Evidence, Problem, Stretch, Verdict

MIB: Final = 1 << 20

PROGRESS_SECONDS: Final = 0.2
"""How often the line on the terminal changes."""

_LABEL_COLUMNS: Final = 17

_LSNS: Final = (
    "timeline_start_lsn",
    "local_start_lsn",
    "commit_lsn",
    "backup_lsn",
    "peer_horizon_lsn",
    "remote_consistent_lsn",
)

Row = tuple[str, str]


# -- for people ---------------------------------------------------------------------------------------------


def as_text(inspection: Inspection) -> str:
    """Everything, a timeline behind the other."""
    lines = list(_head(inspection))
    for evidence, verdict in inspection.timelines:
        lines += ["", f"timeline {evidence.ttid or 'of unknown name'}: {_word(verdict.problems)}"]
        lines += [f"  {label:{_LABEL_COLUMNS}} {value}" for label, value in _rows(evidence)]
        lines += [f"  problem: {_problem_as_text(each)}" for each in verdict.problems]
        lines += [f"  remark: {shown(each)}" for each in verdict.remarks]
    return "\n".join(lines)


def shown(text: str) -> str:
    """``text`` as it is if all of it can be printed, else with escapes."""
    return text if text.isprintable() else ascii(text)[1:-1]


def _word(problems: Sequence[Problem]) -> str:
    match len(problems):
        case 0:
            return "ok"
        case 1:
            return "1 problem"
        case count:
            return f"{count} problems"


def _head(inspection: Inspection) -> Iterator[str]:
    number = "" if inspection.node_id is None else f", keeper {inspection.node_id}"
    yield f"{shown(str(inspection.path))}{number}: {_timelines(inspection)}"
    if inspection.owner_pid is not None:
        yield f"in use by process {inspection.owner_pid}: this may be of a moving target"
    for each in inspection.problems:
        yield f"problem: {_problem_as_text(each)}"


def _timelines(inspection: Inspection) -> str:
    return "1 timeline" if len(inspection.timelines) == 1 else f"{len(inspection.timelines)} timelines"


def _problem_as_text(problem: Problem) -> str:
    at = "" if problem.offset is None else f" at byte {problem.offset}"
    return f"{shown(problem.file)}{at}: {shown(problem.what)}"


def _rows(evidence: Evidence) -> Iterator[Row]:
    yield "control file", _control_file_as_text(evidence)
    yield (
        "standing",
        "whole" if evidence.is_whole else "incomplete: no leader has made up yet for what it may have lost",
    )
    if evidence.server is not None:
        yield "server", _server_as_text(evidence.server, is_guessed=evidence.control_file is None)
    if evidence.control_file is not None:
        yield from _control_file_rows(evidence.control_file)
    yield from _file_rows(evidence)
    for stretch in evidence.stretches:
        yield from _stretch_rows(stretch)


def _control_file_as_text(evidence: Evidence) -> str:
    envelope = evidence.envelope
    if envelope is None:
        return "cannot be read"
    checksum = "checksum ok" if envelope.checksum_holds else "its checksum does not match"
    return f"version {envelope.version}, {checksum}" + ("" if evidence.control_file else ": cannot be read")


def _server_as_text(server: ServerInfo, *, is_guessed: bool) -> str:
    version = f"{server.pg_major}{' (as segments say)' if is_guessed else f'.{server.pg_version % 10000}'}"
    return f"PostgreSQL {version}, system id {server.system_id}, segments of {format_size(server.wal_seg_size)}"


def _control_file_rows(control_file: ControlFile) -> Iterator[Row]:
    yield "term", str(control_file.term)
    yield "term history", " ".join(map(str, control_file.term_history.entries)) or "none"
    yield "configuration", shown(_configuration_as_text(control_file.configuration))
    for name in _LSNS:
        yield name.removesuffix("_lsn").replace("_", " "), format_lsn(getattr(control_file, name))


def _configuration_as_text(configuration: Configuration) -> str:
    text = f"generation {configuration.generation}: {_members_as_text(configuration.members)}"
    if configuration.new_members is not None:
        text += f"; joining {_members_as_text(configuration.new_members)}"
    return text


def _members_as_text(members: Sequence[Member]) -> str:
    return ", ".join(f"{each.id} at {each.host}:{each.pg_port}" for each in members) or "no members"


def _file_rows(evidence: Evidence) -> Iterator[Row]:
    segments = evidence.segments
    span = f": {segments[0].name} to {segments[-1].name}" if segments else ""
    yield "segments", f"{len(segments)}{span}"
    for hole in evidence.holes():
        yield "hole", f"{hole.count} missing: {hole.first} to {hole.last}"
    for label, names in (
        ("spares", evidence.spares),
        ("leftovers", evidence.leftovers),
        ("other files", evidence.others),
    ):
        if names:
            yield label, ", ".join(map(shown, names))


def _stretch_rows(stretch: Stretch) -> Iterator[Row]:
    yield "records", f"{stretch.records} verify, from {format_lsn(stretch.start)} to {format_lsn(stretch.end)}"
    yield "stopped there", stretch.stop.why
    if stretch.last is not None:
        yield "last record", _record_as_text(stretch.last)


def _record_as_text(record: Record) -> str:
    header = record.header
    return f"{format_lsn(record.start)}, {resource_manager_name(header.rmid)}, {header.total_bytes} bytes"


# -- for programs -------------------------------------------------------------------------------------------


def as_json(inspection: Inspection) -> str:
    """The same as one JSON document."""
    document = {
        "path": str(inspection.path),
        "node_id": inspection.node_id,
        "in_use_by_pid": inspection.owner_pid,
        "ok": inspection.count_problems() == 0,
        "problems": [_problem_as_json(each) for each in inspection.problems],
        "timelines": [_timeline_as_json(evidence, verdict) for evidence, verdict in inspection.timelines],
    }
    return json.dumps(document, indent=2)


def _timeline_as_json(evidence: Evidence, verdict: Verdict) -> dict[str, Any]:
    ttid, server = evidence.ttid, evidence.server
    return {
        "tenant_id": None if ttid is None else str(ttid.tenant_id),
        "timeline_id": None if ttid is None else str(ttid.timeline_id),
        "ok": not verdict.problems,
        "problems": [_problem_as_json(each) for each in verdict.problems],
        "remarks": list(verdict.remarks),
        "control_file": _control_file_as_json(evidence),
        "segment_bytes": None if server is None else server.wal_seg_size,
        "segments": [{"name": each.name, "size": each.size} for each in evidence.segments],
        "holes": [{"first": each.first, "last": each.last, "count": each.count} for each in evidence.holes()],
        "spares": list(evidence.spares),
        "is_whole": evidence.is_whole,
        "leftovers": list(evidence.leftovers),
        "other_files": list(evidence.others),
        "wal": [_stretch_as_json(each) for each in evidence.stretches],
    }


def _problem_as_json(problem: Problem) -> dict[str, Any]:
    lsn = None if problem.lsn is None else format_lsn(problem.lsn)
    return {"file": problem.file, "offset": problem.offset, "lsn": lsn, "what": problem.what}


def _control_file_as_json(evidence: Evidence) -> dict[str, Any]:
    envelope, control_file = evidence.envelope, evidence.control_file
    return {
        "version": None if envelope is None else envelope.version,
        "checksum_holds": None if envelope is None else envelope.checksum_holds,
        "content": None if control_file is None else control_file_as_json(control_file),
    }


def _stretch_as_json(stretch: Stretch) -> dict[str, Any]:
    return {
        "start_lsn": format_lsn(stretch.start),
        "end_lsn": format_lsn(stretch.end),
        "records": stretch.records,
        "stopped_because": stretch.stop.why,
        "last_record": None if stretch.last is None else _record_as_json(stretch.last),
    }


def _record_as_json(record: Record) -> dict[str, Any]:
    return {
        "lsn": format_lsn(record.start),
        "prev_lsn": format_lsn(record.header.prev),
        "resource_manager": resource_manager_name(record.header.rmid),
        "length": record.header.total_bytes,
        "xid": record.header.xid,
    }


# -- for those who wait -------------------------------------------------------------------------------------


class ProgressLine:
    """One line on ``terminal`` that says how far a timeline has been read; nothing where that is no terminal."""

    def __init__(self, terminal: TextIO, clock: Callable[[], float] = monotonic) -> None:
        self._terminal = terminal
        self._clock = clock
        self._is_shown = terminal.isatty()
        self._next_time = clock() + PROGRESS_SECONDS
        self._columns = 0

    def __call__(self, done_bytes: int, total_bytes: int) -> None:
        if self._is_shown and self._clock() >= self._next_time:
            self._next_time = self._clock() + PROGRESS_SECONDS
            self._put(f"verifying: {done_bytes // MIB} of {total_bytes // MIB} MiB")

    def clear(self) -> None:
        """Leave the line empty, for whatever comes next."""
        if self._columns:
            self._put("")

    def _put(self, text: str) -> None:
        self._terminal.write(f"\r{text:{self._columns}}\r")
        self._terminal.flush()
        self._columns = len(text)
