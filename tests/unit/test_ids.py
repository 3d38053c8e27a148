"""Ids: 16 bytes, 32 hexadecimal digits."""

import pytest

from walkeeper.ids import TenantId, TenantTimelineId, TimelineId

DIGITS = "00112233445566778899aabbccddeeff"


def test_an_id_prints_in_lower_case_and_is_read_in_either() -> None:
    assert str(TenantId.parse(DIGITS.upper())) == DIGITS


@pytest.mark.parametrize("text", ["", DIGITS[:-1], DIGITS + "0", DIGITS[:-1] + "g", " " + DIGITS[1:]])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        TimelineId.parse(text)


def test_an_id_of_another_length_cannot_be_made() -> None:
    with pytest.raises(ValueError):
        TenantId(b"short")


def test_only_zeros_is_no_id() -> None:
    assert not TenantId(bytes(16))
    assert TenantId.parse(DIGITS)


def test_a_tenant_is_not_a_timeline() -> None:
    ids: set[object] = {TenantId.parse(DIGITS), TimelineId.parse(DIGITS)}
    assert len(ids) == 2


def test_the_full_name_has_a_slash() -> None:
    name = TenantTimelineId(TenantId.parse(DIGITS), TimelineId(bytes(16)))
    assert str(name) == f"{DIGITS}/{'0' * 32}"
