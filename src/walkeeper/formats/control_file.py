"""The control file ``safekeeper.control``: what a keeper must never forget about a timeline, as bytes and JSON.

The file is ``magic, version, body, crc32c`` (little-endian), with exactly its content's length.  Every version
that was ever written, 1 to 10, is read; what is written is version 9 while the generation is 0 and 10
otherwise, as Neon does, so that its tools and older releases can read a timeline that no controller manages.
Version 9 has no room for ``configuration`` and ``created_at``: both are lost until a generation is set.

Rules: the checksum is verified before anything is believed, then magic, then version; bytes left over after
the body are an error.

Does not touch a disk: ``storage.durable`` replaces the file, ``storage.store`` owns it.
Source: Neon's ``control_file.rs`` and ``control_file_upgrade.rs`` (bincode with fixed-width integers).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Final, NamedTuple, TypeVar

from crc32c import crc32c

from walkeeper.errors import Malformed
from walkeeper.formats.cursor import Reader, Writer
from walkeeper.ids import NodeId, TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import INVALID_LSN, Lsn, format_lsn
from walkeeper.membership import NO_CONFIGURATION, NO_GENERATION, Configuration, Generation, Member
from walkeeper.messages import ServerInfo
from walkeeper.terms import INITIAL_TERM, Term, TermHistory, TermLsn

MAGIC: Final = 0xCAFECEEF
VERSION_OLDEST: Final = 1
VERSION_WITHOUT_GENERATION: Final = 9
VERSION_NEWEST: Final = 10

_CRC_BYTES = 4
_UNKNOWN_START = Lsn(1)
"""Where a timeline of version 5 that does not know its start is taken to begin: before all of its WAL."""
_PG_VERSION_BEFORE_7 = 140005
"""The only server there was when version 6 left pg_version 0."""

T = TypeVar("T")


class UploadStatus(IntEnum):
    """How far the upload of an unfinished segment got; the numbers are those in the file."""

    IN_PROGRESS = 0
    UPLOADED = 1
    DELETING = 2


@dataclass(frozen=True, slots=True)
class PartialSegment:
    """An unfinished segment in remote storage, named ``<segment>_<term>_<flush>_<commit>_sk<node>.partial``."""

    status: UploadStatus
    name: str
    commit_lsn: Lsn
    flush_lsn: Lsn
    term: Term


@dataclass(frozen=True, slots=True)
class ControlFile:
    """The durable state of one timeline.

    ``term_history`` is complete, not cut at the end of the WAL.  ``evicted_at`` is the flush_lsn the timeline had
    when its WAL was moved to remote storage, None while it is here.  ``created_at`` is (seconds, nanoseconds)
    since the Unix epoch.
    """

    ttid: TenantTimelineId
    server: ServerInfo
    configuration: Configuration = NO_CONFIGURATION
    term: Term = INITIAL_TERM
    term_history: TermHistory = TermHistory()
    proposer_uuid: bytes = bytes(16)
    timeline_start_lsn: Lsn = INVALID_LSN
    local_start_lsn: Lsn = INVALID_LSN
    commit_lsn: Lsn = INVALID_LSN
    backup_lsn: Lsn = INVALID_LSN
    peer_horizon_lsn: Lsn = INVALID_LSN
    remote_consistent_lsn: Lsn = INVALID_LSN
    partial_backup: tuple[PartialSegment, ...] = ()
    evicted_at: Lsn | None = None
    created_at: tuple[int, int] = (0, 0)


# -- reading ------------------------------------------------------------------------------------------------


def parse_control_file(data: bytes) -> ControlFile:
    """The state in a control file of any version, brought to what the newest one means.

    Raises Malformed if the checksum is wrong, or for anything a keeper cannot have written.
    """
    if len(data) < 8 + _CRC_BYTES:
        raise Malformed(f"control file: {len(data)} bytes are too few")
    body, crc = data[:-_CRC_BYTES], int.from_bytes(data[-_CRC_BYTES:], "little")
    if crc32c(body) != crc:
        raise Malformed(f"control file: checksum mismatch, its CRC is {crc32c(body):08x}, the file says {crc:08x}")
    reader = Reader(body, "control file", "little")
    if (magic := reader.u32()) != MAGIC:
        reader.fail(f"bad magic {magic:08x}, expected {MAGIC:08x}")
    version = reader.u32()
    if not VERSION_OLDEST <= version <= VERSION_NEWEST:
        reader.fail(f"version {version} is not supported, only {VERSION_OLDEST} to {VERSION_NEWEST}")
    try:
        control_file = _read_early_body(reader, version) if version <= 3 else _read_body(reader, version)
    except ValueError as error:  # the vocabulary refuses what contradicts itself
        raise Malformed(f"control file: {error}") from error
    reader.finish()
    return _upgrade(control_file, version)


class Envelope(NamedTuple):
    """What surrounds the body of a control file: all that can be said of one that cannot be read."""

    version: int
    checksum_holds: bool


def read_envelope(data: bytes) -> Envelope | None:
    """Its version, and whether its checksum holds; None if this is no control file at all.  Believes what it sees."""
    if len(data) < 8 + _CRC_BYTES or int.from_bytes(data[:4], "little") != MAGIC:
        return None
    crc = int.from_bytes(data[-_CRC_BYTES:], "little")
    return Envelope(int.from_bytes(data[4:8], "little"), crc32c(data[:-_CRC_BYTES]) == crc)


def _upgrade(control_file: ControlFile, version: int) -> ControlFile:
    """What a field that was not always filled in means."""
    if version == 5 and not control_file.timeline_start_lsn:
        return replace(control_file, timeline_start_lsn=_UNKNOWN_START, local_start_lsn=_UNKNOWN_START)
    if version == 6 and not control_file.server.pg_version:
        return replace(control_file, server=replace(control_file.server, pg_version=_PG_VERSION_BEFORE_7))
    return control_file


def _read_early_body(reader: Reader, version: int) -> ControlFile:
    """Versions 1 to 3.  Version 1 knows the last term that wrote, its *epoch*, and no history."""
    term = Term(reader.u64())
    history = TermHistory.of((reader.u64(), INVALID_LSN)) if version == 1 else _read_history(reader)
    read_id = _read_hex_id if version == 3 else _read_raw_id
    pg_version, system_id = reader.u32(), reader.u64()
    ttid = _read_ttid(reader, read_id)
    server = ServerInfo(pg_version, system_id, reader.u32())
    proposer_uuid = read_id(reader)
    commit_lsn, truncate_lsn, _wal_start_lsn = (_read_lsn(reader) for _ in range(3))
    return ControlFile(
        ttid,
        server,
        term=term,
        term_history=history,
        proposer_uuid=proposer_uuid,
        commit_lsn=commit_lsn,
        peer_horizon_lsn=truncate_lsn,
    )


def _read_body(reader: Reader, version: int) -> ControlFile:
    """Versions 4 to 10: each adds to the one before, except that the last has no peers."""
    ttid = _read_ttid(reader, _read_hex_id)
    configuration = _read_configuration(reader) if version >= 10 else NO_CONFIGURATION
    term, history = Term(reader.u64()), _read_history(reader)
    server = ServerInfo(reader.u32(), reader.u64(), reader.u32())
    proposer_uuid = _read_hex_id(reader)
    lsns = _read_positions_of_version_4(reader) if version == 4 else _read_positions(reader)
    if version < 10:
        _read_list(reader, _skip_peer)
    return ControlFile(
        ttid,
        server,
        configuration=configuration,
        term=term,
        term_history=history,
        proposer_uuid=proposer_uuid,
        **lsns,
        partial_backup=_read_list(reader, _read_partial_segment) if version >= 8 else (),
        evicted_at=_read_eviction(reader) if version >= 9 else None,
        created_at=(reader.u64(), reader.u32()) if version >= 10 else (0, 0),
    )


_POSITIONS: Final = (
    "timeline_start_lsn",
    "local_start_lsn",
    "commit_lsn",
    "backup_lsn",
    "peer_horizon_lsn",
    "remote_consistent_lsn",
)


def _read_positions(reader: Reader) -> dict[str, Any]:
    return {name: _read_lsn(reader) for name in _POSITIONS}


def _read_positions_of_version_4(reader: Reader) -> dict[str, Any]:
    """What was uploaded and consistent elsewhere meant something else then; Neon drops both."""
    commit_lsn, _s3_wal_lsn, peer_horizon_lsn, _remote_consistent_lsn = (_read_lsn(reader) for _ in range(4))
    return {"commit_lsn": commit_lsn, "peer_horizon_lsn": peer_horizon_lsn}


def _read_lsn(reader: Reader) -> Lsn:
    return Lsn(reader.u64())


def _read_list(reader: Reader, read_item: Callable[[Reader], T]) -> tuple[T, ...]:
    """An absurd count ends where the bytes do."""
    return tuple(read_item(reader) for _ in range(reader.u64()))


def _read_string(reader: Reader) -> str:
    return str(reader.take(reader.u64()), "utf-8")


def _read_raw_id(reader: Reader) -> bytes:
    return bytes(reader.take(16))


def _read_hex_id(reader: Reader) -> bytes:
    return TenantId.parse(_read_string(reader)).raw


def _read_ttid(reader: Reader, read_id: Callable[[Reader], bytes]) -> TenantTimelineId:
    return TenantTimelineId(TenantId(read_id(reader)), TimelineId(read_id(reader)))


def _read_history(reader: Reader) -> TermHistory:
    return TermHistory(_read_list(reader, lambda reader: TermLsn(Term(reader.u64()), _read_lsn(reader))))


def _read_configuration(reader: Reader) -> Configuration:
    generation, members = Generation(reader.u32()), _read_list(reader, _read_member)
    return Configuration(generation, members, _read_list(reader, _read_member) if reader.flag() else None)


def _read_member(reader: Reader) -> Member:
    return Member(NodeId(reader.u64()), _read_string(reader), reader.u16())


def _skip_peer(reader: Reader) -> None:
    """Node id, backup_lsn, term, flush_lsn, commit_lsn of another keeper: stale when written, never used."""
    reader.take(5 * 8)


def _read_partial_segment(reader: Reader) -> PartialSegment:
    return PartialSegment(
        UploadStatus(reader.u32()), _read_string(reader), _read_lsn(reader), _read_lsn(reader), Term(reader.u64())
    )


def _read_eviction(reader: Reader) -> Lsn | None:
    return _read_lsn(reader) if reader.flag(4) else None


# -- writing ------------------------------------------------------------------------------------------------


def encode_control_file(control_file: ControlFile) -> bytes:
    """The whole file: version 9 while the generation is 0, else version 10."""
    managed = control_file.configuration.generation != NO_GENERATION
    writer = Writer("little").u32(MAGIC).u32(VERSION_NEWEST if managed else VERSION_WITHOUT_GENERATION)
    _write_string(writer, str(control_file.ttid.tenant_id))
    _write_string(writer, str(control_file.ttid.timeline_id))
    if managed:
        _write_configuration(writer, control_file.configuration)
    _write_acceptor(writer, control_file)
    if not managed:
        writer.u64(0)  # no peers
    _write_remote(writer, control_file)
    if managed:
        seconds, nanoseconds = control_file.created_at
        writer.u64(seconds).u32(nanoseconds)
    body = bytes(writer)
    return body + crc32c(body).to_bytes(_CRC_BYTES, "little")


def _write_acceptor(writer: Writer, control_file: ControlFile) -> None:
    history, server = control_file.term_history.entries, control_file.server
    writer.u64(control_file.term).u64(len(history))
    for term, lsn in history:
        writer.u64(term).u64(lsn)
    writer.u32(server.pg_version).u64(server.system_id).u32(server.wal_seg_size)
    _write_string(writer, control_file.proposer_uuid.hex())
    for name in _POSITIONS:
        writer.u64(getattr(control_file, name))


def _write_remote(writer: Writer, control_file: ControlFile) -> None:
    """What remote storage holds."""
    writer.u64(len(control_file.partial_backup))
    for segment in control_file.partial_backup:
        _write_string(writer.u32(segment.status), segment.name)
        writer.u64(segment.commit_lsn).u64(segment.flush_lsn).u64(segment.term)
    if control_file.evicted_at is None:
        writer.u32(0)
    else:
        writer.u32(1).u64(control_file.evicted_at)


def _write_configuration(writer: Writer, configuration: Configuration) -> None:
    _write_members(writer.u32(configuration.generation), configuration.members)
    writer.u8(configuration.new_members is not None)
    if configuration.new_members is not None:
        _write_members(writer, configuration.new_members)


def _write_members(writer: Writer, members: tuple[Member, ...]) -> None:
    writer.u64(len(members))
    for member in members:
        _write_string(writer.u64(member.id), member.host)
        writer.u16(member.pg_port)


def _write_string(writer: Writer, text: str) -> None:
    raw = text.encode()
    writer.u64(len(raw)).raw(raw)


# -- showing ------------------------------------------------------------------------------------------------


def control_file_as_json(control_file: ControlFile) -> dict[str, Any]:
    """Neon's JSON of a control file, as its debug dump and snapshots hold it."""
    seconds, nanoseconds = control_file.created_at
    return {
        "tenant_id": str(control_file.ttid.tenant_id),
        "timeline_id": str(control_file.ttid.timeline_id),
        "mconf": _configuration_as_json(control_file.configuration),
        "acceptor_state": {
            "term": control_file.term,
            "term_history": [
                {"term": term, "lsn": format_lsn(lsn)} for term, lsn in control_file.term_history.entries
            ],
        },
        "server": {
            "pg_version": control_file.server.pg_version,
            "system_id": control_file.server.system_id,
            "wal_seg_size": control_file.server.wal_seg_size,
        },
        "proposer_uuid": control_file.proposer_uuid.hex(),
        **{name: format_lsn(getattr(control_file, name)) for name in _POSITIONS},
        "partial_backup": {
            "segments": [_partial_segment_as_json(segment) for segment in control_file.partial_backup]
        },
        "eviction_state": "Present"
        if control_file.evicted_at is None
        else {"Offloaded": format_lsn(control_file.evicted_at)},
        "creation_ts": {"secs_since_epoch": seconds, "nanos_since_epoch": nanoseconds},
    }


def _configuration_as_json(configuration: Configuration) -> dict[str, Any]:
    new_members = configuration.new_members
    return {
        "generation": configuration.generation,
        "members": _members_as_json(configuration.members),
        "new_members": None if new_members is None else _members_as_json(new_members),
    }


def _members_as_json(members: tuple[Member, ...]) -> list[dict[str, Any]]:
    return [{"id": member.id, "host": member.host, "pg_port": member.pg_port} for member in members]


_STATUS_NAMES: Final = {
    UploadStatus.IN_PROGRESS: "InProgress",
    UploadStatus.UPLOADED: "Uploaded",
    UploadStatus.DELETING: "Deleting",
}


def _partial_segment_as_json(segment: PartialSegment) -> dict[str, Any]:
    return {
        "status": _STATUS_NAMES[segment.status],
        "name": segment.name,
        "commit_lsn": format_lsn(segment.commit_lsn),
        "flush_lsn": format_lsn(segment.flush_lsn),
        "term": segment.term,
    }
