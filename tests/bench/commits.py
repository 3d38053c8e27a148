"""End to end: what a COMMIT costs a client of PostgreSQL, by what stands behind synchronous_standby_names.

pgbench inserts one row in each transaction; its latency is almost nothing but the commit.  Contenders: no
synchronous standby, one `pg_receivewal --synchronous`, and the sidecar with one keeper and with three.  They take
turns on one server; only the one whose turn it is receives WAL, after it has caught up.

Does not print.
"""

import secrets
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Final

import postgres
import programs

ALONE: Final = "no sync standby"
RECEIVEWAL: Final = "pg_receivewal"
SIDECAR_1: Final = "sidecar, 1 keeper"
SIDECAR_3: Final = "sidecar, 3 keepers"

SIDECAR_NAME: Final = "walkeeper"
STANDBY_SECONDS: Final = 60.0

SCRIPT: Final = "INSERT INTO bench VALUES (repeat('x', 400));\n"

SETTINGS: Final[Mapping[str, str]] = {
    "max_slot_wal_keep_size": "8GB",  # the sidecar insists on a limit
    "wal_keep_size": "4GB",  # whoever waits for its turn finds all WAL when it comes
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",  # no checkpoint in anybody's turn
    "autovacuum": "off",
}


@dataclass(frozen=True, slots=True)
class Latency:
    """Of the transactions of one pgbench run: mean and median in milliseconds, and how many a second."""

    mean_ms: float
    median_ms: float
    per_second: float


@dataclass(frozen=True, slots=True)
class Standings:
    """All rounds with ``clients`` concurrent clients."""

    clients: int
    rounds: Sequence[Mapping[str, Latency]]

    def ratio(self, contender: str, peer: str) -> float:
        """The median over the rounds of how the two mean latencies compare: more is slower."""
        return median(one[contender].mean_ms / one[peer].mean_ms for one in self.rounds)

    def middle(self, contender: str, figure: Callable[[Latency], float]) -> float:
        """The median over the rounds of one figure of one contender."""
        return median(figure(one[contender]) for one in self.rounds)


Standby = Callable[[], Iterator[None]]


class Stage:
    """One PostgreSQL, four keepers, and whoever is to be its standby."""

    def __init__(self, scratch: Path, stack: ExitStack) -> None:
        self.scratch = scratch
        self.primary = stack.enter_context(postgres.Cluster.prepare(scratch / "primary"))
        ports = iter(postgres.free_ports(8))
        self.keepers = [
            stack.enter_context(programs.Keeper.prepare(scratch, number, next(ports), next(ports)))
            for number in (1, 2, 3, 4)
        ]
        self.timelines = {SIDECAR_1: secrets.token_hex(16), SIDECAR_3: secrets.token_hex(16)}
        self.tenant = secrets.token_hex(16)

    def set_up(self) -> None:
        """Everything that stays for all rounds."""
        for keeper in self.keepers:
            keeper.start()
        self.primary.initdb()
        self.primary.configure(**SETTINGS)
        self.primary.start()
        self.primary.sql("CREATE TABLE bench (filler text)")
        (self.primary.directory / "insert.sql").write_text(SCRIPT)
        self._make_receiver()
        for keeper in self.keepers:
            keeper.wait_ready()

    def _make_receiver(self) -> None:
        """A slot and a directory for pg_receivewal."""
        self.primary.sql("SELECT pg_create_physical_replication_slot('receiver', true)")
        received = self.scratch / "received"
        received.mkdir()
        self.primary.account.own(received)

    def pgbench(self, clients: int, seconds: int) -> Latency:
        """One run, as short as it is."""
        prefix = f"c{clients}"
        options = ["-n", "-f", "insert.sql", "-M", "prepared", "-l", f"--log-prefix={prefix}"]
        options += ["-c", str(clients), "-T", str(seconds)]
        self.primary.run("pgbench", *self.primary.client_arguments(), *options, "postgres", seconds=seconds + 60)
        milliseconds: list[float] = []
        for path in self.primary.directory.glob(f"{prefix}.*"):
            milliseconds += [int(line.split()[2]) / 1000 for line in path.read_text().splitlines()]
            path.unlink()
        return Latency(fmean(milliseconds), median(milliseconds), len(milliseconds) / seconds)

    @contextmanager
    def standby(self, contender: str) -> Iterator[None]:
        """``contender`` is the synchronous standby while this lasts, and has caught up when it begins."""
        if contender == ALONE:
            yield
        elif contender == RECEIVEWAL:
            with self._receivewal() as process:
                with self._synchronous(RECEIVEWAL, process.poll):
                    yield
        else:
            with self._sidecar(contender) as sidecar:
                with self._synchronous(SIDECAR_NAME, lambda: None if sidecar.is_running else 1):
                    yield

    @contextmanager
    def _receivewal(self) -> Iterator["subprocess.Popen[bytes]"]:
        arguments = [*self.primary.client_arguments(), "-D", str(self.scratch / "received"), "-S", "receiver"]
        log = self.primary.directory / "receivewal.log"
        process = self.primary.spawn("pg_receivewal", *arguments, "--synchronous", "-w", output=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()
