"""What operators write, as values."""

import math
from collections.abc import Callable

import pytest

from walkeeper.daemon.values import (
    one_of,
    parse_duration_seconds,
    parse_limit_seconds,
    parse_node_id,
    parse_path,
    parse_ratio,
    parse_size_bytes,
    parse_switch,
    parse_text,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("300s", 300.0),
        ("5000ms", 5.0),
        ("5000 ms", 5.0),
        ("1h 30m", 5400.0),
        ("1h30min", 5400.0),
        ("2days", 172_800.0),
        ("1w", 604_800.0),
        ("1M", 30.44 * 86_400),
        ("1m", 60.0),
        ("1year", 365.25 * 86_400),
        ("250us", 0.00025),
        ("7 ns", 7e-9),
        ("0s", 0.0),
    ],
)
def test_a_duration_is_numbers_with_units(text: str, seconds: float) -> None:
    assert parse_duration_seconds(text) == pytest.approx(seconds)


def test_a_limit_of_nothing_is_none_as_in_postgresql() -> None:
    assert parse_limit_seconds("0s") == parse_limit_seconds("0 h 0min") == math.inf
    assert parse_limit_seconds("1ms") == pytest.approx(0.001)


@pytest.mark.parametrize("text", ["", "300", "s", "1.5s", "-1s", "1 fortnight", "5s!", "1h,30m", "s5"])
def test_a_duration_without_a_known_unit_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_duration_seconds(text)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_node_id, "0"),
        (parse_node_id, "-1"),
        (parse_node_id, "one"),
        (parse_node_id, "²"),
        (parse_node_id, str(2**64)),
        (parse_node_id, "1" * 5000),
        (parse_size_bytes, "16 megabytes"),
        (parse_switch, "yes"),
        (parse_switch, "True"),
        (parse_switch, ""),
        (parse_text, ""),
        (parse_path, ""),
        (one_of(("plain", "json")), "xml"),
    ],
)
def test_what_is_no_value_of_its_kind_is_refused(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


def test_a_node_id_has_64_bits() -> None:
    assert parse_node_id(str(2**64 - 1)) == 2**64 - 1


@pytest.mark.parametrize(("text", "ratio"), [("0", 0.0), ("0.95", 0.95), ("1.0", 1.0)])
def test_a_ratio_is_a_part_of_the_whole(text: str, ratio: float) -> None:
    assert parse_ratio(text) == ratio


@pytest.mark.parametrize("text", ["", "95%", "1.01", "-0.1", "nan", "inf"])
def test_a_ratio_beyond_the_whole_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_ratio(text)
