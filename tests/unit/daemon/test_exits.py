"""Errors as exit codes, also as PostgreSQL's recovery reads them."""

import pytest

from walkeeper.daemon.exits import CANNOT_TELL, NO_SUCH_FILE, report, report_to_recovery
from walkeeper.errors import ConfigError, DurabilityLost, NotKept, Unreachable


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("x"),
        Unreachable("x", "y"),
        DurabilityLost("x"),
        ExceptionGroup("", [NotKept("x"), Unreachable("x", "y")]),
        MemoryError(),
        BaseExceptionGroup("", [KeyboardInterrupt()]),
    ],
)
def test_whatever_is_not_certain_stops_a_recovery(
    capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    assert report_to_recovery(error) == CANNOT_TELL > 125
    assert capsys.readouterr().err.startswith("walkeeper: ")


def test_a_file_that_certainly_does_not_exist_ends_a_recovery(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_to_recovery(NotKept("x")) == NO_SUCH_FILE
    assert capsys.readouterr().err == "walkeeper: x\n"


def test_for_everybody_else_an_error_without_a_name_is_raised() -> None:
    with pytest.raises(MemoryError):
        report(MemoryError())
    assert report(NotKept("x")) == 1
