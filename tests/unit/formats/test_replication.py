"""The messages of a replication stream, byte for byte."""

from datetime import UTC, datetime

import pytest

from walkeeper.errors import Malformed
from walkeeper.formats.replication import (
    PrimaryKeepalive,
    StandbyMessage,
    StandbyStatusUpdate,
    XLogData,
    encode_keepalive,
    encode_standby_message,
    encode_xlog_data_head,
    parse_sender_message,
    parse_standby_message,
    postgres_microseconds,
)
from walkeeper.lsn import Lsn
from walkeeper.messages import HotStandbyFeedback, PageserverFeedback

START, FLUSH, COMMIT = Lsn(0x149FD18), Lsn(0x149FE00), Lsn(0x149FD90)
TIME = 0x303DD950B6B61

XLOG_DATA = bytes.fromhex("77 000000000149fd18 000000000149fe00 000303dd950b6b61 10d10500")
KEEPALIVE = bytes.fromhex("6b 000000000149fe00 000303dd950b6b61 01")
FEEDBACK = PageserverFeedback(12345678, FLUSH, COMMIT, START, TIME, shard_number=1)
FEEDBACK_BLOCK = bytes.fromhex(
    "06"
    "63757272656e745f74696d656c696e655f73697a6500 00000008 0000000000bc614e"
    "70735f77726974656c736e00 00000008 000000000149fe00"
    "70735f666c7573686c736e00 00000008 000000000149fd90"
    "70735f6170706c796c736e00 00000008 000000000149fd18"
    "70735f7265706c7974696d6500 00000008 000303dd950b6b61"
    "73686172645f6e756d62657200 00000004 00000001"
)

STANDBY: list[tuple[StandbyMessage, bytes]] = [
    (
        StandbyStatusUpdate(FLUSH, FLUSH, COMMIT, TIME),
        bytes.fromhex("72 000000000149fe00 000000000149fe00 000000000149fd90 000303dd950b6b61 00"),
    ),
    (
        HotStandbyFeedback(TIME, xmin=735),
        bytes.fromhex("68 000303dd950b6b61 000002df 00000000 00000000 00000000"),
    ),
    (
        HotStandbyFeedback(TIME, xmin=3 << 32 | 735, catalog_xmin=4 << 32 | 9),
        bytes.fromhex("68 000303dd950b6b61 000002df 00000003 00000009 00000004"),
    ),
    (FEEDBACK, bytes.fromhex("7a 0000000000000099") + FEEDBACK_BLOCK),
]


def test_xlog_data_is_a_head_and_wal() -> None:
    assert encode_xlog_data_head(START, FLUSH, TIME) + XLOG_DATA[25:] == XLOG_DATA
    assert parse_sender_message(memoryview(XLOG_DATA)) == XLogData(START, FLUSH, TIME, XLOG_DATA[25:])


def test_wal_is_not_copied_out_of_xlog_data() -> None:
    data = parse_sender_message(memoryview(XLOG_DATA))
    assert isinstance(data, XLogData)
    assert isinstance(data.wal, memoryview)
    assert data.wal.obj is XLOG_DATA


def test_a_keepalive_is_these_bytes() -> None:
    keepalive = PrimaryKeepalive(FLUSH, TIME, True)
    assert encode_keepalive(keepalive) == KEEPALIVE
    assert parse_sender_message(memoryview(KEEPALIVE)) == keepalive


@pytest.mark.parametrize(
    "raw", [b"", b"x", XLOG_DATA[:24], KEEPALIVE[:-1], KEEPALIVE[:-1] + b"\2", KEEPALIVE + b"\0"]
)
def test_a_bad_message_of_the_sender_is_malformed(raw: bytes) -> None:
    with pytest.raises(Malformed):
        parse_sender_message(memoryview(raw))


@pytest.mark.parametrize(("message", "raw"), STANDBY)
def test_a_standby_message_is_these_bytes(message: StandbyMessage, raw: bytes) -> None:
    assert encode_standby_message(message) == raw
    assert parse_standby_message(memoryview(raw)) == message


@pytest.mark.parametrize("raw", [b"", b"?", b"?rest"])
def test_unknown_and_empty_standby_messages_are_nothing(raw: bytes) -> None:
    assert parse_standby_message(memoryview(raw)) is None


@pytest.mark.parametrize("raw", [raw for _, raw in STANDBY])
def test_a_standby_message_cut_short_or_grown_is_malformed(raw: bytes) -> None:
    for wrong in (raw[:-1], raw + b"\0", raw[:1]):
        with pytest.raises(Malformed):
            parse_standby_message(memoryview(wrong))


def test_a_reply_flag_is_zero_or_one() -> None:
    raw = STANDBY[0][1]
    with pytest.raises(Malformed):
        parse_standby_message(memoryview(raw[:-1] + b"\2"))


# -- pageserver feedback --------------------------------------------------------------------------------------


def neon_status(block: bytes) -> memoryview:
    return memoryview(b"z" + bytes(8) + block)


def test_the_announced_length_of_a_status_update_is_not_checked() -> None:
    assert parse_standby_message(neon_status(FEEDBACK_BLOCK)) == FEEDBACK


def test_what_says_nothing_is_not_written() -> None:
    assert encode_standby_message(PageserverFeedback())[9] == 5
    assert encode_standby_message(PageserverFeedback(shard_number=1, corruption_detected=True))[9] == 7


def test_corruption_survives_the_wire() -> None:
    feedback = PageserverFeedback(corruption_detected=True, reply_time=-1)
    assert parse_standby_message(memoryview(encode_standby_message(feedback))) == feedback


def test_other_names_are_understood_and_unknown_keys_skipped() -> None:
    pairs = [
        (b"disk_consistent_lsn", bytes(7) + b"\7"),
        (b"new", b"?"),
        (b"replytime", bytes(8)),
    ]
    block = b"\3" + b"".join(key + b"\0\0\0\0" + bytes([len(value)]) + value for key, value in pairs)
    assert parse_standby_message(neon_status(block)) == PageserverFeedback(disk_consistent_lsn=Lsn(7))


@pytest.mark.parametrize(
    "block",
    [b"", b"\1", b"\1ps_writelsn\0\0\0\0\4abcd", b"\1x\0\xff\xff\xff\xff", b"\1x\0\0\0\0\2a", b"\1x\0\0\0"],
)
def test_a_bad_feedback_block_is_malformed(block: bytes) -> None:
    with pytest.raises(Malformed):
        parse_standby_message(neon_status(block))


def test_time_begins_in_2000() -> None:
    moment = datetime(2000, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert postgres_microseconds(int(moment.timestamp()) * 10**9 + 2_999) == 1_000_002


@pytest.mark.parametrize("xid", [0, 1, 2])
def test_an_id_that_is_none_is_nothing_whatever_its_epoch(xid: int) -> None:
    """A standby that needs nothing says so with the epoch of the moment; it must not look older than all that do."""
    said = encode_standby_message(HotStandbyFeedback(TIME, xmin=5 << 32 | xid, catalog_xmin=5 << 32 | 1000))
    heard = parse_standby_message(memoryview(said))
    assert heard == HotStandbyFeedback(TIME, xmin=0, catalog_xmin=5 << 32 | 1000)
