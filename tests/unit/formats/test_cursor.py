"""The cursor stays within its bytes and says what it was reading."""

import pytest

from walkeeper.errors import Malformed
from walkeeper.formats.cursor import Reader, Writer


def test_a_field_beyond_the_end_is_malformed() -> None:
    reader = Reader(b"\1\2\3", "greeting")
    assert reader.u16() == 0x0102
    with pytest.raises(Malformed, match="greeting"):
        reader.u16()


def test_a_negative_length_is_malformed() -> None:
    with pytest.raises(Malformed):
        Reader(b"abc", "row").take(-1)


def test_both_byte_orders_are_read_and_written() -> None:
    for order, raw in (("big", b"\0\0\0\5"), ("little", b"\5\0\0\0")):
        assert Reader(raw, "number", order).u32() == 5  # type: ignore[arg-type]
        assert bytes(Writer(order).u32(5)) == raw  # type: ignore[arg-type]


def test_signed_numbers_keep_their_sign() -> None:
    raw = bytes(Writer().i16(-2).i32(-3).i64(-4))
    reader = Reader(raw, "numbers")
    assert (reader.i16(), reader.i32(), reader.i64()) == (-2, -3, -4)


def test_a_field_of_no_bytes_is_zero() -> None:
    assert Reader(b"", "generation").unsigned(0) == 0
    assert bytes(Writer().unsigned(0, 0)) == b""


def test_slices_are_views_of_the_given_buffer() -> None:
    buffer = bytearray(b"head-tail")
    reader = Reader(memoryview(buffer), "wal")
    reader.take(5)
    rest = reader.rest()
    buffer[5:9] = b"TAIL"
    assert bytes(rest) == b"TAIL"


def test_strings_end_at_their_nul() -> None:
    reader = Reader(b"one\0\0two\0", "names")
    assert [reader.cstring() for _ in range(3)] == ["one", "", "two"]
    reader.finish()


@pytest.mark.parametrize("raw", [b"no end", b"", b"\xff\0"])
def test_a_string_without_end_or_sense_is_malformed(raw: bytes) -> None:
    with pytest.raises(Malformed):
        Reader(raw, "name").cstring()


def test_a_text_for_people_is_read_whatever_its_encoding() -> None:
    assert Reader(b"\xff!\0", "text").cstring(errors="replace") == "\N{REPLACEMENT CHARACTER}!"


def test_a_flag_is_zero_or_one() -> None:
    assert Reader(b"\1", "flag").flag() is True
    assert Reader(bytes(8), "flag").flag(8) is False
    with pytest.raises(Malformed):
        Reader(b"\2", "flag").flag()


def test_bytes_left_over_are_malformed() -> None:
    reader = Reader(b"\1\2", "byte")
    reader.u8()
    with pytest.raises(Malformed):
        reader.finish()
