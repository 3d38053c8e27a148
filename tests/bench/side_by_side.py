"""The keeper, the blocking server and the disk, in turns: several rounds of each workload, and ratios.

Machines differ and their disks change from one minute to the next, so only figures of one round are compared: each
round runs everybody once, in an order that rotates, and what counts is the median of the rounds' ratios.

Every run happens in a child process of its own that has the frames in memory already; the servers are processes
that live for all rounds of a workload.  Does not print.
"""

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Final, ParamSpec, TypeVar

import postgres
from bench.disk_limit import run_disk
from bench.load import Measured, ServerFailed, run_load
from bench.servers import BlockingServer, MeasuredKeeper
from bench.workloads import Frames, Workload

DISK: Final = "disk"
BLOCKING: Final = "blocking"
KEEPER: Final = "keeper"

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Comparison:
    """All rounds of one workload: a run of each contender in each round."""

    workload: Workload
    rounds: Sequence[Mapping[str, Measured]]

    def ratios(self, contender: str, peer: str) -> Sequence[float]:
        """How the two throughputs compare, by round."""
        return [one[contender].bytes_per_second / one[peer].bytes_per_second for one in self.rounds]

    def ratio(self, contender: str, peer: str) -> float:
        """The median over the rounds."""
        return median(self.ratios(contender, peer))

    def middle(self, contender: str, figure: Callable[[Measured], float]) -> float:
        """The median over the rounds of one figure of one contender."""
        return median(figure(one[contender]) for one in self.rounds)


def compare(workload: Workload, frames: Frames, *, rounds: int, seconds: float, scratch: Path) -> Comparison:
    """Run everybody.  Raises ServerFailed, ProgramFailed."""
    place = scratch / workload.name
    place.mkdir()
    try:
        with contenders(workload, frames, place, seconds) as runs:
            play(runs, 0, place)  # not counted: it touches memory and warms the servers
            return Comparison(workload, [play(runs, number, place) for number in range(1, rounds + 1)])
    finally:
        shutil.rmtree(place)
        os.sync()  # or the next workload pays for what this one leaves in the page cache


def play(runs: Mapping[str, Callable[[int], Measured]], number: int, place: Path) -> Mapping[str, Measured]:
    """One round; who begins changes."""
    names = list(runs)
    first = number % len(names)
    measured = {}
    for name in (*names[first:], *names[:first]):
        measured[name] = runs[name](number)
        forget_files(place)
    return measured


def forget_files(place: Path) -> None:
    """Write back what is below ``place``, and drop it from the page cache.

    So the next run begins without a debt, and writes into memory that has been used before: on a virtual machine
    memory that never was is ten times as slow.
    """
    os.sync()
    for path in place.rglob("*"):
        try:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        except (IsADirectoryError, FileNotFoundError):
            continue  # a keeper renames and removes files when it likes


@contextmanager
def contenders(
    workload: Workload, frames: Frames, place: Path, seconds: float
) -> Iterator[Mapping[str, Callable[[int], Measured]]]:
    """Who is measured: functions of the round's number."""
    blocking_port, pg_port, http_port = postgres.free_ports(3)
    with BlockingServer.prepare(place, blocking_port) as blocking:
        with MeasuredKeeper.prepare(place, 1, pg_port, http_port) as keeper:
            blocking.start()
            keeper.start()
            blocking.wait_ready()
            keeper.wait_ready()

            def disk(number: int) -> Measured:
                directory = place / f"disk{number}"
                directory.mkdir()
                return in_child(run_disk, workload, frames, directory, seconds)

            yield {
                DISK: disk,
                BLOCKING: lambda _: in_child(run_load, workload, frames, blocking_port, blocking.pid, seconds),
                KEEPER: lambda _: in_child(run_load, workload, frames, pg_port, keeper.pid, seconds),
            }


def in_child(work: Callable[P, T], *arguments: P.args, **more: P.kwargs) -> T:
    """Call a function in a fork of this process, which must have no threads.  Raises ServerFailed if that does."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def child(answer: Connection) -> None:
        try:
            answer.send(work(*arguments, **more))
        except ServerFailed as error:
            answer.send(error)

    process = context.Process(target=child, args=(theirs,))
    process.start()
    theirs.close()
    try:
        result: T | ServerFailed = ours.recv()
    except EOFError:
        raise ServerFailed("a run ended without a result; what it said is above") from None
    finally:
        process.join()
    if isinstance(result, ServerFailed):
        raise result
    return result
