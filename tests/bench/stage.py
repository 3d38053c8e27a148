"""Where commits are measured: one PostgreSQL, four keepers, and one standby at a time.

Everybody who is not on turn is stopped; whoever is catches up before anything is measured.  The standby's name goes
into synchronous_standby_names for its turn, and out again before it stops.

Does not say what is measured, nor in which order.
"""

import secrets
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import postgres
import programs

ALONE: Final = "no standby"
RECEIVEWAL: Final = "pg_receivewal"
SIDECAR_1: Final = "1 keeper"
SIDECAR_3: Final = "3 keepers"
CONTENDERS: Final = (ALONE, RECEIVEWAL, SIDECAR_1, SIDECAR_3)

SLOT: Final = "receiver"
STANDBY_SECONDS: Final = 60.0
END_SECONDS: Final = 15.0

SETTINGS: Final[Mapping[str, str]] = {
    "max_slot_wal_keep_size": "8GB",  # the sidecar insists on a limit
    "wal_keep_size": "4GB",  # whoever waits for its turn finds all WAL when it comes
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",  # no checkpoint in anybody's turn
    "autovacuum": "off",
}


class Standby(Protocol):
    """A program that receives WAL."""

    @property
    def log(self) -> str: ...
    def start(self) -> None: ...
    def stop(self) -> object: ...
    def kill(self) -> None: ...
    def pause(self) -> None:
        """Wait a moment; raise ProgramFailed if it has ended."""


@dataclass(slots=True)
class ReceiveWal:
    """`pg_receivewal --synchronous`: it fsyncs whenever something has come, and says so at once."""

    primary: postgres.Cluster
    directory: Path
    _process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        arguments = [*self.primary.client_arguments(), "-D", str(self.directory), "-S", SLOT, "-w", "-n"]
        self._process = self.primary.spawn("pg_receivewal", *arguments, "--synchronous", output=self._log_path)

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(END_SECONDS)
        self._process = None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(END_SECONDS)

    def pause(self) -> None:
        assert self._process is not None
        try:
            code = self._process.wait(programs.LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            return
        raise programs.ProgramFailed(f"pg_receivewal ended with code {code}\n{self.log[-2000:]}")

    @property
    def log(self) -> str:
        return self._log_path.read_text(errors="replace")

    @property
    def _log_path(self) -> Path:
        return self.primary.directory / "receivewal.log"


class Stage:
    """Everything that stays for all rounds; it ends with ``stack``."""

    def __init__(self, scratch: Path, stack: ExitStack) -> None:
        self.primary = stack.enter_context(postgres.Cluster.prepare(scratch / "primary"))
        ports = iter(postgres.free_ports(8))
        self._keepers = [
            stack.enter_context(programs.Keeper.prepare(scratch, number, next(ports), next(ports)))
            for number in (1, 2, 3, 4)
        ]
        self._received = scratch / "received"
        self._standbys: dict[str, tuple[str, Standby]] = {
            RECEIVEWAL: ("pg_receivewal", ReceiveWal(self.primary, self._received)),
            SIDECAR_1: ("walkeeper", self._sidecar(scratch / "sidecar1.log", self._keepers[:1])),
            SIDECAR_3: ("walkeeper", self._sidecar(scratch / "sidecar3.log", self._keepers[1:])),
        }
        for _, standby in self._standbys.values():
            stack.callback(standby.kill)

    def _sidecar(self, log: Path, keepers: Sequence[programs.Keeper]) -> programs.Program:
        """A sidecar with a timeline of its own."""
        command = [programs.PROGRAM, "propose", "--primary", self.primary.conninfo()]
        command += ["--keepers", ",".join(keeper.address for keeper in keepers)]
        command += ["--tenant", secrets.token_hex(16), "--timeline", secrets.token_hex(16)]
        return programs.Program("the sidecar", command, log)

    def set_up(self) -> None:
        """Start what runs all the time.  Raises ProgramFailed, PostgresFailed."""
        for keeper in self._keepers:
            keeper.start()
        self.primary.initdb()
        self.primary.configure(**SETTINGS)
        self.primary.start()
        self.primary.sql("CREATE TABLE bench (filler text)")
        self.primary.sql(f"SELECT pg_create_physical_replication_slot('{SLOT}', true)")
        self._received.mkdir()
        self.primary.account.own(self._received)
        for keeper in self._keepers:
            keeper.wait_ready()

    @contextmanager
    def turn(self, contender: str) -> Iterator[None]:
        """While this lasts ``contender`` is the synchronous standby.  Raises ProgramFailed."""
        if contender == ALONE:
            yield
            return
        name, standby = self._standbys[contender]
        standby.start()
        self._wait(name, standby, "state = 'streaming'")
        self._make_synchronous(name)
        self._wait(name, standby, "sync_state = 'sync'")
        try:
            yield
        finally:
            self._make_synchronous("")
            standby.stop()

    def _make_synchronous(self, name: str) -> None:
        self.primary.sql(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
        self.primary.reload()

    def _wait(self, name: str, standby: Standby, condition: str) -> None:
        query = f"SELECT count(*) FROM pg_stat_replication WHERE application_name = '{name}' AND {condition}"
        for _ in range(int(STANDBY_SECONDS / programs.LOOK_SECONDS)):
            if self.primary.sql(query) == "1":
                return
            standby.pause()
        raise programs.ProgramFailed(f"{name} never came to {condition}\n{standby.log[-2000:]}")
