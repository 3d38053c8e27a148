"""Segment arithmetic and names."""

import pytest

from walkeeper.formats.segments import (
    is_legal_segment_size,
    next_segment_start,
    parse_segment_name,
    segment_name,
    segment_number,
    segment_offset,
    segment_start,
)

MIB = 1 << 20


def test_powers_of_two_from_one_mebibyte_to_one_gibibyte_are_legal_sizes() -> None:
    assert [size for size in range(1 << 19, 1 << 22, 1 << 19) if is_legal_segment_size(size)] == [MIB, 2 * MIB]
    assert is_legal_segment_size(1 << 30)
    assert not is_legal_segment_size(1 << 31)
    assert not is_legal_segment_size(0)


def test_an_lsn_has_a_segment_and_an_offset_in_it() -> None:
    lsn = 0x1_23ABCDEF
    assert segment_number(lsn, 16 * MIB) == 0x123
    assert segment_offset(lsn, 16 * MIB) == 0xABCDEF
    assert segment_start(lsn, 16 * MIB) == 0x1_23000000


def test_the_next_segment_start_of_a_segment_start_is_itself() -> None:
    assert next_segment_start(3 * MIB, MIB) == 3 * MIB
    assert next_segment_start(3 * MIB + 1, MIB) == 4 * MIB


@pytest.mark.parametrize(
    ("segno", "size", "name"),
    [
        (0x123, 16 * MIB, "000000010000000100000023"),
        (0x123, MIB, "000000010000000000000123"),
        (0x1FFF, MIB, "000000010000000100000FFF"),
        (7, 1 << 30, "000000010000000100000003"),
    ],
)
def test_a_segment_name_holds_the_number_in_two_halves_of_an_lsn(segno: int, size: int, name: str) -> None:
    assert segment_name(1, segno, size) == name
    assert parse_segment_name(name, size) == (1, segno, False)


def test_a_segment_being_written_has_the_suffix_partial() -> None:
    name = segment_name(0xA, 2, 16 * MIB) + ".partial"
    assert name == "0000000A0000000000000002.partial"
    assert parse_segment_name(name, 16 * MIB) == (0xA, 2, True)


def test_a_name_in_lower_case_is_a_segment() -> None:
    assert parse_segment_name("0000000a00000000000000fe", 16 * MIB) == (0xA, 0xFE, False)


@pytest.mark.parametrize(
    "name",
    [
        "safekeeper.control",
        "00000001000000000000001",
        "0000000100000000000000010",
        "00000001000000000000000G",
        "000000010000000000000001.tmp",
        "000000010000000000000001.partial.partial",
        "000000010000000000000001\n",
        "000000010000000000000100",
    ],
)
def test_other_names_are_no_segments_of_sixteen_mebibytes(name: str) -> None:
    assert parse_segment_name(name, 16 * MIB) is None
