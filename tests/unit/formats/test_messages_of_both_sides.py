"""The frames of frontend and backend: byte for byte, and bad bodies are Malformed."""

import pytest

from walkeeper.errors import Malformed
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
    INT4_OID,
    BackendKeyData,
    BackendMessage,
    Column,
    CommandComplete,
    CopyBothResponse,
    DataRow,
    EmptyQueryResponse,
    ErrorResponse,
    NoticeResponse,
    ParameterStatus,
    ReadyForQuery,
    RowDescription,
    parse_backend_message,
)
from walkeeper.formats.frames import Frame, FrameMessage, FrameParser
from walkeeper.formats.frontend import (
    AuthenticationReply,
    CopyData,
    CopyDone,
    CopyFail,
    ExtendedQuery,
    FrontendMessage,
    Query,
    Sync,
    Terminate,
    parse_frontend_message,
)

IDENTIFY_SYSTEM = RowDescription(
    (Column("systemid"), Column("timeline", INT4_OID, 4), Column("xlogpos"), Column("dbname"))
)

FRONTEND: list[tuple[FrameMessage, str]] = [
    (
        Query("START_WAL_PUSH (proto_version '3', allow_timeline_creation 'true')"),
        (
            "5100000047"
            "53544152545f57414c5f50555348202870726f746f5f76657273696f6e202733"
            "272c20616c6c6f775f74696d656c696e655f6372656174696f6e202774727565"
            "272900"
        ),
    ),
    (CopyData(bytes.fromhex("76000000050000000000000003")), "640000001176000000050000000000000003"),
    (CopyDone(), "6300000004"),
    (CopyFail("no"), "66000000076e6f00"),
    (Terminate(), "5800000004"),
    (Sync(), "5300000004"),
    (AuthenticationReply.of_password(b"pw"), "7000000007707700"),
    (
        AuthenticationReply.of_sasl_mechanism("SCRAM-SHA-256", b"n,,"),
        "70000000195343 52414d2d5348412d32353600000000036e2c2c",
    ),
]

BACKEND: list[tuple[FrameMessage, str]] = [
    (AuthenticationOk(), "520000000800000000"),
    (AuthenticationCleartextPassword(), "520000000800000003"),
    (AuthenticationMd5Password(b"salt"), "520000000c0000000573616c74"),
    (AuthenticationSasl(("A", "BC")), "520000000e0000000a410042430000"),
    (AuthenticationSaslContinue(b"r="), "520000000a0000000b723d"),
    (AuthenticationSaslFinal(b"v="), "520000000a0000000c763d"),
    (AuthenticationOther(7), "520000000800000007"),
    (ParameterStatus("a", "b"), "530000000861006200"),
    (BackendKeyData(1, b"\2\3\4\5"), "4b0000000c0000000102030405"),
    (ReadyForQuery(), "5a0000000549"),
    (CopyBothResponse(), "5700000007000000"),
    (
        IDENTIFY_SYSTEM,
        (
            "540000006f"
            "0004"
            "73797374656d69640000000000000000000019ffffffffffff0000"
            "74696d656c696e6500000000000000000000170004ffffffff0000"
            "786c6f67706f730000000000000000000019ffffffffffff0000"
            "64626e616d650000000000000000000019ffffffffffff0000"
        ),
    ),
    (
        DataRow.of("7", "1", "0/149FE00", None),
        "440000002100040000000137000000013100000009302f31343946453030ffffffff",
    ),
    (CommandComplete("IDENTIFY_SYSTEM"), "43000000144944454e544946595f53595354454d00"),
    (EmptyQueryResponse(), "4900000004"),
    (ErrorResponse("end", "00000"), "4500000018534552524f5200433030303030004d656e640000"),
    (NoticeResponse("hm", "01000", "NOTICE"), "4e00000018534e4f5449434500433031303030004d686d0000"),
]


def frame_of(raw: bytes) -> Frame:
    parser = FrameParser()
    parser.feed(raw)
    frame = parser.next_frame()
    assert frame is not None
    assert parser.is_between_frames
    return frame


def name_of(value: object) -> str | None:
    return type(value).__name__ if isinstance(value, FrameMessage) else None


@pytest.mark.parametrize(("message", "raw"), FRONTEND, ids=name_of)
def test_a_client_message_is_these_bytes(message: FrontendMessage, raw: str) -> None:
    assert not isinstance(message, ExtendedQuery)
    assert message.encode() == bytes.fromhex(raw)
    assert parse_frontend_message(frame_of(bytes.fromhex(raw))) == message


@pytest.mark.parametrize(("message", "raw"), BACKEND, ids=name_of)
def test_a_server_message_is_these_bytes(message: BackendMessage, raw: str) -> None:
    assert message.encode() == bytes.fromhex(raw)
    assert parse_backend_message(frame_of(bytes.fromhex(raw))) == message


@pytest.mark.parametrize("tag", [b"P", b"B", b"D", b"E", b"C", b"H"])
def test_steps_of_an_extended_query_are_recognised_whatever_their_body(tag: bytes) -> None:
    assert parse_frontend_message(Frame(tag, memoryview(b"?"))) == ExtendedQuery(tag)


@pytest.mark.parametrize(
    ("tag", "body"),
    [
        (b"Q", b""),
        (b"Q", b"no end"),
        (b"Q", b"a\0b\0"),
        (b"Q", b"\xff\0"),
        (b"c", b"!"),
        (b"f", b""),
        (b"X", b"!"),
        (b"S", b"!"),
        (b"F", b""),
        (b"\0", b""),
        (b"\xff", b""),
    ],
)
def test_a_bad_client_message_is_malformed(tag: bytes, body: bytes) -> None:
    with pytest.raises(Malformed):
        parse_frontend_message(Frame(tag, memoryview(body)))


@pytest.mark.parametrize(
    ("tag", "body"),
    [
        (b"R", b""),
        (b"R", b"\0\0\0\5abc"),
        (b"R", b"\0\0\0\0!"),
        (b"R", b"\0\0\0\nSCRAM-SHA-256\0"),
        (b"S", b"name\0"),
        (b"K", b"\0"),
        (b"Z", b""),
        (b"Z", b"II"),
        (b"T", b"\0\1name\0"),
        (b"D", b"\0\1\0\0\0\5abc"),
        (b"D", b"\0\1\xff\xff\xff\xfe"),
        (b"E", b"SERROR\0"),
        (b"E", b"SERROR\0\0!"),
        (b"W", b"\0"),
        (b"C", b"x"),
        (b"G", b"\0\0\0"),
        (b"?", b""),
    ],
)
def test_a_bad_server_message_is_malformed(tag: bytes, body: bytes) -> None:
    with pytest.raises(Malformed):
        parse_backend_message(Frame(tag, memoryview(body)))


def test_an_error_keeps_all_its_fields() -> None:
    body = b"SFATAL\0VFATAL\0C28P01\0Mwrong password\0Dd\0Hh\0Fauth.c\0\0"
    error = parse_backend_message(Frame(b"E", memoryview(body)))
    assert isinstance(error, ErrorResponse)
    assert (error.severity, error.sqlstate, error.message) == ("FATAL", "28P01", "wrong password")
    assert (error.detail, error.hint, error.field("F"), error.field("P")) == ("d", "h", "auth.c", "")
    assert parse_backend_message(frame_of(error.encode())) == error


def test_an_error_text_with_a_nul_does_not_break_its_frame() -> None:
    error = parse_backend_message(frame_of(ErrorResponse("a\0b", "XX000").encode()))
    assert isinstance(error, ErrorResponse)
    assert error.message == "a\N{REPLACEMENT CHARACTER}b"


def test_an_error_in_a_foreign_encoding_is_readable_all_the_same() -> None:
    error = parse_backend_message(Frame(b"E", memoryview(b"MPa\xdfwort\0\0")))
    assert isinstance(error, ErrorResponse)
    assert error.message == "Pa\N{REPLACEMENT CHARACTER}wort"


def test_the_payload_of_copy_data_is_not_copied() -> None:
    body = memoryview(b"wal")
    message = parse_frontend_message(Frame(b"d", body))
    assert isinstance(message, CopyData)
    assert message.payload is body
