"""The command line: one line for a mistake, and an exit code for everything."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

import walkeeper
from walkeeper.daemon import exits
from walkeeper.daemon.cli import COMMANDS, Command, run_command
from walkeeper.daemon.options import option
from walkeeper.daemon.values import parse_text
from walkeeper.errors import ConfigError, Corrupt, DurabilityLost, Malformed, WalkeeperError


@dataclass(frozen=True, slots=True)
class Said:
    word: str = option("word", parse_text, default="nothing", help="what to say")


@dataclass(frozen=True, slots=True)
class OtherOptions:
    color: str = option("color", parse_text, default="red", help="which")


def run(do: Callable[[Said], None], *arguments: str, **environment: str) -> int:
    commands = (Command("say", "says", Said, do), Command("other", "does other things", OtherOptions, print))
    return run_command(["say", *arguments], environment, commands)


def failing(error: BaseException) -> Callable[[Said], None]:
    def do(_config: Said) -> None:
        raise error

    return do


def test_a_command_gets_its_options_and_ends_with_0() -> None:
    heard: list[Said] = []
    assert run(heard.append, "--word", "hello") == 0
    assert heard == [Said(word="hello")]


def test_variables_of_other_commands_are_not_in_the_way() -> None:
    assert run(lambda _: None, WALKEEPER_COLOR="blue") == 0
    assert run(lambda _: None, WALKEEPER_COLOUR="blue") == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (DurabilityLost("x"), 4),
        (Corrupt("x"), 1),
        (Malformed("x"), 1),
        (BaseExceptionGroup("", [ExceptionGroup("", [Corrupt("x")])]), 1),
        (ExceptionGroup("", [Corrupt("y"), DurabilityLost("x"), Malformed("y")]), 4),
    ],
)
def test_a_named_error_is_one_line_and_an_exit_code(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    assert run(failing(error)) == code
    assert capsys.readouterr().err == "walkeeper: x\n"


def test_a_programmers_error_keeps_its_traceback() -> None:
    with pytest.raises(AssertionError):
        run(failing(AssertionError()))
    with pytest.RaisesGroup(AssertionError, WalkeeperError):
        run(failing(ExceptionGroup("", [AssertionError(), WalkeeperError("x")])))


def test_ctrl_c_is_no_traceback() -> None:
    assert run(failing(KeyboardInterrupt())) == 130


@pytest.mark.parametrize(
    "arguments",
    [["serve", "--idd", "1"], ["serve", "--id"], ["serve", "--id", "x"], ["serve", "stray"]],
)
def test_a_usage_error_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run_command(arguments, {}) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("walkeeper: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize("arguments", [[], ["fetsh", "a", "b"], ["--keepers", "k1:5454", "fetch", "a", "b"]])
def test_words_that_begin_with_no_command_end_as_in_a_shell_so_that_a_misspelt_restore_command_stops_recovery(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run_command(arguments, {}) == 127
    captured = capsys.readouterr()
    assert captured.err.startswith("walkeeper: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["fetch"],
        ["fetch", "a", "b"],
        ["fetch", "a", "b", "--nonsense"],
        ["fetch", "--keepers", "a", "b", "c", "d"],
    ],
)
def test_a_usage_error_of_a_restore_command_stops_recovery(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run_command(arguments, {}) == 126
    assert run_command([*arguments, "x"], {"WALKEEPER_NONSENSE": "x"}) == 126
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["000000010000000000000003", "pg_wal/RECOVERYXLOG"],
        ["00000002.history", "pg_wal/RECOVERYHISTORY"],
        ["000000010000000000000003.00000028.backup", "x"],
        ["/archive/000000010000000000000003", "x"],
        ["--nonsense", "000000010000000000000003"],
    ],
)
@pytest.mark.parametrize("command", [each.name for each in COMMANDS if each.name != "fetch"])
def test_a_restore_command_that_names_another_command_stops_recovery(
    capsys: pytest.CaptureFixture[str], command: str, words: list[str]
) -> None:
    assert run_command([command, "--config", "none", *words], {}) == 126
    captured = capsys.readouterr()
    assert captured.err.startswith("walkeeper: ")
    assert "walkeeper fetch %f %p" in captured.err
    assert captured.err.count("\n") == 1


def test_an_error_of_a_restore_command_that_nobody_expected_stops_recovery_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    commands = (Command("say", "says", Said, failing(ZeroDivisionError()), exits.report_to_recovery),)
    assert run_command(["say"], {}, commands) == 126
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_the_version_is_printed(capsys: pytest.CaptureFixture[str], flag: str) -> None:
    with pytest.raises(SystemExit) as left:
        run_command([flag], {})
    assert left.value.code == 0
    assert capsys.readouterr().out == f"walkeeper {walkeeper.__version__}\n"


@pytest.mark.parametrize("command", [each.name for each in COMMANDS])
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as left:
        run_command([command, "--help"], {})
    assert left.value.code == 0
    assert "--config FILE" in capsys.readouterr().out
