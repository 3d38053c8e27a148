"""Where keepers are."""

import pytest

from walkeeper.links.address import Address
from walkeeper.links.keeper import parse_keepers


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
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_keepers(text)


def test_an_address_prints_as_it_is_written() -> None:
    assert [str(each) for each in parse_keepers("a:1,[::1]:2")] == ["a:1", "[::1]:2"]
