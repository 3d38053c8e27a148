"""walkeeper's own programs as processes, for the demo, the integration tests and the benchmarks.

Purpose: start, watch, kill and question a keeper or a sidecar from outside, as an operator would.
Rules: standard library only; everything blocks and nothing waits without a limit (asynchronous callers use
`trio.to_thread.run_sync`); programs get none of the caller's WALKEEPER_* variables; output goes to a file.

Not here: PostgreSQL (see postgres.py), assertions.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PROGRAM = str(Path(sys.executable).with_name("walkeeper"))

READY_SECONDS = 30.0  # a keeper reads the tail of its WAL first
LOOK_SECONDS = 0.05  # how often a starting program is looked at
END_SECONDS = 15.0  # the drain deadline is 3 s by default
ANSWER_SECONDS = 5.0  # one HTTP request on the loopback address


class ProgramFailed(Exception):
    """A program ended, or did not do what it was asked; the text holds the last lines it said."""


@dataclass(slots=True)
class Program:
    """One of walkeeper's programs, running or not.  As a context manager it ends killed."""

    name: str
    command: Sequence[str]
    log_path: Path
    _process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it; whether it does well is another question."""
        assert not self.is_running
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env=plain_environment(), process_group=0,
            )  # fmt: skip

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """Everything it has said."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @property
    def pid(self) -> int:
        """The number of its process."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL: no last words.  One that does not run does not mind."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(END_SECONDS)
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self, seconds: float = END_SECONDS) -> int:
        """Wait for its end, and its exit code."""
        assert self._process is not None
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ProgramFailed(f"{self.name} did not end in {seconds} s\n{self.log[-2000:]}") from None
        self._process = None
        return code

    def pause(self, seconds: float = LOOK_SECONDS) -> None:
        """Wait a moment; raise ProgramFailed if it ended in the meantime."""
        assert self._process is not None
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return
        raise ProgramFailed(f"{self.name} ended with code {code}\n{self.log[-2000:]}")


@dataclass(slots=True)
class Keeper(Program):
    """`walkeeper serve` with a data directory and fixed ports."""

    data: Path
    pg_port: int
    http_port: int
    host: str = "127.0.0.1"

    @classmethod
    def prepare(
        cls, directory: Path, number: int, pg_port: int, http_port: int, *more: str, host: str = "127.0.0.1"
    ) -> Self:
        """Make the directory; nothing runs yet."""
        data = directory / f"keeper{number}"
        data.mkdir(parents=True)
        command = [PROGRAM, "serve", "-D", str(data), "--id", str(number)]
        command += ["--listen-pg", f"{host}:{pg_port}", "--listen-http", f"{host}:{http_port}", *more]
        return cls(f"keeper {number}", command, directory / f"keeper{number}.log", data, pg_port, http_port, host)

    @property
    def address(self) -> str:
        """Where writers connect."""
        return f"{self.host}:{self.pg_port}"

    def wipe(self) -> None:
        """Its disk is lost; an empty one is put in."""
        self.kill()
        shutil.rmtree(self.data)
        self.data.mkdir()

    def wait_ready(self) -> None:
        """Return when it serves."""
        for _ in range(int(READY_SECONDS / LOOK_SECONDS)):
            if self.ask("/v1/status") is not None:
                return
            self.pause()
        raise ProgramFailed(f"{self.name} was not ready after {READY_SECONDS} s\n{self.log[-2000:]}")

    def ask(self, path: str) -> Any:
        """The JSON that its HTTP side answers, or None when it does not answer, or not with 200."""
        url = f"http://{self.host}:{self.http_port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=ANSWER_SECONDS) as answer:
                return json.loads(answer.read())
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    def status(self, path: str) -> int:
        """The HTTP status of its answer; 0 when there is none."""
        try:
            with urllib.request.urlopen(
                f"http://{self.host}:{self.http_port}{path}", timeout=ANSWER_SECONDS
            ) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return 0

    def flush_lsn(self, tenant: str, timeline: str) -> int:
        """How far it has fsynced, as a number; 0 when it cannot say."""
        status = self.ask(f"/v1/tenant/{tenant}/timeline/{timeline}")
        return 0 if status is None else parse_lsn(status["flush_lsn"])

    def has_writer(self, tenant: str, timeline: str) -> bool:
        """Whether a proposer is connected; True when it cannot say."""
        status = self.ask(f"/v1/tenant/{tenant}/timeline/{timeline}")
        return status is None or bool(status["walreceivers"])

    def segments(self, tenant: str, timeline: str) -> list[Path]:
        """Its WAL files in order, the last one perhaps `.partial`."""
        names = (self.data / tenant / timeline).glob("[0-9A-F]" * 24 + "*")
        return sorted(path for path in names if path.suffix in ("", ".partial"))


def run_command(*arguments: str, seconds: float, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run one of walkeeper's commands to its end, however that is."""
    try:
        return subprocess.run(
            [PROGRAM, *arguments], capture_output=True, text=True, check=False, timeout=seconds,
            stdin=subprocess.DEVNULL, env=plain_environment() | environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ProgramFailed(f"walkeeper {' '.join(arguments[:1])} did not end in {seconds} s") from None


def run_tool(*arguments: str, seconds: float) -> str:
    """Run one of walkeeper's commands to its good end; what it printed."""
    done = run_command(*arguments, seconds=seconds)
    if done.returncode != 0:
        raise ProgramFailed(f"walkeeper {arguments[0]} ended with code {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def plain_environment() -> dict[str, str]:
    """Our environment without what would configure walkeeper or a PostgreSQL client."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("WALKEEPER_", "PG"))}


def parse_lsn(text: str) -> int:
    """The number that `0/16B3748` stands for."""
    high, _, low = text.strip().partition("/")
    return (int(high, 16) << 32) | int(low, 16)


def format_lsn(lsn: int) -> str:
    """As PostgreSQL prints it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
