"""Sizes, as PostgreSQL writes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.errors import Malformed
from walkeeper.formats.sizes import format_size, parse_size, parse_unsigned


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("16MB", 1 << 24),
        ("1GB", 1 << 30),
        ("64kB", 1 << 16),
        ("7B", 7),
        ("8192", 8192),
        (" 16 MB ", 1 << 24),
        ("1TB", 1 << 40),
    ],
)
def test_a_size_is_a_number_and_a_unit_or_bytes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "MB", "16mb", "1.5GB", "-1MB", "16MB!", "\u0661MB", "1" * 13])
def test_what_is_no_size_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        parse_size(text)


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(1 << 24, "16MB"), (1 << 30, "1GB"), (3 << 29, "1536MB"), (8193, "8193B")]
)
def test_a_size_is_printed_in_the_largest_unit_that_fits(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text


@given(st.integers(0, 10**12 - 1), st.sampled_from((0, 10, 20, 30)))
def test_a_size_prints_as_it_is_read(number: int, shift: int) -> None:
    size_bytes = number << shift
    if size_bytes < 10**12 << 30:
        assert parse_size(format_size(size_bytes)) == size_bytes


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("007", 7), ("255", 255)])
def test_a_number_has_digits_and_fits_its_bits(text: str, value: int) -> None:
    assert parse_unsigned(text, 8) == value


@pytest.mark.parametrize("text", ["", "256", "-1", "+1", "1_0", " 1", "\u0661", "1" * 5000])
def test_what_is_no_number_or_too_large_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        parse_unsigned(text, 8)
