"""Logs and answers that cannot be written: a full disk under them, or a reader that has ended."""

import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from fix_keepers import NewKeeper
from programs import ANSWER_SECONDS, END_SECONDS, PROGRAM, Keeper, plain_environment
from replicated import LOOKS_MAX, keepers_flag

COMMAND_SECONDS = 30.0
SYSTEM_ID = ("--system-id", "7")
NO_PRIMARY = "host=127.0.0.1 port=1 user=u"


@contextmanager
def _unwritable(kind: str) -> Iterator[int]:
    """A descriptor that takes nothing: on a full disk, or of a pipe that nobody reads."""
    if kind == "full":
        with Path("/dev/full").open("wb") as full:
            yield full.fileno()
        return
    source, sink = os.pipe()
    os.close(source)
    with open(sink, "wb") as pipe:
        yield pipe.fileno()


@pytest.fixture(params=["full", "unread"])
def unwritable(request: pytest.FixtureRequest) -> Iterator[int]:
    with _unwritable(request.param) as descriptor:
        yield descriptor


@contextmanager
def running(command: Sequence[str], stdout: int) -> "Iterator[subprocess.Popen[bytes]]":
    with subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, env=plain_environment()) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_keeper_whose_log_cannot_be_written_serves_counts_the_lines_and_ends_well(
    new_keeper: NewKeeper, unwritable: int
) -> None:
    keeper = new_keeper()
    with running(keeper.command, unwritable) as process:
        assert any(keeper.ask("/v1/status") or process.poll() for _ in _looks(process))
        url = f"http://{keeper.host}:{keeper.http_port}/metrics"
        with urllib.request.urlopen(url, timeout=ANSWER_SECONDS) as answer:
            lines = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line[0] != "#")
        assert float(lines["walkeeper_log_lines_lost_total"]) > 0
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=END_SECONDS)
    assert (process.returncode, errors) == (0, b"")


def test_a_sidecar_whose_log_cannot_be_written_goes_on_and_ends_well(unwritable: int) -> None:
    command = [PROGRAM, "propose", "--primary", NO_PRIMARY, "--keepers", "127.0.0.1:1"]
    with running(command, unwritable) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2.0)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=END_SECONDS)
    assert (process.returncode, errors) == (0, b"")


@pytest.mark.parametrize(
    "words",
    [("status", *SYSTEM_ID), ("why-blocked", *SYSTEM_ID), ("check",), ("top", "--once")],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize("kind", ["full", "unread"])
def test_an_answer_that_cannot_be_written_is_a_line_and_exit_code_1_and_a_reader_that_left_is_none(
    keepers: list[Keeper], words: tuple[str, ...], kind: str
) -> None:
    asked = keepers_flag(keepers)
    if words[0] == "top":
        asked = [",".join(f"{each.host}:{each.http_port}" for each in keepers)]
    command = [PROGRAM, *words, *asked]
    with _unwritable(kind) as stdout, running(command, stdout) as process:
        _, errors = process.communicate(timeout=COMMAND_SECONDS)
    if kind == "full":
        assert process.returncode == 1
        assert errors == b"walkeeper: the answer cannot be written: No space left on device\n"
    else:
        assert b"cannot be written" not in errors
        assert b"Traceback" not in errors


def _looks(process: "subprocess.Popen[bytes]") -> Iterator[int]:
    for look in range(LOOKS_MAX):
        yield look
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
