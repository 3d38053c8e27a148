"""Fuzz targets: frames, startup packets, messages of both sides of a session, proposer and acceptor messages."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from fuzz.target import Target
from recorded import Connection, connections
from walkeeper.errors import BadCommand, Malformed, PeerError
from walkeeper.formats.authentication import parse_authentication
from walkeeper.formats.backend import (
    BackendKeyData,
    Column,
    CommandComplete,
    CopyBothResponse,
    DataRow,
    ErrorResponse,
    NoticeResponse,
    ReadyForQuery,
    RowDescription,
    parse_backend_message,
)
from walkeeper.formats.commands import Command, StartWalPush, encode_start_wal_push, parse_command
from walkeeper.formats.frames import FRAME_BYTES_MAX, Frame, FrameMessage, FrameParser
from walkeeper.formats.frontend import CopyDone, CopyFail, Query, Sync, Terminate, parse_frontend_message
from walkeeper.formats.proposer import (
    coalesce,
    encode_acceptor_message,
    encode_proposer_message,
    parse_acceptor_message,
    parse_proposer_message,
)
from walkeeper.formats.replication import (
    PrimaryKeepalive,
    StandbyStatusUpdate,
    encode_keepalive,
    encode_standby_message,
    encode_xlog_data_head,
    parse_sender_message,
    parse_standby_message,
)
from walkeeper.formats.session import WELCOME, ClientSession, EndOfStream, ServerSession
from walkeeper.formats.startup import (
    CancelRequest,
    GssEncRequest,
    SslRequest,
    StartupMessage,
    parse_options,
    parse_startup_packet,
)
from walkeeper.lsn import Lsn
from walkeeper.messages import (
    APPEND_BYTES_MAX,
    AppendRequest,
    AppendRun,
    HotStandbyFeedback,
    PageserverFeedback,
    ProposerElected,
)

FRAME_HEAD_BYTES = 5
BEGINNING_BYTES_MAX = 1200
"""Of what one side said: startup, and some messages of every kind."""
BROKEN = b"", b""
CLIENT_KINDS = ("ProposerGreeting", "VoteRequest", "ProposerElected", "AppendRequest")
KEEPER_KINDS = ("AcceptorGreeting", "VoteResponse", "AppendResponse")
FEEDBACK = PageserverFeedback(1 << 40, Lsn(0x2000), Lsn(0x1000), Lsn(0x800), 7, 3, corruption_detected=True)
OPTIONS = (
    b"-c timeline_id=0123456789abcdef0123456789ABCDEF tenant_id=fedcba98765432100123456789abcdef",
    rb'protocol={"type":"interpreted","args":{}} shard_count=8 shard_number=1 shard_stripe_size=32768 a=\ b',
    b"ztenantid=0123456789abcdef0123456789abcdef availability_zone=eu-1 protocol={\"type\":\"vanilla\"}",
)  # fmt: skip
COMMANDS = (
    b"START_WAL_PUSH",
    encode_start_wal_push(StartWalPush(3)).encode(),
    b"START_REPLICATION SLOT x PHYSICAL 16/B3748 (term='7')",
    b"START_REPLICATION 0/0",
    b"IDENTIFY_SYSTEM",
    b"TIMELINE_STATUS",
    b"show walkeeper_status;",
    b"set datestyle to 'ISO'",
    b"TIMELINE_HISTORY 3",
)


def pieces(data: bytes) -> Iterator[bytes]:
    """The bytes behind the first, cut as the first says: into so many at a time, or not at all."""
    size = data[0] if data and data[0] else len(data)
    for begin in range(1, len(data), max(size, 1)):
        yield data[begin : begin + size]


def recorded(*, client: bool, kinds: Sequence[str], version: int | None = None) -> list[bytes]:
    """What recorded peers have said, frames and all."""
    return list(
        dict.fromkeys(
            message.raw
            for connection in connections()
            if version in (None, connection.proto_version)
            for message in connection.messages
            if message.from_client is client and message.kind in kinds
        )
    )


def payloads(*, client: bool, version: int) -> list[bytes]:
    """Recorded proposer or acceptor messages, without the frames of their CopyData."""
    kinds = CLIENT_KINDS if client else KEEPER_KINDS
    return [raw[FRAME_HEAD_BYTES:] for raw in recorded(client=client, kinds=kinds, version=version)]


def beginning(connection: Connection, *, client: bool) -> bytes:
    """The first messages of one side: whole ones, since what ends inside a message is malformed."""
    said = b""
    for message in connection.messages:
        if message.from_client is client and len(said) + len(message.raw) <= BEGINNING_BYTES_MAX:
            said += message.raw
    return said


# -- frames and startup ---------------------------------------------------------------------------------------


def feed_frames(data: bytes) -> None:
    """However the bytes are cut, the same frames come out; many at a time, perhaps fewer before one that is broken."""
    whole = list(frames_of([data[1:]], at_once=False))
    assert list(frames_of(pieces(data), at_once=False)) == whole
    found = list(frames_of(pieces(data), at_once=True))
    assert found == whole or (whole[-1:] == [BROKEN] == found[-1:] and found[:-1] == whole[: len(found) - 1])


def frames_of(buffers: Iterator[bytes] | list[bytes], *, at_once: bool) -> Iterator[tuple[bytes, bytes]]:
    """The frames up to an impossible one, which is BROKEN."""
    parser = FrameParser()
    try:
        for buffer in buffers:
            parser.feed(buffer)
            while True:
                if at_once and (found := parser.copy_payloads()):
                    yield from ((b"d", bytes(payload)) for payload in found)
                elif (frame := parser.next_frame()) is not None:
                    yield frame.tag, bytes(frame.body)
                else:
                    break
            assert parser.is_starved
            assert len(parser._partial) <= FRAME_BYTES_MAX
    except Malformed:
        yield BROKEN


def feed_startup(data: bytes) -> None:
    """A startup packet, perhaps in pieces; what it says of a client can be written and read again."""
    parser, packet = FrameParser(), None
    for buffer in pieces(data):
        parser.feed(buffer)
        packet = parser.next_startup()
        if packet is not None:
            break
    if packet is None:
        return
    message = parse_startup_packet(packet)
    if isinstance(message, StartupMessage):
        assert parse_startup_packet(message.encode()[4:]) == message
        parse_options(message.parameters.get("options", ""))


def feed_options(data: bytes) -> None:
    text = data.decode(errors="replace")
    options = parse_options(text)
    assert options.ttid is None or str(options.ttid.tenant_id) in text.lower()


def feed_command(data: bytes) -> None:
    assert isinstance(parse_command(data.decode(errors="replace")), Command)


def startup_seeds() -> list[bytes]:
    packets = (
        SslRequest(),
        GssEncRequest(),
        CancelRequest(1, 2),
        StartupMessage({"user": "u", "options": "-c a=b"}),
    )
    said = [packet.encode() for packet in packets] + recorded(client=True, kinds=["StartupMessage"])
    return [bytes([size]) + packet for size in (0, 3) for packet in said]


def frame_seeds() -> list[bytes]:
    """How recorded connections begin, from behind their startup packets."""
    said = [beginning(one, client=False)[1:] for one in connections()]
    return [bytes([size]) + stream for size in (0, 7, 200) for stream in said]


# -- messages of a session ------------------------------------------------------------------------------------


def feed_message(parse: Callable[[Frame], object], data: bytes) -> None:
    """One frame: its tag, and its body.  A message that was understood can be written and read again."""
    message = parse(Frame(data[:1], memoryview(data)[1:]))
    if isinstance(message, FrameMessage):
        raw = message.encode()
        assert parse(Frame(raw[:1], memoryview(raw)[FRAME_HEAD_BYTES:])) == message


def feed_authentication(data: bytes) -> None:
    request = parse_authentication(memoryview(data))
    assert parse_authentication(memoryview(request.body())) == request


def feed_server_session(data: bytes) -> None:
    session = ServerSession()
    _converse(session, data)


def feed_client_session(data: bytes) -> None:
    session = ClientSession()
    session.send(StartupMessage({"user": "u"}))
    _converse(session, data)


def _converse(session: ServerSession | ClientSession, data: bytes) -> None:
    """Hears all that is said; whoever has broken the rules is not listened to any more."""
    try:
        for buffer in (*pieces(data), b""):
            session.feed(buffer)
            while (event := _next_event(session)) is not None:
                if isinstance(event, EndOfStream):
                    return
    except PeerError:
        assert session.state.name == "CLOSED"
        raise


def _next_event(session: ServerSession | ClientSession) -> object:
    if session.state.name == "CLOSED":
        return EndOfStream()
    if session.state.name == "COPY" and (found := session.copy_payloads()):
        return found
    if session.state.name in ("ANSWERING", "COPY_ENDING"):
        return EndOfStream()
    event = session.next_event()
    if isinstance(session, ServerSession) and isinstance(event, StartupMessage):
        session.send(*WELCOME)
    elif isinstance(session, ServerSession) and isinstance(event, Query) and event.text:
        session.send(CopyBothResponse())
    elif isinstance(session, ClientSession) and isinstance(event, ReadyForQuery):
        session.send(Query("START_WAL_PUSH"))
    return event


BACKEND = (
    *WELCOME,
    BackendKeyData(1, b"secret"),
    RowDescription((Column("a"), Column("b", 23, 4))),
    DataRow((b"1", None, b"")),
    CommandComplete("SELECT 1"),
    ErrorResponse("no", "XX000", "FATAL", (("D", "detail"), ("H", "hint"))),
    NoticeResponse("well", "00000"),
    CopyBothResponse(),
    CopyDone(),
)
FRONTEND = (Query("IDENTIFY_SYSTEM"), CopyDone(), CopyFail("why"), Terminate(), Sync())


def message_seeds(messages: Sequence[FrameMessage]) -> list[bytes]:
    """Tags and bodies."""
    return [message.TAG + bytes(message.body()) for message in messages]


def authentication_seeds() -> list[bytes]:
    sasl = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"
    codes = ((0, b""), (3, b""), (5, b"salt"), (7, b"x"), (10, sasl), (11, b"r=a,s=b,i=4096"), (12, b"v=a"))
    return [code.to_bytes(4, "big") + rest for code, rest in codes]


def session_seeds(*, client: bool) -> list[bytes]:
    """How one side began, at once and in pieces."""
    refused = b"".join(message.encode() for message in (*WELCOME, *BACKEND[5:8], ReadyForQuery()))
    said = [beginning(one, client=client)[0 if client else 1 :] for one in connections()]
    return [bytes([size]) + stream for size in (0, 50) for stream in (*said, *([] if client else [refused]))]


# -- proposer and acceptor ------------------------------------------------------------------------------------


def feed_proposer_message(version: int, data: bytes) -> None:
    """Alone and in a batch it means the same; but for WAL, which is not kept twice, it can be written again."""
    view = memoryview(data)
    try:
        message = parse_proposer_message(view, version)
    except Malformed:
        try:
            list(coalesce([view], version))
        except Malformed:
            raise
        raise AssertionError("malformed alone, but not in a batch") from None
    (batch,) = coalesce([view], version)
    if isinstance(message, AppendRequest):
        assert len(message.wal) == message.end_lsn - message.begin_lsn <= APPEND_BYTES_MAX
        assert isinstance(batch, AppendRun)
        assert run_fields(batch) == run_fields(AppendRun.of(message))
    else:
        assert batch == message
    if (
        not isinstance(message, ProposerElected) or message.term_history.entries
    ):  # no leader of ours has an empty one
        assert parse_proposer_message(encode_proposer_message(message, version), version) == message


def run_fields(run: AppendRun) -> tuple[object, ...]:
    lsns_of_run = run.begin_lsn, run.end_lsn, run.commit_lsn, run.truncate_lsn
    return run.generation, run.term, lsns_of_run, [bytes(piece) for piece in run.slices]


def feed_acceptor_message(version: int, data: bytes) -> None:
    message = parse_acceptor_message(memoryview(data), version)
    assert parse_acceptor_message(encode_acceptor_message(message, version), version) == message


def feed_batch(version: int, data: bytes) -> None:
    """A stream of CopyData: each run holds what its messages held, one after the other."""
    parser = FrameParser()
    parser.feed(data)
    payloads = parser.copy_payloads()
    batches = list(coalesce(payloads, version))
    held = [parse_proposer_message(each, version) for each in payloads]
    others = [message for message in held if not isinstance(message, AppendRequest)]
    runs = [batch for batch in batches if isinstance(batch, AppendRun)]
    assert [batch for batch in batches if not isinstance(batch, AppendRun)] == others
    wal = b"".join(bytes(message.wal) for message in held if isinstance(message, AppendRequest))
    assert b"".join(bytes(piece) for run in runs for piece in run.slices) == wal
    assert all(sum(map(len, run.slices)) == run.end_lsn - run.begin_lsn for run in runs)


def batch_seeds(version: int) -> list[bytes]:
    said = recorded(client=True, kinds=CLIENT_KINDS, version=version)
    return [b"".join(said[at : at + 6])[:4000] for at in range(0, len(said), 6)]


# -- replication ----------------------------------------------------------------------------------------------


def feed_sender_message(data: bytes) -> None:
    assert parse_sender_message(memoryview(data)) is not None


def feed_standby_message(data: bytes) -> None:
    message = parse_standby_message(memoryview(data))
    assert (message is None) == (data[:1] not in (b"r", b"h", b"z"))
    if message is not None:
        assert parse_standby_message(memoryview(encode_standby_message(message))) == message


STANDBY = (
    StandbyStatusUpdate(Lsn(3), Lsn(2), Lsn(1), 7),
    HotStandbyFeedback(7, 1 << 33 | 9, 1 << 33 | 8),
    FEEDBACK,
)


def sender_seeds() -> list[bytes]:
    keepalive = encode_keepalive(PrimaryKeepalive(Lsn(9), 7, reply_requested=True))
    return [keepalive, encode_xlog_data_head(Lsn(8), Lsn(9), 7) + b"wal"]


def acceptor_seeds(version: int) -> list[bytes]:
    """A pageserver's feedback, which no recorded keeper had, is added to each."""
    said = payloads(client=False, version=version)
    feedback = encode_standby_message(FEEDBACK)[9:]
    return [*said, *(payload + feedback for payload in said[-2:])]


TARGETS = (
    Target("frames", feed_frames, (), frame_seeds),
    Target("startup", feed_startup, (Malformed,), startup_seeds),
    Target("options", feed_options, (Malformed,), lambda: OPTIONS),
    Target("command", feed_command, (BadCommand,), lambda: COMMANDS),
    Target(
        "frontend", partial(feed_message, parse_frontend_message), (PeerError,), lambda: message_seeds(FRONTEND)
    ),
    Target("backend", partial(feed_message, parse_backend_message), (PeerError,), lambda: message_seeds(BACKEND)),
    Target("authentication", feed_authentication, (Malformed,), authentication_seeds),
    Target("server-session", feed_server_session, (PeerError,), lambda: session_seeds(client=True)),
    Target("client-session", feed_client_session, (PeerError,), lambda: session_seeds(client=False)),
    *(
        target
        for version in (2, 3)
        for target in (
            Target(
                f"proposer-{version}",
                partial(feed_proposer_message, version),
                (Malformed,),
                partial(payloads, client=True, version=version),
            ),
            Target(
                f"acceptor-{version}",
                partial(feed_acceptor_message, version),
                (Malformed,),
                partial(acceptor_seeds, version),
            ),
            Target(f"batch-{version}", partial(feed_batch, version), (Malformed,), partial(batch_seeds, version)),
        )
    ),
    Target("sender", feed_sender_message, (Malformed,), sender_seeds),
    Target(
        "standby", feed_standby_message, (Malformed,), lambda: [encode_standby_message(each) for each in STANDBY]
    ),
)
