"""Page and record headers, field by field."""

import struct

import pytest

from walkeeper.errors import Malformed
from walkeeper.formats.xlog import RecordScanner, first_record_header, first_segment_headers
from walkeeper.formats.xlog_pages import (
    MAGICS,
    PAGE_BYTES,
    RECORD_BYTES_MAX,
    XLP_FIRST_IS_OVERWRITE_CONTRECORD,
    PageLayout,
    encode_page_header,
    server_of_segment,
)
from walkeeper.lsn import Lsn
from walkeeper.messages import ServerInfo
from walkeeper.testing.wal import WalGenerator

MIB = 1 << 20
SEGMENT = Lsn(16 * MIB)
PAGE = Lsn(SEGMENT + PAGE_BYTES)
LAYOUT = PageLayout.of(15, 16 * MIB)
SERVER = ServerInfo(150003, 7241562384010203040, 16 * MIB)


def header_at(page: Lsn, **fields: int) -> bytearray:
    return bytearray(encode_page_header(LAYOUT, page, tli=1, system_id=7, **fields))


@pytest.mark.parametrize("pg_major", MAGICS)
def test_the_magic_names_the_major_version(pg_major: int) -> None:
    header = encode_page_header(PageLayout.of(pg_major, 16 * MIB), PAGE, tli=1, system_id=7)
    for other in MAGICS:
        layout = PageLayout.of(other, 16 * MIB)
        if other == pg_major:
            assert layout.read_page_header(header, 0, PAGE) == (1, 0, False)
        else:
            with pytest.raises(Malformed, match="xlp_magic"):
                layout.read_page_header(header, 0, PAGE)


@pytest.mark.parametrize(
    ("pg_major", "wal_seg_size"), [(13, 16 * MIB), (19, 16 * MIB), (15, 3 * MIB), (15, 1 << 31)]
)
def test_a_version_or_segment_size_that_cannot_be_kept_is_malformed(pg_major: int, wal_seg_size: int) -> None:
    with pytest.raises(Malformed):
        PageLayout.of(pg_major, wal_seg_size)


def test_the_golden_long_header_is_written() -> None:
    expected = "10d1 0600 01000000 0000000100000000 00000000 00000000 a04fc2ed9e327f64 00000001 00200000"
    written = encode_page_header(LAYOUT, SEGMENT, tli=1, system_id=SERVER.system_id, info=4)
    assert written == bytes.fromhex(expected)


@pytest.mark.parametrize(
    ("offset", "value", "what"),
    [
        (0, b"\x0d\xd1", "xlp_magic"),
        (2, b"\x10\x00", "xlp_info"),
        (2, b"\x02\x00", "xlp_info"),
        (2, b"\x01\x00", "xlp_rem_len"),
        (8, b"\x08", "xlp_pageaddr"),
        (16, b"\x08", "xlp_rem_len"),
    ],
)
def test_a_short_header_with_a_wrong_field_is_malformed(offset: int, value: bytes, what: str) -> None:
    header = header_at(PAGE)
    header[offset : offset + len(value)] = value
    with pytest.raises(Malformed, match=what):
        LAYOUT.read_page_header(bytes(header), 0, PAGE)


@pytest.mark.parametrize(
    ("offset", "value", "what"), [(2, 0, "xlp_info"), (32, 1 << 20, "xlp_seg_size"), (36, 4096, "xlp_xlog_blcksz")]
)
def test_a_long_header_with_a_wrong_field_is_malformed(offset: int, value: int, what: str) -> None:
    header = header_at(SEGMENT)
    struct.pack_into("<H" if offset == 2 else "<I", header, offset, value)
    with pytest.raises(Malformed, match=what):
        LAYOUT.read_page_header(bytes(header), 0, SEGMENT)


def test_a_page_cannot_both_continue_and_overwrite_a_record() -> None:
    header = header_at(PAGE, info=XLP_FIRST_IS_OVERWRITE_CONTRECORD, rem_len=100)
    with pytest.raises(Malformed, match="overwrites"):
        LAYOUT.read_page_header(bytes(header), 0, PAGE)


@pytest.mark.parametrize("total_bytes", [0, 23, RECORD_BYTES_MAX + 1])
def test_a_record_length_that_no_record_has_is_malformed(total_bytes: int) -> None:
    with pytest.raises(Malformed, match="xl_tot_len"):
        PageLayout.of(16, 16 * MIB).check_record_length(PAGE + 24, total_bytes)


def test_records_could_be_longer_before_version_16() -> None:
    PageLayout.of(15, 16 * MIB).check_record_length(PAGE + 24, RECORD_BYTES_MAX + 1)


# -- the head of the first segment --------------------------------------------------------------------------


def test_nothing_belongs_before_a_segment_start() -> None:
    assert first_segment_headers(SEGMENT, server=SERVER, tli=1) == b""


def test_the_first_page_continues_a_record_that_ends_at_the_start() -> None:
    head = first_segment_headers(Lsn(SEGMENT + 0x1D8), server=SERVER, tli=3)
    assert len(head) == 0x1D8
    assert LAYOUT.read_page_header(head, 0, SEGMENT) == (3, 0x1D8 - 40, False)
    assert not any(head[40:])


def test_a_later_page_has_a_header_of_its_own() -> None:
    head = first_segment_headers(Lsn(0x149F0D8), server=SERVER, tli=1)
    page = Lsn(0x149E000)
    assert len(head) == 0x49F0D8
    assert LAYOUT.read_page_header(head, 0, SEGMENT) == (1, 0, False)
    assert LAYOUT.read_page_header(head, page - SEGMENT, page) == (1, 0x10D8 - 24, False)
    assert not any(head[40 : page - SEGMENT]) and not any(head[page - SEGMENT + 24 :])


def test_a_start_just_behind_a_header_continues_nothing() -> None:
    head = first_segment_headers(Lsn(PAGE + 24), server=SERVER, tli=1)
    assert LAYOUT.read_page_header(head, PAGE_BYTES, PAGE) == (1, 0, False)


def test_a_page_start_has_no_header_before_it() -> None:
    head = first_segment_headers(PAGE, server=SERVER, tli=1)
    assert len(head) == PAGE_BYTES
    assert LAYOUT.read_page_header(head, 0, SEGMENT) == (1, 0, False)
    assert not any(head[40:])


@pytest.mark.parametrize("offset", [8, 32, PAGE_BYTES + 16, PAGE_BYTES + 100])
def test_wal_does_not_begin_inside_a_header_or_off_its_alignment(offset: int) -> None:
    with pytest.raises(Malformed):
        first_segment_headers(Lsn(SEGMENT + offset), server=SERVER, tli=1)
    with pytest.raises(Malformed):
        RecordScanner.start(Lsn(SEGMENT + offset), pg_major=15, wal_seg_size=16 * MIB)


# -- the first record header --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "start", [SEGMENT, SEGMENT + 40, PAGE, PAGE + 24, PAGE + 800, PAGE - 8, PAGE - 16, SEGMENT - 8]
)
def test_the_first_record_header_is_found_behind_and_across_page_headers(start: int) -> None:
    generated = WalGenerator(Lsn(start), prev=Lsn(0x1234568))
    record = generated.logical_message("prefix", b"message")
    found = first_record_header(generated.wal, Lsn(start), pg_major=15, wal_seg_size=16 * MIB)
    assert found == record.header
    assert record.header.prev == 0x1234568


@pytest.mark.parametrize("start", [SEGMENT, PAGE + 800, PAGE - 8])
def test_the_first_record_header_asks_for_more_until_it_is_there(start: int) -> None:
    generated = WalGenerator(Lsn(start))
    generated.record()
    answers = [
        first_record_header(generated.wal[:n], Lsn(start), pg_major=15, wal_seg_size=16 * MIB) for n in range(72)
    ]
    assert answers[0] is None and answers[-1] == generated.records[0].header
    assert answers.index(answers[-1]) == len(generated.wal)


def test_where_a_record_is_being_continued_no_record_starts() -> None:
    generated = WalGenerator(PAGE, rem_len=100)
    with pytest.raises(Malformed, match="xlp_rem_len"):
        first_record_header(generated.wal, PAGE, pg_major=15, wal_seg_size=16 * MIB)


def test_zeroes_are_no_record() -> None:
    with pytest.raises(Malformed, match="xl_tot_len"):
        first_record_header(bytes(100), Lsn(PAGE + 24), pg_major=15, wal_seg_size=16 * MIB)


# -- segments that speak for themselves ---------------------------------------------------------------------


@pytest.mark.parametrize("pg_major", MAGICS)
def test_a_segment_says_whose_wal_it_is(pg_major: int) -> None:
    header = encode_page_header(PageLayout.of(pg_major, 16 * MIB), SEGMENT, tli=1, system_id=7)
    assert server_of_segment(header) == ServerInfo(pg_major * 10000, 7, 16 * MIB)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        bytes(40),
        bytes(header_at(SEGMENT)[:39]),
        bytes(header_at(SEGMENT, info=0x10)),
        bytes(header_at(Lsn(SEGMENT + PAGE_BYTES))) + bytes(16),
        b"\xff" * 40,
    ],
)
def test_what_is_no_first_page_says_nothing(header: bytes) -> None:
    with pytest.raises(Malformed):
        server_of_segment(header)
