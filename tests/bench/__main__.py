"""Run the benchmarks: `python3 noxfile.py -s bench`; after `--` come options (`--help` lists them).

One run, everything side by side, in five minutes or six.  The figures to look at are ratios: of one round, the median
over several rounds in which everybody takes turns.  Absolute figures are for orientation; they say as much about the
machine and its other tenants as about us, and within a fifth two figures are the same.

**Pushing WAL** (workloads.py).  ``sync1``, ``sync16``, ``sync100``: that many writers, each with its own timeline,
one append of about 550 bytes outstanding each: how fast small commits are.  ``pipe1``: the same appends, one writer
that waits for nothing: how well appends share syncs.  ``bulk``: appends of 128 KiB likewise: catching up.
- *keeper / blocking*: our keeper against a server that blocks in a thread for each connection and checks nothing
  (blocking_server.py).  Below 1 is what consensus, record scanning, and one event loop cost; above 1 is where threads
  get into each other's way.  ``aim`` is what we hold ourselves to.
- *keeper / disk*: against writing and syncing the same WAL without any network (disk_limit.py).  For pipelined WAL
  the disk syncs each MiB, and a server that gathers more for a sync may be above 1.
- *p50/p99*: what a writer waits for an append.  With 16 and 100 writers that is mostly waiting for each other.
- *CPU*: what the server's process uses for each append, in all its threads, kernel included.
Load generator, server and disk share the machine's cores; a network, which would hide most differences, is not there.

**Committing** (commits.py).  The latency of a one-row transaction of pgbench, with 1 and with 16 clients, by who is
PostgreSQL's synchronous standby: nobody, one `pg_receivewal --synchronous`, the sidecar with one keeper, and with three
of which two must have it.  Ratios compare mean latencies; more is slower.  All keepers, the sidecar, PostgreSQL and
pgbench run on one machine and sync to one disk here: three keepers cost more than they would on three machines, and
the network between machines is missing.

**Serving WAL** (serving.py).  `pg_receivewal` reads from a keeper and from the primary's own walsender: one reader
that catches up 1 GiB; one, and ten, that have everything and follow what the primary writes as fast as it can.
- *keeper / walsender*: throughputs, of all readers together, until they and the keeper have everything.  A keeper
  gets WAL through the sidecar and its own disk, whoever serves it: that is in both turns, and only the server differs.
  `pg_receivewal` writes files, which takes its share of the machine everywhere.
- *readers alone*: the same until the readers have everything.  A walsender takes it from the primary's buffers and need
  not wait for a keeper to have it; one live stream says more about that than about serving.
- *CPU*: what serving a GB takes, the kernel's part included; less is better.  The rest of PostgreSQL is not in it, nor
  what the keeper needs to receive, which is measured while the walsender serves.
- *subtracted*: that part of the keeper's.  Where it is larger than what is left, as with one live stream, what is
  left says nothing, and may even be negative.  Catching up, where nothing is subtracted, is what to look at.
It takes eight GB of disk for its time.

**Scraping** (scraping.py).  A keeper of a thousand timelines is scraped, which should take less than a second, while
writers append as in ``sync16``.
- *p99 scraped / alone*: what that does to those who commit, of one round; 1 is nothing.

What cannot be run says so, and the exit code is 1 then.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import postgres
import programs
from bench.commits import measure_commits
from bench.load import ServerFailed, run_load
from bench.machine import describe
from bench.report import commits_table, figures_table, ratios_table, scraping_table, serving_table
from bench.scraping import measure_scraping
from bench.servers import MeasuredKeeper
from bench.serving import measure_serving
from bench.side_by_side import compare, in_child
from bench.workloads import WORKLOADS, Frames, bulk_frames, small_frames

WORKLOAD_NAMES: Final = tuple(workload.name for workload in WORKLOADS)
COMMITS: Final = "commits"
SERVING: Final = "serving"
SCRAPING: Final = "scraping"
NAMES: Final = (*WORKLOAD_NAMES, COMMITS, SERVING, SCRAPING)

FAILURES: Final = (
    ServerFailed, programs.ProgramFailed, postgres.PostgresFailed, postgres.PostgresNotFound,
    subprocess.TimeoutExpired,  # pgbench, when its standby is gone
)  # fmt: skip

_started = time.monotonic()


@dataclass(frozen=True, slots=True)
class Options:
    """What to run, and for how long."""

    only: Sequence[str]
    rounds: int
    seconds: float
    commit_rounds: int
    commit_seconds: int
    serving_rounds: int
    scraping_rounds: int
    directory: Path | None
    profile: str | None


def parse_arguments() -> Options:
    parser = argparse.ArgumentParser(prog="bench", description="Our keeper and sidecar beside their peers.")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--rounds", type=int, default=5, help="of each workload (5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run that is not pipelined (1.0)")
    parser.add_argument("--commit-rounds", type=int, default=4, help="of the commits (4)")
    parser.add_argument("--commit-seconds", type=int, default=3, help="of each pgbench run (3)")
    parser.add_argument("--serving-rounds", type=int, default=3, help="of each way of serving (3)")
    parser.add_argument("--scraping-rounds", type=int, default=3, help="with and without scrapes (3)")
    parser.add_argument("--directory", type=Path, help="on the disk to measure (the temporary directory)")
    parser.add_argument(
        "--profile", choices=WORKLOAD_NAMES, metavar="NAME", help="only explain where a keeper's time goes"
    )
    return Options(**vars(parser.parse_args()))


@contextmanager
def workspace_in(directory: Path) -> Iterator[Path]:
    """A throw-away directory that other accounts can pass through, if ``directory`` lets them."""
    with tempfile.TemporaryDirectory(prefix="wk-", dir=directory) as path:
        Path(path).chmod(0o755)
        yield Path(path)


def say(text: str) -> None:
    print(f"{time.monotonic() - _started:6.1f} s  {text}", flush=True)


class AllFrames:
    """Frames by workload, made when first asked for."""

    def __init__(self) -> None:
        self._made: dict[bool, Frames] = {}

    def of(self, is_bulk: bool) -> Frames:
        if is_bulk not in self._made:
            say(f"making {'bulk' if is_bulk else 'small'} appends")
            self._made[is_bulk] = bulk_frames() if is_bulk else small_frames()
        return self._made[is_bulk]


def run_micro(options: Options, scratch: Path) -> None:
    """All workloads that were asked for; prints the table of those that could be run."""
    frames, results = AllFrames(), []
    try:
        for workload in WORKLOADS:
            if workload.name in options.only:
                appends = frames.of(workload.is_bulk)
                say(workload.name)
                results.append(
                    compare(workload, appends, rounds=options.rounds, seconds=options.seconds, scratch=scratch)
                )
    finally:
        if results:
            print(f"\nPushing WAL, medians of {options.rounds} rounds\n\n{ratios_table(results)}\n")
            print(f"For orientation\n\n{figures_table(results)}\n", flush=True)


def run_commits(options: Options, scratch: Path) -> None:
    """The end-to-end part; prints its table."""
    say(COMMITS)
    standings = measure_commits(scratch, rounds=options.commit_rounds, seconds=options.commit_seconds)
    print(f"\nCommitting, medians of {options.commit_rounds} rounds\n\n{commits_table(standings)}\n", flush=True)


def run_serving(options: Options, scratch: Path) -> None:
    """WAL to readers; prints its table."""
    say(SERVING)
    contests = measure_serving(scratch, rounds=options.serving_rounds)
    print(f"\nServing WAL, medians of {options.serving_rounds} rounds\n\n{serving_table(contests)}\n", flush=True)


def run_scraping(options: Options, scratch: Path) -> None:
    """Scrapes beside commits; prints its table."""
    frames = AllFrames().of(is_bulk=False)
    say(SCRAPING)
    scraping = measure_scraping(frames, scratch, rounds=options.scraping_rounds)
    print(f"\nScraping, {options.scraping_rounds} rounds\n\n{scraping_table(scraping)}\n", flush=True)


def run_profile(options: Options, scratch: Path) -> None:
    """One run against a keeper under a profiler; prints where its event loop's time went."""
    workload = next(each for each in WORKLOADS if each.name == options.profile)
    frames = AllFrames().of(workload.is_bulk)
    with MeasuredKeeper.prepare_profiled(scratch, 1, *postgres.free_ports(2)) as keeper:
        keeper.start()
        keeper.wait_ready()
        run = in_child(run_load, workload, frames, keeper.pg_port, keeper.pid, options.seconds)
        print(keeper.stop_and_explain())
    print(f"{run.appends} appends, {run.appends_per_second:.0f}/s, {run.bytes_per_second / 1e6:.1f} MB/s\n")


Part = tuple[str, Callable[[Options, Path], None]]


def parts_of(options: Options) -> Sequence[Part]:
    """What is to be run, each with a name to say if it cannot be."""
    if options.profile is not None:
        return [("profile", run_profile)]
    parts: list[Part] = []
    if set(options.only) & set(WORKLOAD_NAMES):
        parts.append(("pushing WAL", run_micro))
    if COMMITS in options.only:
        parts.append(("committing", run_commits))
    if SERVING in options.only:
        parts.append(("serving WAL", run_serving))
    if SCRAPING in options.only:
        parts.append(("scraping", run_scraping))
    return parts


def main() -> int:
    """The exit code: 0 everything was measured, 1 something could not be."""
    options = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    is_complete = True
    with postgres.workspace() if options.directory is None else workspace_in(options.directory) as scratch:
        print(describe(scratch), flush=True)
        for name, part in parts_of(options):
            try:
                part(options, scratch)
            except FAILURES as error:
                is_complete = False
                print(f"\nNOT MEASURED: {name}: {error}\n", flush=True)
    return 0 if is_complete else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
