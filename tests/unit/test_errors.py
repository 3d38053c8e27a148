"""What errors say."""

import pytest

from walkeeper.errors import BadCommand, Malformed, OutOfTurn, ServerError, WalkeeperError

NONSENSE = "\N{ELEPHANT}" * (1 << 20)


@pytest.mark.parametrize(
    "error",
    [
        Malformed(f"no timeline: {NONSENSE!r}"),
        OutOfTurn(f"no message: {NONSENSE!r}"),
        BadCommand(f"option {NONSENSE} has no value in", NONSENSE),
        ServerError("db", "XX000", NONSENSE, NONSENSE),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_peer_that_speaks_nonsense_is_quoted_in_part(error: WalkeeperError) -> None:
    """Its megabyte would be one line of the log, and go back to it."""
    assert 10 < len(str(error)) < 1000


def test_what_is_short_is_quoted_as_a_whole() -> None:
    assert str(Malformed("no timeline: 7")) == "no timeline: 7"
    assert str(ServerError("db", "XX000", "no", "hint")) == "db: no (hint)"
