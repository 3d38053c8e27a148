"""What proposers and acceptors say to each other, in bytes: protocol 2 and protocol 3.

Purpose: both directions of both versions, and ``coalesce``, which turns the payloads of one receive into runs.

Rules: each message is the payload of one CopyData.  Bytes after a proposer's message are ignored, after an
acceptor's they are Malformed; both are how Neon's peers behave.  WAL is never copied: an AppendRequest holds a view
into its payload, and ``encode_append_head`` gives what goes before the WAL.  What only protocol 2's first clients
filled in (the proposer's id in each message, term_start_lsn) is not read and written as zeros.

Protocol 2 is little-endian with a tag of 8 bytes of which the lowest counts, and knows no generations; protocol 3
is big-endian with a tag of 1 byte, and generations.  Otherwise most messages have the same fields in the same order.

Does not decide anything.  Source: Neon's walproposer.h and the safekeeper's messages.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from struct import Struct
from typing import Any, Final, Self, TypeVar, assert_never

from walkeeper.errors import Malformed
from walkeeper.formats.cursor import ByteOrder, Reader, Writer
from walkeeper.formats.feedback import encode_pageserver_feedback, parse_pageserver_feedback
from walkeeper.ids import NodeId, TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import KEEPERS_MAX, Configuration, Generation, Member
from walkeeper.messages import (
    APPEND_BYTES_MAX,
    PROTOCOL_2_GENERATION,
    AcceptorGreeting,
    AcceptorMessage,
    AppendRequest,
    AppendResponse,
    AppendRun,
    Batch,
    HotStandbyFeedback,
    ProposerElected,
    ProposerGreeting,
    ProposerMessage,
    ServerInfo,
    Slice,
    VoteRequest,
    VoteResponse,
)
from walkeeper.terms import Term, TermHistory, TermLsn

_APPEND: Final = ord("a")

_PG_TIMELINE: Final = 1
"""The PostgreSQL timeline id in protocol 2's greeting, which no acceptor reads."""

_UUID_BYTES: Final = 16
_TERM_LSN_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the messages on the path of every commit begin: a tag, a generation, numbers."""

    size: int
    pack: Callable[..., bytes]
    """Takes the tag, the generation and the numbers."""
    unpack: Callable[[Slice], tuple[Any, ...]]
    """Gives the generation and the numbers.  Raises struct.error if the payload is too short."""


def _layout_2(numbers: str) -> _Layout:
    packs, unpacks = Struct("<8s" + numbers), Struct("<8x" + numbers)

    def pack(tag: bytes, generation: Generation, *values: int) -> bytes:
        assert generation == PROTOCOL_2_GENERATION, "protocol 2 carries no generation"
        return packs.pack(tag, *values)

    def unpack(payload: Slice) -> tuple[Any, ...]:
        return (PROTOCOL_2_GENERATION, *unpacks.unpack_from(payload))

    return _Layout(packs.size, pack, unpack)


def _layout_3(numbers: str) -> _Layout:
    packs, unpacks = Struct(">cI" + numbers), Struct(">xI" + numbers)
    return _Layout(packs.size, packs.pack, unpacks.unpack_from)


@dataclass(frozen=True, slots=True)
class _Wire:
    """How one protocol version writes what both have."""

    version: int
    order: ByteOrder
    tag_bytes: int
    generation_bytes: int
    vote_bytes: int
    term_lsn: Struct
    append_head: _Layout
    """Of an AppendRequest: term, begin, end, commit and truncate LSN; protocol 2 has more, all zeros."""
    append_response: _Layout
    """Without the pageserver's feedback: term, flush and commit LSN, then what standbys need."""


_PROTOCOL_2: Final = _Wire(2, "little", 8, 0, 8, Struct("<QQ"), _layout_2("Q8xQQQQ16x"), _layout_2("QQQqQQ"))
_PROTOCOL_3: Final = _Wire(3, "big", 1, 4, 1, Struct(">QQ"), _layout_3("QQQQQ"), _layout_3("QQQqQQ"))


def _wire(version: int) -> _Wire:
    match version:
        case 2:
            return _PROTOCOL_2
        case 3:
            return _PROTOCOL_3
        case _:
            raise Malformed(f"unsupported protocol version {version}")


class _MessageReader(Reader):
    """Reads the fields that messages share."""

    __slots__ = ("wire",)

    def __init__(self, payload: Slice, what: str, wire: _Wire) -> None:
        super().__init__(payload, what, wire.order)
        self.wire = wire

    def tag(self) -> bytes:
        return bytes(self.take(self.wire.tag_bytes)[:1])

    def generation(self) -> Generation:
        return Generation(self.unsigned(self.wire.generation_bytes))

    def term(self) -> Term:
        return Term(self.u64())

    def lsn(self) -> Lsn:
        return Lsn(self.u64())

    def history(self) -> TermHistory:
        count = self.u32()
        if count * _TERM_LSN_BYTES > self.remaining:
            self.fail(f"a term history of {count} entries in {self.remaining} bytes")
        raw = self.take(count * _TERM_LSN_BYTES)
        try:
            return TermHistory(tuple(TermLsn(*entry) for entry in self.wire.term_lsn.iter_unpack(raw)))
        except ValueError as error:
            raise Malformed(f"{self.what}: {error}") from error

    def configuration(self) -> Configuration:
        generation, members, new_members = Generation(self.u32()), self._members(), self._members()
        try:
            return Configuration(generation, members, new_members or None)
        except ValueError as error:
            raise Malformed(f"{self.what}: {error}") from error

    def _members(self) -> tuple[Member, ...]:
        count = self.u32()
        # Refused before the work: the hundred thousand that a frame can bring take a third of a second.
        if count > KEEPERS_MAX:
            self.fail(f"a configuration of {count} members; no writer has more than {KEEPERS_MAX}")
        return tuple(Member(NodeId(self.u64()), self.cstring(), self.u16()) for _ in range(count))

    def server(self) -> ServerInfo:
        return ServerInfo(self.u32(), self.u64(), self.u32())


class _MessageWriter(Writer):
    """Writes the fields that messages share."""

    __slots__ = ("wire",)

    def __init__(self, tag: bytes, wire: _Wire) -> None:
        super().__init__(wire.order)
        self.wire = wire
        self.raw(tag.ljust(wire.tag_bytes, b"\0"))

    def generation(self, generation: Generation) -> Self:
        return self.unsigned(generation, self.wire.generation_bytes)

    def history(self, history: TermHistory) -> Self:
        self.u32(len(history.entries))
        for term, lsn in history.entries:
            self.u64(term).u64(lsn)
        return self

    def configuration(self, configuration: Configuration) -> Self:
        self.u32(configuration.generation)
        for members in (configuration.members, configuration.new_members or ()):
            self.u32(len(members))
            for member in members:
                self.u64(member.id).cstring(member.host).u16(member.pg_port)
        return self


# -- from the proposer ----------------------------------------------------------------------------------------


def parse_proposer_message(payload: Slice, version: int) -> ProposerMessage:
    """Raises Malformed.  The WAL of an AppendRequest is a view into ``payload``."""
    wire = _wire(version)
    reader = _MessageReader(payload, "proposer message", wire)
    match reader.tag():
        case b"g":
            return _parse_proposer_greeting(reader)
        case b"v":
            return VoteRequest(reader.generation(), reader.term())
        case b"e":
            return _parse_elected(reader)
        case b"a":
            return _parse_append(payload, wire)
        case tag:
            raise Malformed(f"unknown proposer-acceptor message tag: {tag!r}")


def encode_proposer_message(message: ProposerMessage, version: int) -> bytes:
    """The inverse.  Copies WAL; whoever sends much of it uses ``encode_append_head``."""
    wire = _wire(version)
    match message:
        case ProposerGreeting():
            return _encode_proposer_greeting(message, wire)
        case VoteRequest():
            vote = _MessageWriter(b"v", wire).generation(message.generation).u64(message.term)
            return bytes(vote.raw(bytes(_UUID_BYTES))) if wire is _PROTOCOL_2 else bytes(vote)
        case ProposerElected():
            return _encode_elected(message, wire)
        case AppendRequest():
            return b"".join((encode_append_head(message, version), message.wal))
        case _:
            assert_never(message)


def encode_append_head(message: AppendRequest | AppendRun, version: int) -> bytes:
    """What goes before the WAL of an AppendRequest for [begin_lsn, end_lsn)."""
    return _wire(version).append_head.pack(
        b"a",
        message.generation,
        message.term,
        message.begin_lsn,
        message.end_lsn,
        message.commit_lsn,
        message.truncate_lsn,
    )


def _parse_proposer_greeting(reader: _MessageReader) -> ProposerGreeting:
    reader.what = "ProposerGreeting"
    if reader.wire is _PROTOCOL_3:
        ttid = TenantTimelineId(_parse_id(TenantId, reader), _parse_id(TimelineId, reader))
        return ProposerGreeting(ttid, reader.configuration(), reader.server())
    if (version := reader.u32()) != _PROTOCOL_2.version:
        reader.fail(f"incompatible protocol version {version}, expected 2")
    pg_version, uuid, system_id = reader.u32(), bytes(reader.take(_UUID_BYTES)), reader.u64()
    timeline_id, tenant_id = TimelineId(bytes(reader.take(16))), TenantId(bytes(reader.take(16)))
    reader.u32()  # PostgreSQL timeline id
    server = ServerInfo(pg_version, system_id, reader.u32())
    return ProposerGreeting(TenantTimelineId(tenant_id, timeline_id), Configuration(), server, uuid)


def _encode_proposer_greeting(message: ProposerGreeting, wire: _Wire) -> bytes:
    ttid, server = message.ttid, message.server
    writer = _MessageWriter(b"g", wire)
    if wire is _PROTOCOL_3:
        writer.cstring(str(ttid.tenant_id)).cstring(str(ttid.timeline_id)).configuration(message.configuration)
        return bytes(writer.u32(server.pg_version).u64(server.system_id).u32(server.wal_seg_size))
    writer.u32(wire.version).u32(server.pg_version).raw(message.proposer_uuid).u64(server.system_id)
    writer.raw(ttid.timeline_id.raw).raw(ttid.tenant_id.raw)
    return bytes(writer.u32(_PG_TIMELINE).u32(server.wal_seg_size))


_Id = TypeVar("_Id", TenantId, TimelineId)


def _parse_id(kind: type[_Id], reader: Reader) -> _Id:
    try:
        return kind.parse(reader.cstring())
    except ValueError as error:
        raise Malformed(f"{reader.what}: {error}") from error


def _parse_elected(reader: _MessageReader) -> ProposerElected:
    reader.what = "ProposerElected"
    elected = ProposerElected(reader.generation(), reader.term(), reader.lsn(), reader.history())
    if reader.wire is _PROTOCOL_2:
        reader.lsn()  # timeline_start_lsn: must be there, says nothing that the history does not
    return elected


def _encode_elected(message: ProposerElected, wire: _Wire) -> bytes:
    writer = _MessageWriter(b"e", wire).generation(message.generation).u64(message.term)
    writer.u64(message.start_streaming_at)
    writer.history(message.term_history)
    if wire is _PROTOCOL_2:
        writer.u64(message.term_history.entries[0].lsn)  # timeline_start_lsn; a leader's history is never empty
    return bytes(writer)


def _parse_append(payload: Slice, wire: _Wire) -> AppendRequest:
    layout = wire.append_head
    try:
        generation, term, begin_lsn, end_lsn, commit_lsn, truncate_lsn = layout.unpack(payload)
    except struct.error as error:
        raise Malformed(f"AppendRequest: {len(payload)} bytes cannot hold its header") from error
    wal_bytes = end_lsn - begin_lsn
    if not 0 <= wal_bytes <= min(len(payload) - layout.size, APPEND_BYTES_MAX):
        raise _wrong_size(payload, wal_bytes)
    wal = payload[layout.size : layout.size + wal_bytes]
    return AppendRequest(generation, term, begin_lsn, end_lsn, commit_lsn, truncate_lsn, wal)


def _wrong_size(payload: Slice, wal_bytes: int) -> Malformed:
    if 0 <= wal_bytes <= APPEND_BYTES_MAX:
        return Malformed(f"AppendRequest: {wal_bytes} bytes of WAL in a message of {len(payload)} bytes")
    return Malformed(f"AppendRequest: must have 0 to {APPEND_BYTES_MAX} bytes of WAL, got {wal_bytes}")


# -- from the acceptor ----------------------------------------------------------------------------------------


def parse_acceptor_message(payload: Slice, version: int) -> AcceptorMessage:
    """Raises Malformed."""
    wire = _wire(version)
    if payload and payload[0] == _APPEND:  # nearly always
        return _parse_append_response(payload, wire)
    reader = _MessageReader(payload, "acceptor message", wire)
    match reader.tag():
        case b"g":
            message: AcceptorMessage = _parse_acceptor_greeting(reader)
        case b"v":
            message = _parse_vote_response(reader)
        case tag:
            raise Malformed(f"unknown acceptor-proposer message tag: {tag!r}")
    reader.finish()
    return message


def encode_acceptor_message(message: AcceptorMessage, version: int) -> bytes:
    wire = _wire(version)
    match message:
        case AcceptorGreeting():
            return _encode_acceptor_greeting(message, wire)
        case VoteResponse():
            return _encode_vote_response(message, wire)
        case AppendResponse():
            return _encode_append_response(message, wire)
        case _:
            assert_never(message)


def _parse_acceptor_greeting(reader: _MessageReader) -> AcceptorGreeting:
    reader.what = "AcceptorGreeting"
    if reader.wire is _PROTOCOL_3:
        return AcceptorGreeting(NodeId(reader.u64()), reader.configuration(), reader.term())
    term, node_id = reader.term(), NodeId(reader.u64())
    return AcceptorGreeting(node_id, Configuration(), term)


def _encode_acceptor_greeting(message: AcceptorGreeting, wire: _Wire) -> bytes:
    writer = _MessageWriter(b"g", wire)
    if wire is _PROTOCOL_3:
        return bytes(writer.u64(message.node_id).configuration(message.configuration).u64(message.term))
    return bytes(writer.u64(message.term).u64(message.node_id))


def _parse_vote_response(reader: _MessageReader) -> VoteResponse:
    reader.what = "VoteResponse"
    generation, term, vote_given = reader.generation(), reader.term(), reader.flag(reader.wire.vote_bytes)
    response = VoteResponse(generation, term, vote_given, reader.lsn(), reader.lsn(), reader.history())
    if reader.wire is _PROTOCOL_2:
        return replace(response, timeline_start_lsn=reader.lsn())
    return response


def _encode_vote_response(message: VoteResponse, wire: _Wire) -> bytes:
    writer = _MessageWriter(b"v", wire).generation(message.generation).u64(message.term)
    writer.unsigned(message.vote_given, wire.vote_bytes).u64(message.flush_lsn).u64(message.truncate_lsn)
    writer.history(message.term_history)
    if wire is _PROTOCOL_2:
        # The clients of 2023 relay it to the other acceptors.
        writer.u64(message.timeline_start_lsn)
    return bytes(writer)


def _parse_append_response(payload: Slice, wire: _Wire) -> AppendResponse:
    try:
        generation, term, flush_lsn, commit_lsn, *needed = wire.append_response.unpack(payload)
    except struct.error as error:
        raise Malformed(f"AppendResponse: {len(payload)} bytes cannot hold it") from error
    rest = memoryview(payload)[wire.append_response.size :]
    pageserver = parse_pageserver_feedback(rest) if rest else None
    return AppendResponse(generation, term, flush_lsn, commit_lsn, HotStandbyFeedback(*needed), pageserver)


def _encode_append_response(message: AppendResponse, wire: _Wire) -> bytes:
    needed = message.hot_standby
    response = wire.append_response.pack(
        b"a",
        message.generation,
        message.term,
        message.flush_lsn,
        message.commit_lsn,
        needed.timestamp,
        needed.xmin,
        needed.catalog_xmin,
    )
    if message.pageserver is None:
        return response
    return response + encode_pageserver_feedback(message.pageserver)


# -- runs -----------------------------------------------------------------------------------------------------


class _OpenRun:
    """A run that may still grow."""

    __slots__ = ("begin_lsn", "commit_lsn", "end_lsn", "generation", "slices", "term", "truncate_lsn")

    def __init__(self, generation: Generation, term: Term, begin_lsn: Lsn) -> None:
        self.generation = generation
        self.term = term
        self.begin_lsn = self.end_lsn = begin_lsn
        self.commit_lsn = self.truncate_lsn = INVALID_LSN
        self.slices: list[Slice] = []

    def close(self) -> AppendRun:
        return AppendRun(
            self.generation,
            self.term,
            self.begin_lsn,
            self.end_lsn,
            self.commit_lsn,
            self.truncate_lsn,
            self.slices,
        )


def coalesce(payloads: Sequence[Slice], version: int) -> Iterator[Batch]:
    """Messages as they come, with consecutive contiguous AppendRequests of one term and generation as one run.

    Heartbeats join runs too.  Raises Malformed at the first payload that is; the run before it is dropped.
    """
    layout = _wire(version).append_head
    unpack, head_bytes = layout.unpack, layout.size
    run: _OpenRun | None = None
    for payload in payloads:  # thousands in a flood: nothing is called here that need not be
        room = len(payload) - head_bytes
        if room < 0 or payload[0] != _APPEND:
            if run is not None:
                yield run.close()
                run = None
            message = parse_proposer_message(payload, version)
            assert not isinstance(message, AppendRequest)
            yield message
            continue
        generation, term, begin_lsn, end_lsn, commit_lsn, truncate_lsn = unpack(payload)
        wal_bytes = end_lsn - begin_lsn
        if not 0 <= wal_bytes <= APPEND_BYTES_MAX or wal_bytes > room:
            raise _wrong_size(payload, wal_bytes)
        if run is None or begin_lsn != run.end_lsn or term != run.term or generation != run.generation:
            if run is not None:
                yield run.close()
            run = _OpenRun(generation, term, begin_lsn)
        run.end_lsn = end_lsn
        # A later request may know less: what was once committed stays so.
        if commit_lsn > run.commit_lsn:
            run.commit_lsn = commit_lsn
        if truncate_lsn > run.truncate_lsn:
            run.truncate_lsn = truncate_lsn
        if wal_bytes:
            run.slices.append(payload[head_bytes : head_bytes + wal_bytes])
    if run is not None:
        yield run.close()
