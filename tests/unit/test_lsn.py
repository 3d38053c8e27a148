"""LSNs: what PostgreSQL prints is read back, and nothing else is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.lsn import Lsn, format_lsn, parse_lsn

LSNS = st.integers(0, 2**64 - 1)


@given(LSNS)
def test_what_is_printed_is_read_back(lsn: int) -> None:
    assert parse_lsn(format_lsn(lsn)) == lsn


def test_it_prints_as_postgresql_does() -> None:
    assert format_lsn(0x149FD18) == "0/149FD18"
    assert format_lsn(0x1_0000_00AB) == "1/AB"
    assert format_lsn(0) == "0/0"


def test_blanks_and_either_case_are_read() -> None:
    assert parse_lsn(" 0/16b3748 ") == Lsn(0x16B3748)


@pytest.mark.parametrize(
    "text", ["", "0", "/", "0/", "0/1/2", "0/123456789", "0x1/2", "-1/0", "0/+1", "0/1_0", "0/٣"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_lsn(text)
