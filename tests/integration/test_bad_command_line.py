"""A user's mistake: exit code 2 (127 without a command), one line that says what is wrong, and nothing done."""

import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from programs import PROGRAM, Keeper, plain_environment
from walkeeper.storage.data_directory import ID_FILE, LOCK_FILE

ENDS_SECONDS = 30.0

PR_CAPBSET_DROP = 24
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2


@dataclass(frozen=True, slots=True)
class Said:
    """How a program ended."""

    code: int
    output: str
    errors: str


def walkeeper(*arguments: str, **environment: str) -> Said:
    """Run a command that is expected to end by itself."""
    done = subprocess.run(
        [PROGRAM, *arguments], env=plain_environment() | environment, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, check=False, timeout=ENDS_SECONDS, preexec_fn=obey_file_modes,
    )  # fmt: skip
    return Said(done.returncode, done.stdout, done.stderr)


def obey_file_modes() -> None:
    """As root: become a root that may not read what its mode forbids, as other users may not."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        libc.prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)
        libc.prctl(PR_CAPBSET_DROP, CAP_DAC_READ_SEARCH, 0, 0, 0)


def assert_one_line(said: Said, *parts: str, code: int = 2) -> None:
    """That exit code, and one line that names what is wrong."""
    assert said.code == code
    (line,) = said.errors.splitlines()
    assert line.startswith("walkeeper: ")
    assert all(part in line for part in parts), line
    assert "Traceback" not in said.output + said.errors


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An empty data directory."""
    path = tmp_path / "data"
    path.mkdir()
    return path


WRONG_WORDS: dict[str, tuple[Sequence[str], str]] = {
    "an unknown flag": (("serve", "--listen-pgsql", "x:1"), "--listen-pgsql"),
    "an abbreviated flag": (("serve", "--data", "/tmp"), "--data"),
    "a flag without its value": (("serve", "--id"), "--id"),
    "a stray word": (("serve", "here"), "here"),
    "an id that is no number": (("serve", "--id", "one"), "--id"),
    "the id zero": (("serve", "--id", "0"), "--id"),
    "an address without a port": (("serve", "--listen-pg", "localhost"), "--listen-pg"),
    "a port that is too high": (("serve", "--listen-http", "127.0.0.1:65536"), "--listen-http"),
    "a duration without a unit": (
        ("serve", "--control-file-save-interval", "300"),
        "--control-file-save-interval",
    ),
    "an unknown log format": (("serve", "--log-format", "xml"), "--log-format"),
    "a TOML file that is missing": (("serve", "--config", "/nonexistent/keeper.toml"), "/nonexistent/keeper.toml"),
    "a control file that is missing": (("serve", "--dump-control-file", "/nonexistent/file"), "/nonexistent/file"),
    "a control file that is none": (("serve", "--dump-control-file", "/dev/null"), "/dev/null"),
    "a data directory that is missing": (("serve", "--id", "1", "-D", "/nonexistent/data"), "/nonexistent/data"),
    "a data directory that is a file": (("serve", "--id", "1", "-D", "/dev/null"), "/dev/null"),
    "a data directory of another program": (("serve", "--id", "1", "-D", "/proc"), "/proc"),
    "a directory to inspect that is missing": (("inspect", "-D", "/nonexistent/data"), "/nonexistent/data"),
    "a directory to inspect that is no keeper's": (("inspect", "-D", "/proc"), "/proc"),
    "a timeline to inspect that is none": (("inspect", "-D", "/proc", "--timeline", "1"), "--timeline"),
}


@pytest.mark.parametrize(("arguments", "named"), WRONG_WORDS.values(), ids=WRONG_WORDS)
def test_wrong_words_are_answered_in_one_line(arguments: Sequence[str], named: str) -> None:
    assert_one_line(walkeeper(*arguments), named)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((), "COMMAND"), (("fetsh", "000000010000000000000001", "there"), "fetsh")],
    ids=["no command", "an unknown command"],
)
def test_words_that_begin_with_no_command_end_as_in_a_shell(arguments: Sequence[str], named: str) -> None:
    assert_one_line(walkeeper(*arguments), named, code=127)


def test_an_unknown_variable_is_named() -> None:
    assert_one_line(
        walkeeper("serve", WALKEEPER_LISTENPG="127.0.0.1:0"), "WALKEEPER_LISTENPG", "WALKEEPER_LISTEN_PG"
    )


@pytest.mark.parametrize("content", ['listen_pg = "127.0.0.1:0"', "id = [1]", "id = ", "\xff"], ids=repr)
def test_a_toml_file_that_is_wrong_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "keeper.toml").write_bytes(content.encode("latin-1"))
    assert_one_line(walkeeper("serve", "--config", str(tmp_path / "keeper.toml")), "keeper.toml")


# ------------------------------------------------------------------------------------------- data directories


def test_a_new_data_directory_needs_an_id_and_stays_empty_without(data: Path) -> None:
    assert_one_line(walkeeper("serve", "-D", str(data)), str(data))
    assert not (data / ID_FILE).exists()


def test_a_data_directory_keeps_its_id(data: Path) -> None:
    assert walkeeper("serve", "-D", str(data), "--id", "1", "--init").code == 0
    assert_one_line(walkeeper("serve", "-D", str(data), "--id", "2", "--init"), "keeper 1", "keeper 2")
    assert (data / ID_FILE).read_text() == "1"


@pytest.mark.parametrize("content", ["", "0", "1\n"], ids=repr)
def test_an_id_file_with_something_else_in_it_is_named(content: str, data: Path) -> None:
    (data / ID_FILE).write_text(content)
    assert_one_line(walkeeper("serve", "-D", str(data), "--id", "1", "--init"), str(data / ID_FILE))
    assert (data / ID_FILE).read_text() == content


def test_a_foreign_directory_is_left_as_it_is(data: Path) -> None:
    (data / "PG_VERSION").write_text("15\n")
    assert_one_line(walkeeper("serve", "-D", str(data), "--id", "1"), str(data), "PG_VERSION")
    assert [path.name for path in data.iterdir()] == ["PG_VERSION"]


@pytest.mark.parametrize("mode", [0o000, 0o500], ids=["unreadable", "read-only"])
def test_a_directory_that_may_not_be_used_is_named(mode: int, data: Path) -> None:
    data.chmod(mode)
    said = walkeeper("serve", "-D", str(data), "--id", "1")
    data.chmod(0o700)
    assert_one_line(said, str(data), "Permission denied")


def test_files_that_may_not_be_read_are_found_by_an_inspection_and_named(data: Path) -> None:
    timeline = data / ("a" * 32) / ("b" * 32)
    timeline.mkdir(parents=True)
    names = ["safekeeper.control", "000000010000000000000001"]
    for name in names:
        (timeline / name).touch(mode=0o000)
    said = walkeeper("inspect", "-D", str(data))
    assert said.code == 1
    for name in names:
        assert f"problem: {name}: " in said.output
    assert "Permission denied" in said.output
    assert "Traceback" not in said.errors


def test_a_second_keeper_on_the_same_directory_is_refused_and_the_first_serves_on(keeper: Keeper) -> None:
    said = walkeeper("serve", "-D", str(keeper.data), "--listen-pg", "127.0.0.1:0", "--listen-http", "127.0.0.1:0")
    assert_one_line(said, str(keeper.data), str(keeper.pid))
    assert keeper.ask("/v1/status") == {"id": 1}
    assert (keeper.data / LOCK_FILE).read_text() == str(keeper.pid)


def test_a_killed_keeper_leaves_no_lock_behind(keeper: Keeper) -> None:
    keeper.kill()
    keeper.start()
    keeper.wait_ready()
    assert (keeper.data / LOCK_FILE).read_text() == str(keeper.pid)


# ------------------------------------------------------------------------------------------------------ ports


@pytest.fixture
def busy_port() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


@pytest.mark.parametrize("flag", ["--listen-pg", "--listen-http"])
def test_a_busy_port_is_named(flag: str, busy_port: int, data: Path) -> None:
    flags = {"--listen-pg": "127.0.0.1:0", "--listen-http": "127.0.0.1:0", flag: f"127.0.0.1:{busy_port}"}
    said = walkeeper("serve", "-D", str(data), "--id", "1", *(word for pair in flags.items() for word in pair))
    assert_one_line(said, flag, str(busy_port), "Address already in use")


def test_a_busy_port_of_a_sidecar_is_named(busy_port: int) -> None:
    said = walkeeper("propose", "--keepers", "k1", "--listen-http", f"127.0.0.1:{busy_port}")
    assert_one_line(said, "--listen-http", str(busy_port), "Address already in use")


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", "a" * 300])
def test_a_host_that_is_not_ours_is_named(host: str, data: Path) -> None:
    said = walkeeper("serve", "-D", str(data), "--id", "1", "--listen-pg", f"{host}:5454")
    assert_one_line(said, "--listen-pg", host)
