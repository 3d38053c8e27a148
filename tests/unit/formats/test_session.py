"""Who may say what, when: both sides of a session, mostly talking to each other."""

from collections.abc import Sequence

import pytest

from walkeeper.errors import Malformed, OutOfTurn
from walkeeper.formats.authentication import (
    AuthenticationCleartextPassword,
    AuthenticationMd5Password,
    AuthenticationOk,
    AuthenticationOther,
    AuthenticationSasl,
    AuthenticationSaslContinue,
    AuthenticationSaslFinal,
)
from walkeeper.formats.backend import (
    BackendKeyData,
    Column,
    CommandComplete,
    CopyBothResponse,
    DataRow,
    ErrorResponse,
    NoticeResponse,
    ParameterStatus,
    ReadyForQuery,
    RowDescription,
)
from walkeeper.formats.frames import PASSWORD_BYTES_MAX, FrameMessage, encode_frame
from walkeeper.formats.frontend import (
    AuthenticationReply,
    CopyData,
    CopyDone,
    CopyFail,
    ExtendedQuery,
    Query,
    Sync,
    Terminate,
)
from walkeeper.formats.session import (
    CLIENT_RECEIVES,
    CLIENT_SENDS,
    SERVER_RECEIVES,
    SERVER_SENDS,
    WELCOME,
    ClientSession,
    ClientState,
    EndOfStream,
    ServerSession,
    ServerState,
)
from walkeeper.formats.startup import (
    CancelRequest,
    DirectTls,
    EncryptionAnswer,
    GssEncRequest,
    SslRequest,
    StartupMessage,
)

STARTUP = StartupMessage({"user": "u"})


def events_of(session: ClientSession | ServerSession, received: bytes = b"") -> list[object]:
    """All events up to the next wait for bytes, or for our own turn."""
    if received:
        session.feed(received)
    receives = CLIENT_RECEIVES if isinstance(session, ClientSession) else SERVER_RECEIVES
    events: list[object] = []
    while session.state in receives and (event := session.next_event()) is not None:
        events.append(event)
    return events


def encoded(*messages: FrameMessage) -> bytes:
    return b"".join(message.encode() for message in messages)


def ready_server() -> ServerSession:
    session = ServerSession()
    session.feed(STARTUP.encode())
    assert session.next_event() == STARTUP
    session.send(*WELCOME)
    assert session.next_event() is None
    return session


def streaming_server() -> ServerSession:
    session = ready_server()
    assert events_of(session, Query("START_WAL_PUSH").encode()) == [Query("START_WAL_PUSH")]
    session.send(CopyBothResponse())
    assert session.next_event() is None
    return session


def ready_client() -> ClientSession:
    session = ClientSession()
    session.send(STARTUP)
    assert events_of(session, encoded(*WELCOME)) == list(WELCOME)
    return session


def streaming_client() -> ClientSession:
    session = ready_client()
    session.send(Query("START_REPLICATION 0/0"))
    assert events_of(session, CopyBothResponse().encode()) == [CopyBothResponse()]
    return session


# -- the keeper's side ----------------------------------------------------------------------------------------


def test_encryption_is_asked_for_and_refused_before_startup() -> None:
    session = ServerSession()
    for request in (GssEncRequest(), SslRequest()):
        assert events_of(session, request.encode()) == [request]
        assert session.send(EncryptionAnswer(accepted=False)) == b"N"
    assert events_of(session, STARTUP.encode()) == [STARTUP]
    assert session.state is ServerState.AUTHENTICATING


def test_a_cancel_request_ends_the_session() -> None:
    session = ServerSession()
    assert events_of(session, CancelRequest(1, 2).encode()) == [CancelRequest(1, 2)]
    assert session.state is ServerState.CLOSED


@pytest.mark.parametrize("cut", range(1, 8))
def test_what_came_with_the_first_byte_of_unasked_tls_is_handed_over_and_the_session_begins_anew(cut: int) -> None:
    hello = b"\x16\3\1\0\xc8\1\0\0"
    session = ServerSession()
    session.feed(hello[:cut])
    if (event := session.next_event()) is None:
        session.feed(hello[cut:])
        event, hello_end = session.next_event(), b""
    else:
        hello_end = hello[cut:]
    assert event == DirectTls()
    assert DirectTls.FIRST_BYTE + session.take_rest() + hello_end == hello
    assert session.is_between_messages
    assert events_of(session, STARTUP.encode()) == [STARTUP]


def test_bytes_behind_a_request_for_encryption_can_be_noticed() -> None:
    session = ServerSession()
    session.feed(SslRequest().encode() + b"x")
    assert session.next_event() == SslRequest()
    assert not session.is_between_messages


def strange_server() -> ServerSession:
    """It has asked who is there."""
    session = ServerSession()
    events_of(session, StartupMessage({"user": "u"}).encode())
    session.send(AuthenticationCleartextPassword())
    return session


def test_a_password_may_be_asked_for_before_the_client_is_let_in() -> None:
    session = strange_server()
    reply = AuthenticationReply.of_password(b"secret")
    assert events_of(session, reply.encode()) == [reply]
    session.send(*WELCOME)
    assert session.state is ServerState.READY


def test_a_password_that_is_announced_as_long_is_not_waited_for() -> None:
    session = strange_server()
    with pytest.raises(Malformed):
        events_of(session, AuthenticationReply.of_password(bytes(PASSWORD_BYTES_MAX)).encode()[:5])


def test_a_query_in_place_of_a_password_is_out_of_turn() -> None:
    with pytest.raises(OutOfTurn):
        events_of(strange_server(), Query("SELECT 1").encode())


def test_a_query_is_answered_and_another_may_follow() -> None:
    session = ready_server()
    answer = (RowDescription((Column("a"),)), DataRow.of("1"), CommandComplete("SHOW"), ReadyForQuery())
    for text in ("SHOW a", "SHOW b"):
        assert events_of(session, Query(text).encode()) == [Query(text)]
        assert session.send(*answer) == encoded(*answer)
        assert session.next_event() is None


def test_what_a_client_sends_ahead_waits_for_its_turn() -> None:
    session = ServerSession()
    session.feed(STARTUP.encode() + encoded(Query("a"), Query("b"), Terminate()))
    assert session.next_event() == STARTUP
    session.send(*WELCOME)
    for text in ("a", "b"):
        assert session.next_event() == Query(text)
        session.send(CommandComplete(text), ReadyForQuery())
    assert session.next_event() == Terminate()


def test_an_extended_query_is_refused_up_to_its_sync() -> None:
    session = ready_server()
    parse, bind = encode_frame(b"P", b"..."), encode_frame(b"B", b"...")
    assert events_of(session, parse) == [ExtendedQuery(b"P")]
    session.send(ErrorResponse("no extended queries", "0A000"))
    session.feed(bind + encoded(Query("skipped too"), Sync(), Query("a")))
    assert session.next_event() == Sync()
    session.send(ReadyForQuery())
    assert session.next_event() == Query("a")


def test_a_stream_flows_both_ways_until_the_client_is_done() -> None:
    session = streaming_server()
    assert events_of(session, CopyData(b"in").encode()) == [CopyData(b"in")]
    assert session.send(CopyData(b"out")) == CopyData(b"out").encode()
    assert events_of(session, CopyDone().encode()) == [CopyDone()]
    assert session.send(CopyData(b"last"), CopyDone()) == encoded(CopyData(b"last"), CopyDone())
    assert session.state is ServerState.CLOSED


def test_payloads_come_all_at_once_and_then_what_ends_them() -> None:
    session = streaming_server()
    session.feed(encoded(CopyData(b"1"), CopyData(b"2"), CopyFail("enough")))
    assert session.copy_payloads() == [b"1", b"2"]
    assert session.copy_payloads() == []
    assert session.next_event() == CopyFail("enough")
    assert session.send(ErrorResponse("received CopyFail", "00000")).startswith(b"E")


def test_replies_under_way_may_be_sent_when_the_client_has_left() -> None:
    session = streaming_server()
    assert events_of(session, Terminate().encode()) == [Terminate()]
    assert session.send(CopyData(b"late")) == CopyData(b"late").encode()


@pytest.mark.parametrize("message", [CopyData(b"?"), CopyDone(), CopyFail("?"), AuthenticationReply(b"?")])
def test_a_stream_outside_a_stream_is_out_of_turn(message: FrameMessage) -> None:
    session = ready_server()
    session.feed(message.encode())
    with pytest.raises(OutOfTurn):
        session.next_event()
    assert session.state is ServerState.CLOSED
    assert session.send(ErrorResponse("out of turn", "08P01")).startswith(b"E")


def test_a_query_inside_a_stream_is_out_of_turn() -> None:
    session = streaming_server()
    session.feed(encoded(CopyData(b"1"), Query("a")))
    assert session.copy_payloads() == [b"1"]
    with pytest.raises(OutOfTurn):
        session.next_event()


@pytest.mark.parametrize("gibberish", [b"\0\0\0\0\0", b"d\xff\xff\xff\xff", b"?\0\0\0\4"])
def test_gibberish_closes_the_session(gibberish: bytes) -> None:
    session = streaming_server()
    session.feed(gibberish)
    with pytest.raises(Malformed):
        session.next_event()
    assert session.state is ServerState.CLOSED


def test_gibberish_among_payloads_closes_the_session() -> None:
    session = streaming_server()
    session.feed(CopyData(b"wal").encode() + b"d\xff\xff\xff\xff")
    with pytest.raises(Malformed):
        session.copy_payloads()
    assert session.state is ServerState.CLOSED


@pytest.mark.parametrize("make", [ServerSession, ready_server, streaming_server, ready_client, streaming_client])
def test_a_stream_may_end_between_messages_and_not_inside(make: type[ServerSession]) -> None:
    session = make()
    session.feed(b"")
    assert session.next_event() == EndOfStream()
    session = make()
    session.feed(b"\0\0")
    assert session.next_event() is None
    session.feed(b"")
    with pytest.raises(Malformed):
        session.next_event()


def test_messages_before_the_end_of_the_stream_come_first() -> None:
    session = streaming_server()
    session.feed(CopyData(b"last").encode())
    session.feed(b"")
    assert [session.next_event(), session.next_event()] == [CopyData(b"last"), EndOfStream()]


def test_speaking_out_of_turn_oneself_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        ServerSession().send(ReadyForQuery())
    with pytest.raises(AssertionError):
        ready_server().send(CopyData(b""))
    with pytest.raises(AssertionError):
        ClientSession().send(Query("a"))
    with pytest.raises(AssertionError):
        ready_client().copy_payloads()


def test_listening_when_it_is_our_turn_is_a_bug() -> None:
    session = ready_server()
    assert events_of(session, Query("a").encode()) == [Query("a")]
    with pytest.raises(AssertionError):
        session.next_event()
    with pytest.raises(AssertionError):
        ClientSession().next_event()


# -- the client's side ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("accepted", [True, False])
def test_a_server_answers_the_wish_for_encryption_with_a_letter(accepted: bool) -> None:
    session = ClientSession()
    assert session.send(SslRequest()) == SslRequest().encode()
    assert events_of(session, EncryptionAnswer(accepted).encode()) == [EncryptionAnswer(accepted)]
    assert session.send(STARTUP) == STARTUP.encode()


@pytest.mark.parametrize("answer", [b"E", b"x", b"S" + AuthenticationOk().encode()])
def test_nobody_may_put_words_into_the_servers_mouth_before_tls(answer: bytes) -> None:
    session = ClientSession()
    session.send(SslRequest())
    session.feed(answer)
    with pytest.raises(Malformed):
        session.next_event()


SCRAM: Sequence[tuple[FrameMessage, AuthenticationReply]] = [
    (AuthenticationSasl(("SCRAM-SHA-256",)), AuthenticationReply.of_sasl_mechanism("SCRAM-SHA-256", b"n,,n=,r=x")),
    (AuthenticationSaslContinue(b"r=xy,s=,i=1"), AuthenticationReply(b"c=biws,r=xy,p=z")),
]


def test_scram_is_a_series_of_events_and_replies() -> None:
    session = ClientSession()
    session.send(STARTUP)
    for challenge, reply in SCRAM:
        assert events_of(session, challenge.encode()) == [challenge]
        assert session.send(reply) == reply.encode()
    final = (AuthenticationSaslFinal(b"v="), AuthenticationOk(), BackendKeyData(1, b"key!"), ReadyForQuery())
    assert events_of(session, encoded(*final)) == list(final)
    assert session.state is ClientState.READY


@pytest.mark.parametrize(
    "challenge", [AuthenticationCleartextPassword(), AuthenticationMd5Password(b"salt"), AuthenticationOther(7)]
)
def test_a_password_may_be_asked_for_in_other_ways(challenge: FrameMessage) -> None:
    session = ClientSession()
    session.send(STARTUP)
    assert events_of(session, challenge.encode()) == [challenge]
    assert session.send(AuthenticationReply.of_password(b"pw")) == b"p\0\0\0\7pw\0"


def test_a_server_must_let_us_in_before_it_is_ready() -> None:
    session = ClientSession()
    session.send(STARTUP)
    session.feed(ReadyForQuery().encode())
    with pytest.raises(OutOfTurn):
        session.next_event()


def test_a_refused_client_hears_why() -> None:
    session = ClientSession()
    session.send(STARTUP)
    error = ErrorResponse("no entry", "28000", "FATAL")
    assert events_of(session, error.encode()) == [error]
    assert session.state is ClientState.CLOSED


def test_a_result_is_rows_and_an_end_with_remarks_in_between() -> None:
    session = ready_client()
    session.send(Query("SHOW a"))
    result = (
        RowDescription((Column("a"),)),
        NoticeResponse("hm", "01000", "NOTICE"),
        DataRow.of("1"),
        ParameterStatus("TimeZone", "UTC"),
        CommandComplete("SHOW"),
        ReadyForQuery(),
    )
    assert events_of(session, encoded(*result)) == list(result)
    assert session.state is ClientState.READY


def test_a_failed_query_leaves_the_session_usable() -> None:
    session = ready_client()
    session.send(Query("nonsense"))
    answer = (ErrorResponse("no", "42601"), ReadyForQuery())
    assert events_of(session, encoded(*answer)) == list(answer)
    assert session.send(Query("again")) == Query("again").encode()


def test_a_client_ends_a_stream_and_asks_again() -> None:
    session = streaming_client()
    session.send(CopyData(b"status"), CopyDone())
    session.feed(
        encoded(CopyData(b"still"), CopyData(b"flowing"), CopyDone(), CommandComplete("COPY"), ReadyForQuery())
    )
    assert session.copy_payloads() == [b"still", b"flowing"]
    assert events_of(session) == [CopyDone(), CommandComplete("COPY"), ReadyForQuery()]
    assert session.send(Query("more")) == Query("more").encode()


def test_a_server_ends_a_stream_and_tells_the_next_timeline() -> None:
    session = streaming_client()
    assert events_of(session, encoded(CopyData(b"wal"), CopyDone())) == [CopyData(b"wal"), CopyDone()]
    assert session.state is ClientState.COPY_SENDING
    session.send(CopyData(b"under way"), CopyDone())
    rest = (
        RowDescription((Column("next_tli"),)),
        DataRow.of("2"),
        CommandComplete("START_STREAMING"),
        ReadyForQuery(),
    )
    assert events_of(session, encoded(*rest)) == list(rest)


def test_a_stream_that_fails_is_still_written_to_for_a_while() -> None:
    session = streaming_client()
    error = ErrorResponse("gone", "58P01")
    assert events_of(session, error.encode()) == [error]
    assert session.send(CopyData(b"under way")) == CopyData(b"under way").encode()
    session.feed(b"")
    assert session.next_event() == EndOfStream()


def test_a_row_inside_a_stream_is_out_of_turn() -> None:
    session = streaming_client()
    session.feed(DataRow.of("1").encode())
    with pytest.raises(OutOfTurn):
        session.next_event()
    assert session.state is ClientState.CLOSED


# -- the tables -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "receives", "sends", "first"),
    [
        (ServerState, SERVER_RECEIVES, SERVER_SENDS, ServerState.STARTUP),
        (ClientState, CLIENT_RECEIVES, CLIENT_SENDS, ClientState.STARTUP),
    ],
)
def test_every_state_can_be_reached(states: object, receives: object, sends: object, first: object) -> None:
    reached: set[object] = set()
    ahead = {first}
    while ahead:
        state = ahead.pop()
        reached.add(state)
        turns = [*receives.get(state, {}).values(), *sends.get(state, {}).values()]  # type: ignore[attr-defined]
        ahead |= set(turns) - reached
    assert reached == set(states)  # type: ignore[call-overload]
