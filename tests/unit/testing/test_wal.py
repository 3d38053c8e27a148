"""The WAL generator writes what PostgreSQL does, where that is known to the byte."""

from walkeeper.formats.xlog_pages import PAGE_BYTES
from walkeeper.lsn import Lsn
from walkeeper.testing.wal import RM_LOGICALMSG_ID, WalGenerator, encode_logical_message, encode_record

GOLDEN_RECORD = bytes.fromhex(
    "40000000 00000000 0000000000000000 00 15 0000 aa22a6e3"
    "ff26 00000000 00000000 0700000000000000 0700000000000000 70726566697800 6d657373616765"
)
"""The logical message ("prefix", "message") without a record before it, as Neon's own tests have it."""

PAGE = Lsn(0x1002000)


def test_a_logical_message_equals_the_golden_record() -> None:
    assert encode_record(RM_LOGICALMSG_ID, 0, encode_logical_message("prefix", b"message")) == GOLDEN_RECORD


def test_each_record_points_back_to_the_start_of_the_one_before() -> None:
    generated = WalGenerator(PAGE, prev=Lsn(0x1001F00))
    first, second = generated.record(), generated.record()
    assert [record.header.prev for record in (first, second)] == [0x1001F00, first.start]
    assert first.start == PAGE + 24


def test_a_record_up_to_a_page_end_fills_the_page() -> None:
    generated = WalGenerator(PAGE)
    generated.record()
    assert generated.record_up_to(Lsn(PAGE + PAGE_BYTES)).end == PAGE + PAGE_BYTES
    assert generated.record_up_to(Lsn(PAGE + 3 * PAGE_BYTES - 8)).end == generated.lsn == PAGE + 3 * PAGE_BYTES - 8


def test_a_switch_is_followed_by_zeroes_up_to_the_next_segment() -> None:
    generated = WalGenerator(PAGE, wal_seg_size=1 << 20)
    assert generated.switch().end == generated.lsn == 0x1100000
    assert not any(generated.wal[48:])


def test_a_record_counts_from_its_last_byte_on() -> None:
    generated = WalGenerator(Lsn(PAGE + 24))
    record = generated.record(b"x")
    assert record.end == PAGE + 24 + 32
    assert generated.record_end_at(PAGE + 24 + 26) == PAGE + 24
    assert generated.record_end_at(PAGE + 24 + 27) == record.end
