"""Where somebody listens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.links.address import Address, HttpAddress, parse_address, parse_http_keepers, parse_keepers


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
        "[::1]5454",
        "[::1",
        "a b:1",
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


@pytest.mark.parametrize("text", ["keeper", "[::1]"])
def test_a_port_may_be_left_out_if_there_is_a_default(text: str) -> None:
    assert parse_address(text, 5454) == parse_address(f"{text}:5454")


@pytest.mark.parametrize("text", ["", ":", "keeper:", "keeper:x", "[::1]5454", "::1"])
def test_a_default_port_excuses_nothing_else(text: str) -> None:
    with pytest.raises(ValueError):
        parse_address(text, 5454)


def test_keepers_are_listed_with_commas_and_have_a_default_port() -> None:
    assert parse_keepers("a:5455, b,[::1]:5456,[2001:db8::1]") == (
        Address("a", 5455),
        Address("b", 5454),
        Address("::1", 5456),
        Address("2001:db8::1", 5454),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a,",
        "a:0",
        "a:65536",
        "a:port",
        ":5454",
        "[::1",
        "[::1]5454",
        "::1",
        "a:1,b:1,a:1",
        ",".join(f"k{n}" for n in range(32)),
    ],
)
def test_what_is_no_list_of_keepers_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_keepers(text)


def test_keepers_print_as_they_are_written() -> None:
    assert [str(each) for each in parse_keepers("a:1,[::1]:2")] == ["a:1", "[::1]:2"]


def test_http_ports_of_keepers_may_be_encrypted_and_have_default_ports() -> None:
    found = parse_http_keepers("a, https://b,https://[::1]:1,c:2")
    assert found == (
        HttpAddress("a", 7676),
        HttpAddress("b", 7677, is_encrypted=True),
        HttpAddress("::1", 1, is_encrypted=True),
        HttpAddress("c", 2),
    )
    assert [str(each) for each in found] == ["a:7676", "https://b:7677", "https://[::1]:1", "c:2"]
    for text in ("http://a", "https://", "https://a/", "a,a", "https://a:0"):
        with pytest.raises(ValueError):
            parse_http_keepers(text)
