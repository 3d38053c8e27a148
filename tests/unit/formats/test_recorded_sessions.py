"""Every message of every recorded session: what it says, and the same bytes again."""

from typing import Any

import pytest

from recorded import Connection, Recorded, connections, messages
from walkeeper.formats.backend import CopyBothResponse, parse_backend_message
from walkeeper.formats.commands import StartWalPush, encode_start_wal_push, parse_command
from walkeeper.formats.frames import FrameParser
from walkeeper.formats.frontend import CopyData, Query
from walkeeper.formats.proposer import (
    coalesce,
    encode_acceptor_message,
    encode_proposer_message,
    parse_acceptor_message,
    parse_proposer_message,
)
from walkeeper.formats.session import WELCOME, ClientSession, EndOfStream, ServerSession
from walkeeper.formats.startup import (
    EncryptionAnswer,
    SslRequest,
    StartupMessage,
    encode_options,
    parse_options,
    parse_startup_packet,
)
from walkeeper.lsn import format_lsn, parse_lsn
from walkeeper.membership import Configuration
from walkeeper.messages import (
    AcceptorGreeting,
    AcceptorMessage,
    AppendRequest,
    AppendResponse,
    AppendRun,
    ProposerElected,
    ProposerGreeting,
    ProposerMessage,
    VoteRequest,
    VoteResponse,
)
from walkeeper.terms import TermHistory

FRAME_HEADER_BYTES = 5
KINDS = ["ProposerGreeting", "VoteRequest", "ProposerElected", "AppendRequest"]
REPLIES = ["AcceptorGreeting", "VoteResponse", "AppendResponse"]
BY_NAME = pytest.mark.parametrize("connection", connections(), ids=lambda connection: str(connection.name))


def history_fields(history: TermHistory) -> list[list[object]]:
    return [[term, format_lsn(lsn)] for term, lsn in history.entries]


def configuration_fields(configuration: Configuration) -> dict[str, Any]:
    members, new_members = configuration.members, configuration.new_members or ()
    return {"generation": configuration.generation, "members": list(members), "new_members": list(new_members)}


def fields_of(message: ProposerMessage | AcceptorMessage) -> dict[str, Any]:
    """What we know of a message, in the recorder's words."""
    match message:
        case ProposerGreeting(ttid, configuration, server, uuid):
            return {
                "tenant_id": str(ttid.tenant_id),
                "timeline_id": str(ttid.timeline_id),
                "mconf": configuration_fields(configuration),
                "pg_version": server.pg_version,
                "system_id": server.system_id,
                "wal_seg_size": server.wal_seg_size,
                "proposer_id": uuid.hex(),
                "protocol_version": 2,
                "tli": 1,
            }
        case VoteRequest(generation, term):
            return {"generation": generation, "term": term}
        case ProposerElected(generation, term, start, history):
            return {
                "generation": generation,
                "term": term,
                "start_streaming_at": format_lsn(start),
                "term_history": history_fields(history),
                "timeline_start_lsn": format_lsn(history.entries[0].lsn),
            }
        case AppendRequest(generation, term, begin, end, commit, truncate, wal):
            return {
                "generation": generation,
                "term": term,
                "begin_lsn": format_lsn(begin),
                "end_lsn": format_lsn(end),
                "commit_lsn": format_lsn(commit),
                "truncate_lsn": format_lsn(truncate),
                "wal_len": len(wal),
            }
        case AcceptorGreeting(node_id, configuration, term):
            return {"node_id": node_id, "mconf": configuration_fields(configuration), "term": term}
        case VoteResponse(generation, term, given, flush, truncate, history, start):
            return {
                "generation": generation,
                "term": term,
                "vote_given": int(given),
                "flush_lsn": format_lsn(flush),
                "truncate_lsn": format_lsn(truncate),
                "term_history": history_fields(history),
                "timeline_start_lsn": format_lsn(start),
            }
        case AppendResponse(generation, term, flush, commit, hot_standby, pageserver):
            return {
                "generation": generation,
                "term": term,
                "flush_lsn": format_lsn(flush),
                "commit_lsn": format_lsn(commit),
                "hs_ts": hot_standby.timestamp,
                "hs_xmin": hot_standby.xmin,
                "hs_catalog_xmin": hot_standby.catalog_xmin,
                "ps_feedback": pageserver,
            }


UNREAD = {"VoteRequest": {"proposer_id"}, "AppendRequest": {"proposer_id", "epoch_start_lsn"}}
"""Fields that no acceptor looks at, and that our values lack."""

AROUND = {"dir", "off", "len", "type", "msg", "t"}


def recorded_fields(message: Recorded) -> dict[str, Any]:
    left_out = AROUND | UNREAD.get(message.kind, set())
    return {name: value for name, value in message.fields.items() if name not in left_out}


def without_unread_fields(version: int, message: Recorded) -> bytes:
    """The payload as a client writes it that leaves zeros where no acceptor looks."""
    payload = bytearray(message.raw[FRAME_HEADER_BYTES:])
    if version == 2 and message.kind == "VoteRequest":
        payload[16:32] = bytes(16)
    if version == 2 and message.kind == "AppendRequest":
        payload[16:24] = bytes(8)
        payload[56:72] = bytes(16)
    return bytes(payload)


@pytest.mark.parametrize("kind", KINDS)
def test_a_clients_message_means_what_the_recorder_saw(kind: str) -> None:
    recorded = messages(kind)
    assert recorded
    for version, message in recorded:
        parsed = parse_proposer_message(message.raw[FRAME_HEADER_BYTES:], version)
        expected = recorded_fields(message)
        fields = fields_of(parsed)
        assert {name: fields[name] for name in expected} == expected
        assert type(parsed).__name__ == kind


@pytest.mark.parametrize("kind", REPLIES)
def test_a_reply_means_what_the_recorder_saw(kind: str) -> None:
    recorded = messages(kind)
    assert recorded
    for version, message in recorded:
        fields = fields_of(parse_acceptor_message(message.raw[FRAME_HEADER_BYTES:], version))
        expected = recorded_fields(message)
        assert {name: fields[name] for name in expected} == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_clients_message_is_written_as_the_same_bytes(kind: str) -> None:
    for version, message in messages(kind):
        parsed = parse_proposer_message(message.raw[FRAME_HEADER_BYTES:], version)
        assert encode_proposer_message(parsed, version) == without_unread_fields(version, message)


@pytest.mark.parametrize("kind", REPLIES)
def test_a_reply_is_written_as_the_same_bytes(kind: str) -> None:
    for version, message in messages(kind):
        parsed = parse_acceptor_message(message.raw[FRAME_HEADER_BYTES:], version)
        assert CopyData(encode_acceptor_message(parsed, version)).encode() == message.raw


def test_startup_packets_mean_what_the_recorder_saw_and_are_written_as_the_same_bytes() -> None:
    for _, message in messages("StartupMessage"):
        packet = parse_startup_packet(message.raw[4:])
        assert packet == StartupMessage(message.fields["params"])
        assert packet.encode() == message.raw
        options = parse_options(message.fields["params"]["options"])
        assert options.ttid is not None
        assert encode_options(options.ttid) == message.fields["params"]["options"]


def test_commands_are_understood_and_written_alike() -> None:
    for version, message in messages("Q"):
        text = message.fields["query"]
        command = parse_command(text)
        assert command == StartWalPush(version, allow_timeline_creation=True)
        assert Query(text).encode() == message.raw
        assert text in ("START_WAL_PUSH", encode_start_wal_push(StartWalPush(version)))


@pytest.mark.parametrize("kind", ["R", "S", "Z", "W"])
def test_what_a_server_says_before_the_stream_is_written_as_the_same_bytes(kind: str) -> None:
    for _, message in messages(kind):
        parser = FrameParser()
        parser.feed(message.raw)
        frame = parser.next_frame()
        assert frame is not None
        assert parse_backend_message(frame).encode() == message.raw


def test_a_keeper_lets_everybody_in_with_the_recorded_bytes() -> None:
    for connection in connections():
        said = b"".join(message.raw for message in connection.messages if message.kind in "RSZ")
        assert b"".join(reply.encode() for reply in WELCOME) == said


@BY_NAME
def test_a_server_session_follows_a_recorded_client(connection: Connection) -> None:
    session = ServerSession()
    session.feed(connection.bytes_from(client=True))
    assert session.next_event() == SslRequest()
    sent = session.send(EncryptionAnswer(accepted=False))
    assert isinstance(session.next_event(), StartupMessage)
    sent += session.send(*WELCOME)
    assert isinstance(session.next_event(), Query)
    assert connection.bytes_from(client=False).startswith(sent)
    session.send(CopyBothResponse())
    payloads = session.copy_payloads()
    recorded = [message for message in connection.messages if message.from_client and message.kind in KINDS]
    assert payloads == [message.raw[FRAME_HEADER_BYTES:] for message in recorded]
    assert session.next_event() is None
    session.feed(b"")
    assert session.next_event() == EndOfStream()


@BY_NAME
def test_runs_hold_all_the_recorded_wal(connection: Connection) -> None:
    appends = [message for message in connection.messages if message.kind == "AppendRequest"]
    runs = coalesce([message.raw[FRAME_HEADER_BYTES:] for message in appends], connection.proto_version)
    (run,) = runs
    assert isinstance(run, AppendRun)
    assert run.begin_lsn == parse_lsn(appends[0].fields["begin_lsn"])
    assert run.end_lsn == parse_lsn(appends[-1].fields["end_lsn"])
    assert b"".join(run.slices) == b"".join(
        message.raw[len(message.raw) - message.fields["wal_len"] :] for message in appends
    )


@BY_NAME
def test_a_client_session_follows_the_recorded_answers(connection: Connection) -> None:
    session = ClientSession()
    (startup,) = (message for message in connection.messages if message.kind == "StartupMessage")
    (query,) = (message for message in connection.messages if message.kind == "Q")
    said = session.send(SslRequest())
    session.feed(connection.bytes_from(client=False))
    assert session.next_event() == EncryptionAnswer(accepted=False)
    said += session.send(StartupMessage(startup.fields["params"]))
    assert [session.next_event() for _ in WELCOME] == list(WELCOME)
    said += session.send(Query(query.fields["query"]))
    assert connection.bytes_from(client=True).startswith(said)
    session.next_event()
    replies = [message.raw[FRAME_HEADER_BYTES:] for message in connection.messages if message.kind in REPLIES]
    assert session.copy_payloads() == replies
