"""What an acceptor knows: the control file as it is on disk, and the little that runs ahead of it.

``AcceptorState`` is a value.  Its ``kept`` part is byte for byte what ``safekeeper.control`` holds; ``ahead``
are the positions that may lag on disk and are saved with whatever is saved next; ``wal`` is rebuilt from the
segments at every start.

Does not decide: the rules are in ``acceptor.acceptor``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from walkeeper.acceptor.effects import KeepControlFile
from walkeeper.errors import InvalidTimeline, Malformed
from walkeeper.formats.control_file import ControlFile
from walkeeper.formats.xlog import PAGE_BYTES, RecordScanner
from walkeeper.formats.xlog_pages import PageLayout
from walkeeper.ids import NO_TLI, TenantTimelineId, TimelineNumber
from walkeeper.lsn import INVALID_LSN, Lsn, format_lsn
from walkeeper.membership import Configuration
from walkeeper.messages import ServerInfo
from walkeeper.terms import INITIAL_TERM, Term, TermHistory


@dataclass(frozen=True, slots=True)
class Ahead:
    """Positions in memory, never below their twins in the control file (invariants 8 and 9)."""

    commit_lsn: Lsn
    backup_lsn: Lsn
    peer_horizon_lsn: Lsn
    remote_consistent_lsn: Lsn

    @classmethod
    def of(cls, kept: ControlFile) -> "Ahead":
        return cls(kept.commit_lsn, kept.backup_lsn, kept.peer_horizon_lsn, kept.remote_consistent_lsn)


@dataclass(frozen=True, slots=True)
class Wal:
    """Where the local WAL ends.  All of it is durable: an operation ends with its sync (invariant 23).

    ``scanner`` is None while there is no WAL.  ``tli`` is 0 while there is no segment.  After a start nothing may
    be written until a leader has said where it continues: ``awaits_truncation`` (invariant 27).
    """

    write_lsn: Lsn = INVALID_LSN
    scanner: RecordScanner | None = None
    tli: TimelineNumber = NO_TLI
    awaits_truncation: bool = True

    @property
    def flush_lsn(self) -> Lsn:
        """The end of the last complete record (invariant 24).  After an XLOG_SWITCH it runs ahead of ``write_lsn``."""
        return self.scanner.record_end if self.scanner else INVALID_LSN


@dataclass(frozen=True, slots=True)
class AcceptorState:
    """Everything an acceptor decides from.  ``term_start_lsn`` is 0 until a leader was heard since the start.

    ``is_whole``: no promise of this keeper was ever lost with a disk, or a leader has made up for it since.
    """

    kept: ControlFile
    ahead: Ahead
    wal: Wal
    term_start_lsn: Lsn
    is_whole: bool

    @classmethod
    def recovered(cls, kept: ControlFile, end_lsn: Lsn, tli: TimelineNumber, *, is_whole: bool) -> "AcceptorState":
        """The state after a start: the control file, and a WAL whose last complete record ends at ``end_lsn``."""
        wal = Wal(end_lsn, start_scanner(kept, end_lsn, tli) if end_lsn else None, tli)
        return cls(kept, Ahead.of(kept), wal, INVALID_LSN, is_whole)

    @property
    def term(self) -> Term:
        return self.kept.term

    @property
    def flush_lsn(self) -> Lsn:
        """What replies call flush_lsn: never below the timeline's start, even before its first byte arrives."""
        return max(self.wal.flush_lsn, self.kept.timeline_start_lsn)

    @property
    def term_history(self) -> TermHistory:
        """The history of the WAL that is here (invariant 13); the kept one may reach beyond it."""
        return self.kept.term_history.up_to(self.flush_lsn)

    @property
    def last_log_term(self) -> Term:
        return self.term_history.last_term

    def extended(self, wal: Wal) -> "AcceptorState":
        """The state with this WAL.  Every append comes here, and ``replace`` would cost twice as much."""
        return AcceptorState(self.kept, self.ahead, wal, self.term_start_lsn, self.is_whole)

    def ahead_at(self, commit_lsn: Lsn, peer_horizon_lsn: Lsn) -> "AcceptorState":
        """The state with these positions in memory; on the path of every append as well."""
        ahead = self.ahead
        if commit_lsn == ahead.commit_lsn and peer_horizon_lsn == ahead.peer_horizon_lsn:
            return self
        ahead = Ahead(commit_lsn, ahead.backup_lsn, peer_horizon_lsn, ahead.remote_consistent_lsn)
        return AcceptorState(self.kept, ahead, self.wal, self.term_start_lsn, self.is_whole)

    def saving(self, **changes: Any) -> tuple[Sequence[KeepControlFile], "AcceptorState"]:
        """Change fields of the control file and save it, together with everything that ran ahead of it.

        No effect when the disk already says so.
        """
        return self.becoming(replace(self.current, **changes))

    @property
    def current(self) -> ControlFile:
        """The control file with everything that has run ahead of it."""
        return replace(
            self.kept,
            commit_lsn=self.ahead.commit_lsn,
            backup_lsn=self.ahead.backup_lsn,
            peer_horizon_lsn=self.ahead.peer_horizon_lsn,
            remote_consistent_lsn=self.ahead.remote_consistent_lsn,
        )

    def becoming(self, target: ControlFile) -> tuple[Sequence[KeepControlFile], "AcceptorState"]:
        """Save ``target`` as the control file; no effect when the disk already says so."""
        if target == self.kept:
            return (), self
        return (KeepControlFile(target),), replace(self, kept=target, ahead=Ahead.of(target))

    def hearing_of(self, remote_consistent_lsn: Lsn) -> "AcceptorState":
        """The state in which pageservers need nothing below ``remote_consistent_lsn`` any more."""
        if remote_consistent_lsn <= self.ahead.remote_consistent_lsn:
            return self
        return replace(self, ahead=replace(self.ahead, remote_consistent_lsn=remote_consistent_lsn))

    @property
    def is_ahead(self) -> bool:
        """Whether a checkpoint would write anything."""
        return self.ahead != Ahead.of(self.kept)


START_LSN_MAX: Final = Lsn(2**63)
"""Half of all LSNs: what begins below is not written to their end by anybody."""


def start_scanner(kept: ControlFile, lsn: Lsn, tli: TimelineNumber) -> RecordScanner:
    """A scanner at a record boundary of this timeline.

    Only the very start of a timeline may lie inside a record: a stream that begins at a segment start, as
    pg_receivewal's does, finds there the rest of a record that began before.
    """
    return RecordScanner.start(
        lsn,
        pg_major=kept.server.pg_major,
        wal_seg_size=kept.server.wal_seg_size,
        tli=tli,
        inside_record=lsn == kept.timeline_start_lsn and lsn % PAGE_BYTES == 0,
    )


def new_control_file(
    ttid: TenantTimelineId,
    server: ServerInfo,
    created_at: tuple[int, int],
    *,
    configuration: Configuration,
    start_lsn: Lsn = INVALID_LSN,
    commit_lsn: Lsn = INVALID_LSN,
) -> ControlFile:
    """The control file of a timeline that does not exist yet.

    A writer creates it with both LSNs 0 and says later where it starts; an operator may know that already, and
    then names it twice: WAL behind the start would be promised and not be here.
    Raises InvalidTimeline for servers and positions that cannot be kept.
    """
    require_known_server(server)
    if commit_lsn != start_lsn:
        raise InvalidTimeline(
            f"commit_lsn {format_lsn(commit_lsn)} is not start_lsn {format_lsn(start_lsn)}, but there is no WAL yet"
        )
    _require_record_boundary(start_lsn, server)
    return ControlFile(
        ttid=ttid,
        configuration=configuration,
        term=INITIAL_TERM,
        term_history=TermHistory.of((INITIAL_TERM, start_lsn)) if commit_lsn else TermHistory(),
        server=server,
        proposer_uuid=bytes(16),
        timeline_start_lsn=start_lsn,
        local_start_lsn=start_lsn,
        commit_lsn=commit_lsn,
        backup_lsn=start_lsn,
        peer_horizon_lsn=start_lsn,
        remote_consistent_lsn=INVALID_LSN,
        partial_backup=(),
        evicted_at=None,
        created_at=created_at,
    )


def _require_record_boundary(lsn: Lsn, server: ServerInfo) -> None:
    """Raises InvalidTimeline unless a record of this server can begin at ``lsn``: no scan could ever start there."""
    if lsn > START_LSN_MAX:
        raise InvalidTimeline(f"a timeline cannot start at {format_lsn(lsn)}, above {format_lsn(START_LSN_MAX)}")
    try:
        PageLayout.of(server.pg_major, server.wal_seg_size).check_start(lsn)
    except Malformed as error:
        raise InvalidTimeline(f"a timeline cannot start at {format_lsn(lsn)}: {error}") from error


def require_known_server(server: ServerInfo) -> None:
    """Raises InvalidTimeline unless WAL of this server can be read: a known major version, a legal segment size."""
    try:
        PageLayout.of(server.pg_major, server.wal_seg_size)
    except Malformed as error:
        raise InvalidTimeline(str(error)) from error
