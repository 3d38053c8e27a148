"""What operators write, as values."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.daemon.values import (
    Address,
    one_of,
    parse_address,
    parse_addresses,
    parse_duration_seconds,
    parse_node_id,
    parse_path,
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


@pytest.mark.parametrize("text", ["", "300", "s", "1.5s", "-1s", "1 fortnight", "5s!", "1h,30m", "s5"])
def test_a_duration_without_a_known_unit_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_duration_seconds(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:5454", Address("127.0.0.1", 5454)),
        ("keeper-0.keepers:5454", Address("keeper-0.keepers", 5454)),
        ("[::1]:5454", Address("::1", 5454)),
        ("[::]:0", Address("::", 0)),
        (" localhost:65535 ", Address("localhost", 65_535)),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(parse_address(text)) == text.strip()


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":5454",
        "5454",
        "host",
        "host:",
        "host:port",
        "host:65536",
        "host:-1",
        "::1:5454",
        "[::1]",
        "[]:1",
        "h:²",
    ],
)
def test_an_address_without_host_or_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_address(text)


@given(st.integers(0, 65_535), st.ip_addresses().map(str))
def test_an_address_prints_as_it_is_read(port: int, host: str) -> None:
    address = Address(host, port)
    assert parse_address(str(address)) == address


def test_a_list_of_addresses_names_each_once() -> None:
    assert parse_addresses("a:1,b:2, c:3") == (Address("a", 1), Address("b", 2), Address("c", 3))
    with pytest.raises(ValueError):
        parse_addresses("a:1,b:2,a:1")


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_node_id, "0"),
        (parse_node_id, "-1"),
        (parse_node_id, "one"),
        (parse_node_id, "²"),
        (parse_node_id, str(2**64)),
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
