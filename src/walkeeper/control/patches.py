"""The JSON of a control file as a shape, and a control file some of whose fields are replaced.

A field is replaced wholesale, and what comes out must be a control file again.  Which fields may be replaced at all, and
by what, is the acceptor's to say (``acceptor.administration``).

Source: Neon's ``patch_control_file.rs`` and ``TimelinePersistentState``.
"""

from typing import Any, Literal

import msgspec

from walkeeper.control.models import (
    U32,
    U64,
    ConfigurationJson,
    Hex,
    Json,
    LsnText,
    configuration_of,
    require_u64,
)
from walkeeper.errors import Malformed
from walkeeper.formats.control_file import ControlFile, PartialSegment, UploadStatus, control_file_as_json
from walkeeper.ids import TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import parse_lsn
from walkeeper.messages import ServerInfo
from walkeeper.terms import Term, TermHistory


class TermLsnJson(Json, frozen=True):
    term: U64
    lsn: LsnText

    def __post_init__(self) -> None:
        require_u64("term", self.term)


class AcceptorStateJson(Json, frozen=True):
    term: U64
    term_history: tuple[TermLsnJson, ...]

    def __post_init__(self) -> None:
        require_u64("term", self.term)


class ServerJson(Json, frozen=True):
    pg_version: U32
    system_id: U64
    wal_seg_size: U32

    def __post_init__(self) -> None:
        require_u64("system_id", self.system_id)


class PartialSegmentJson(Json, frozen=True):
    status: Literal["InProgress", "Uploaded", "Deleting"]
    name: str
    commit_lsn: LsnText
    flush_lsn: LsnText
    term: U64

    def __post_init__(self) -> None:
        require_u64("term", self.term)


class PartialBackupJson(Json, frozen=True):
    segments: tuple[PartialSegmentJson, ...]


class OffloadedJson(Json, frozen=True):
    Offloaded: LsnText


class CreatedJson(Json, frozen=True):
    secs_since_epoch: U64
    nanos_since_epoch: U32

    def __post_init__(self) -> None:
        require_u64("secs_since_epoch", self.secs_since_epoch)


class ControlFileJson(Json, frozen=True):
    tenant_id: Hex
    timeline_id: Hex
    mconf: ConfigurationJson
    acceptor_state: AcceptorStateJson
    server: ServerJson
    proposer_uuid: Hex
    timeline_start_lsn: LsnText
    local_start_lsn: LsnText
    commit_lsn: LsnText
    backup_lsn: LsnText
    peer_horizon_lsn: LsnText
    remote_consistent_lsn: LsnText
    partial_backup: PartialBackupJson
    eviction_state: Literal["Present"] | OffloadedJson
    creation_ts: CreatedJson


class Patched(Json, frozen=True):
    """Both with everything that has run ahead of the disk."""

    old_control_file: ControlFileJson
    new_control_file: ControlFileJson


class PatchJson(Json, frozen=True):
    """``apply_fields`` names those of ``updates`` that are meant."""

    updates: dict[str, Any]
    apply_fields: tuple[str, ...]

    def apply(self, control_file: ControlFile) -> ControlFile:
        """``control_file`` with the fields replaced.  Raises Malformed if that is none."""
        shown = control_file_as_json(control_file)
        for name in self.apply_fields:
            if name not in self.updates or name not in shown:
                raise Malformed(f"field {name!r} is not in {'the updates' if name in shown else 'a control file'}")
            shown[name] = self.updates[name]
        try:
            return _control_file_of(msgspec.convert(shown, ControlFileJson))
        except (msgspec.ValidationError, ValueError) as error:
            raise Malformed(f"that makes no control file: {error}") from None


def patched(old: ControlFile, new: ControlFile) -> Patched:
    return Patched(
        old_control_file=msgspec.convert(control_file_as_json(old), ControlFileJson),
        new_control_file=msgspec.convert(control_file_as_json(new), ControlFileJson),
    )


def _control_file_of(shown: ControlFileJson) -> ControlFile:
    """Raises ValueError or Malformed for what contradicts itself."""
    evicted, created = shown.eviction_state, shown.creation_ts
    history = [(entry.term, parse_lsn(entry.lsn)) for entry in shown.acceptor_state.term_history]
    return ControlFile(
        ttid=TenantTimelineId(TenantId.parse(shown.tenant_id), TimelineId.parse(shown.timeline_id)),
        server=ServerInfo(shown.server.pg_version, shown.server.system_id, shown.server.wal_seg_size),
        configuration=configuration_of(shown.mconf),
        term=Term(shown.acceptor_state.term),
        term_history=TermHistory.of(*history),
        proposer_uuid=bytes.fromhex(shown.proposer_uuid),
        timeline_start_lsn=parse_lsn(shown.timeline_start_lsn),
        local_start_lsn=parse_lsn(shown.local_start_lsn),
        commit_lsn=parse_lsn(shown.commit_lsn),
        backup_lsn=parse_lsn(shown.backup_lsn),
        peer_horizon_lsn=parse_lsn(shown.peer_horizon_lsn),
        remote_consistent_lsn=parse_lsn(shown.remote_consistent_lsn),
        partial_backup=tuple(map(_partial_segment_of, shown.partial_backup.segments)),
        evicted_at=parse_lsn(evicted.Offloaded) if isinstance(evicted, OffloadedJson) else None,
        created_at=(created.secs_since_epoch, created.nanos_since_epoch),
    )


_UPLOAD_STATUS = {
    "InProgress": UploadStatus.IN_PROGRESS,
    "Uploaded": UploadStatus.UPLOADED,
    "Deleting": UploadStatus.DELETING,
}


def _partial_segment_of(shown: PartialSegmentJson) -> PartialSegment:
    return PartialSegment(
        _UPLOAD_STATUS[shown.status],
        shown.name,
        parse_lsn(shown.commit_lsn),
        parse_lsn(shown.flush_lsn),
        Term(shown.term),
    )
