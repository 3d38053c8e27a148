"""End to end: what a COMMIT costs a client of PostgreSQL, by who is the synchronous standby.

pgbench inserts one row in each transaction, so that its latency is almost nothing but the commit.  All contenders
take turns on one server, several rounds, in an order that rotates; ratios are of one round.

Does not print.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Final

import postgres
from bench.stage import CONTENDERS, Stage

CLIENTS: Final = (1, 16)

SCRIPT: Final = "INSERT INTO bench VALUES (repeat('x', 400));\n"
"""About 500 bytes of WAL with the commit record."""

START_SECONDS: Final = 30.0
"""What pgbench may take beyond the time it was given."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Of the transactions of one pgbench run: mean and median in milliseconds, and how many there were a second."""

    mean_ms: float
    median_ms: float
    per_second: float


@dataclass(frozen=True, slots=True)
class Standings:
    """All rounds with ``clients`` concurrent clients: a latency of each contender in each round."""

    clients: int
    rounds: Sequence[Mapping[str, Latency]]

    def ratio(self, contender: str, peer: str, figure: Callable[[Latency], float]) -> float:
        """The median over the rounds of how one figure of the two compares."""
        return median(figure(one[contender]) / figure(one[peer]) for one in self.rounds)

    def middle(self, contender: str, figure: Callable[[Latency], float]) -> float:
        """The median over the rounds of one figure of one contender."""
        return median(figure(one[contender]) for one in self.rounds)


def measure_commits(scratch: Path, *, rounds: int, seconds: int) -> Sequence[Standings]:
    """Run everybody.  Raises PostgresNotFound, PostgresFailed, ProgramFailed."""
    with ExitStack() as stack:
        stage = Stage(scratch, stack)
        stage.set_up()
        (stage.primary.directory / "insert.sql").write_text(SCRIPT)
        played = [play(stage, number, seconds) for number in range(rounds)]
    return [
        Standings(clients, [{name: one[name, clients] for name in CONTENDERS} for one in played])
        for clients in CLIENTS
    ]


def play(stage: Stage, number: int, seconds: int) -> Mapping[tuple[str, int], Latency]:
    """One round; who begins changes."""
    first = number % len(CONTENDERS)
    latencies: dict[tuple[str, int], Latency] = {}
    for contender in (*CONTENDERS[first:], *CONTENDERS[:first]):
        with stage.turn(contender):
            for clients in CLIENTS:
                latencies[contender, clients] = run_pgbench(stage.primary, clients, seconds)
    return latencies


def run_pgbench(primary: postgres.Cluster, clients: int, seconds: int) -> Latency:
    """One run; its log, a line for each transaction, holds the latencies in microseconds."""
    options = ["-n", "-f", "insert.sql", "-M", "prepared", "-c", str(clients), "-T", str(seconds), "-l"]
    arguments = [*primary.client_arguments(), *options, "--log-prefix=latencies", "postgres"]
    primary.run("pgbench", *arguments, seconds=seconds + START_SECONDS)
    milliseconds: list[float] = []
    for path in primary.directory.glob("latencies.*"):
        milliseconds += [int(line.split()[2]) / 1000 for line in path.read_text().splitlines()]
        path.unlink()
    return Latency(fmean(milliseconds), median(milliseconds), len(milliseconds) / seconds)
