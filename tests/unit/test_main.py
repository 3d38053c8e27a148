"""Where the program begins: what becomes of one that cannot even be loaded."""

import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TextIO

import pytest

import walkeeper
import walkeeper.__main__
from walkeeper.daemon import exits

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = ("-m", "walkeeper")
FETCH = ("fetch", "000000010000000000000003", "there", "--keepers", "127.0.0.1:1", "--system-id", "5")


def run(
    package: Path, *arguments: str, output: int | TextIO = subprocess.PIPE
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments],
        env={"PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=package.parent, stdout=output, stderr=output, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the whole program, to be broken."""
    source = Path(walkeeper.__file__).parent
    return shutil.copytree(source, tmp_path / "walkeeper", ignore=shutil.ignore_patterns("__pycache__", "testing"))


@pytest.mark.parametrize("module", ["errors.py", "daemon/cli.py", "daemon/exits.py"])
@pytest.mark.parametrize("content", [None, "from walkeeper.errors import NoSuchThing\n", "half a li"])
def test_a_restore_command_that_cannot_be_loaded_stops_recovery(
    package: Path, module: str, content: str | None
) -> None:
    (package / module).unlink()
    if content is not None:
        (package / module).write_text(content)
    ended = run(package, *PROGRAM, *FETCH)
    assert ended.returncode == 126
    assert ended.stderr.startswith("walkeeper: ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("limit", [3, 4, 5, 6, 7])
def test_a_restore_command_that_may_open_few_files_stops_recovery(package: Path, limit: int) -> None:
    """Depending on how few, it fails while it is loaded, when it asks, or when it tells why."""
    code = (
        "import resource, sys, walkeeper.__main__\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))\n"
        f"sys.argv = {['walkeeper', *FETCH]}\n"
        "walkeeper.__main__.main()"
    )
    assert run(package, "-c", code).returncode == 126


def test_a_restore_command_that_can_say_nothing_stops_recovery(package: Path) -> None:
    (package / "errors.py").unlink()
    with Path("/dev/full").open("w") as full:
        assert run(package, *PROGRAM, *FETCH, output=full).returncode == 126


@pytest.mark.parametrize("arguments", [(), ("serve",), ("--keepers", "fetch")])
def test_any_other_command_that_cannot_be_loaded_keeps_its_traceback(
    package: Path, arguments: tuple[str, ...]
) -> None:
    (package / "errors.py").unlink()
    ended = run(package, *PROGRAM, *arguments)
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr


def test_a_program_that_is_whole_does_what_it_is_told(package: Path) -> None:
    assert run(package, *PROGRAM, "--version").stdout == f"walkeeper {walkeeper.__version__}\n"
    assert run(package, *PROGRAM, *FETCH[:1], "00000002.history", *FETCH[2:]).returncode == 1


@pytest.mark.parametrize(("pid", "code"), [(1, 128 + signal.SIGTERM), (4711, -signal.SIGTERM)])
def test_number_1_can_be_ended_while_it_is_loaded(package: Path, pid: int, code: int) -> None:
    (package / "daemon" / "cli.py").write_text(
        "import signal\nsignal.raise_signal(signal.SIGTERM)\nsignal.pause()\n"
    )
    begin = f"import os\nos.getpid = lambda: {pid}\nimport walkeeper.__main__\nwalkeeper.__main__.main()"
    assert run(package, "-c", begin).returncode == code


def test_the_installed_program_begins_there_too() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"walkeeper": f"{walkeeper.__main__.__name__}:{walkeeper.__main__.main.__name__}"}
    assert walkeeper.__main__.CANNOT_TELL == exits.CANNOT_TELL
