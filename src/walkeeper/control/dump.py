"""The debug dump: what this keeper knows of its timelines, all at once, for people and their scripts.

Looks at ``statistics()`` without locks, and lets other tasks run between two timelines.  What is on the disk is not in it:
``walkeeper inspect`` tells that, without the keeper.

Source: Neon's ``debug_dump.rs``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import trio

from walkeeper.acceptor.state import AcceptorState
from walkeeper.control.models import Json, walsenders
from walkeeper.control.patches import ControlFileJson
from walkeeper.formats.control_file import control_file_as_json
from walkeeper.lsn import format_lsn
from walkeeper.timeline.timeline import Timeline, TimelineStatistics

NO_MANAGER: Final = "NotStarted"
"""Neon's word for a timeline without the task that it has for each; here there is no such task."""


class KeeperConfig(Json, frozen=True):
    """Of the process.  What it does not have is 0 or false."""

    id: int
    workdir: str = ""
    listen_pg_addr: str = ""
    listen_http_addr: str = ""
    no_sync: bool = False
    max_offloader_lag_bytes: int = 0
    wal_backup_enabled: bool = False


class PositionsInMemory(Json, frozen=True):
    commit_lsn: str
    backup_lsn: str
    peer_horizon_lsn: str
    remote_consistent_lsn: str
    proposer_uuid: str


class TimelineInMemory(Json, frozen=True):
    is_cancelled: bool
    peers_info_len: int
    walsenders: list[dict[str, Any]]
    wal_backup_active: bool
    active: bool
    num_computes: int
    last_removed_segno: int
    epoch_start_lsn: str
    mem_state: PositionsInMemory
    mgr_status: str
    write_lsn: str
    write_record_lsn: str
    flush_lsn: str
    file_open: bool


class DumpedTimeline(Json, frozen=True):
    """``control_file`` and ``memory`` are null where they were not asked for, and while the timeline cannot be used."""

    tenant_id: str
    timeline_id: str
    control_file: ControlFileJson | None
    memory: TimelineInMemory | None
    disk_content: None = None
    wal_last_modified: None = None


class DebugDump(Json, frozen=True):
    start_time: str
    finish_time: str
    timelines_count: int
    config: KeeperConfig
    timelines: list[DumpedTimeline]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which parts of a timeline are dumped."""

    control_file: bool
    memory: bool
    term_history: bool


async def dump(config: KeeperConfig, count: int, timelines: Sequence[Timeline], wanted: Wanted) -> DebugDump:
    """``timelines`` of the ``count`` that there are.

    Cancellation: at any time; nothing has changed.
    """
    start_time, dumped = _now(), []
    for timeline in timelines:
        dumped.append(_dump(timeline, timeline.statistics(), wanted))
        await trio.lowlevel.checkpoint()
    return DebugDump(start_time, _now(), count, config, dumped)


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _dump(timeline: Timeline, statistics: TimelineStatistics, wanted: Wanted) -> DumpedTimeline:
    state = statistics.state
    return DumpedTimeline(
        str(statistics.ttid.tenant_id),
        str(statistics.ttid.timeline_id),
        _control_file(state, wanted) if state and wanted.control_file else None,
        _memory(timeline, statistics, state) if state and wanted.memory else None,
    )


def _control_file(state: AcceptorState, wanted: Wanted) -> ControlFileJson:
    shown = control_file_as_json(state.kept)
    if not wanted.term_history:
        shown["acceptor_state"]["term_history"] = []
    return msgspec.convert(shown, ControlFileJson)


def _memory(timeline: Timeline, statistics: TimelineStatistics, state: AcceptorState) -> TimelineInMemory:
    ahead, wal = state.ahead, state.wal
    return TimelineInMemory(
        is_cancelled=timeline.is_closing,
        peers_info_len=0,
        walsenders=walsenders(statistics),
        wal_backup_active=False,
        active=bool(statistics.receivers),
        num_computes=len(statistics.receivers),
        last_removed_segno=0,
        epoch_start_lsn=format_lsn(state.term_start_lsn),
        mem_state=PositionsInMemory(
            commit_lsn=format_lsn(ahead.commit_lsn),
            backup_lsn=format_lsn(ahead.backup_lsn),
            peer_horizon_lsn=format_lsn(ahead.peer_horizon_lsn),
            remote_consistent_lsn=format_lsn(ahead.remote_consistent_lsn),
            proposer_uuid=state.kept.proposer_uuid.hex(),
        ),
        mgr_status=NO_MANAGER,
        write_lsn=format_lsn(wal.write_lsn),
        write_record_lsn=format_lsn(wal.flush_lsn),
        flush_lsn=format_lsn(state.flush_lsn),
        file_open=not wal.awaits_truncation and bool(wal.tli),
    )
