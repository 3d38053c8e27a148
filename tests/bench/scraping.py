"""What a scrape of a keeper with many timelines takes, and what it does to those who commit meanwhile.

Writers append as in ``sync16``, in turns with and without somebody who scrapes as often as Prometheus would.  Both
wait for one disk and one event loop, so what counts is how their 99th percentiles compare in one round.

Does not print.
"""

import json
import multiprocessing
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Final

import postgres
from bench.load import Measured, run_load
from bench.servers import MeasuredKeeper
from bench.side_by_side import in_child
from bench.workloads import PG_VERSION, SEGMENT_BYTES, WORKLOADS, Frames

TIMELINES: Final = 1000
RUN_SECONDS: Final = 15.0
"""With one scrape in the middle: Prometheus's own default is one a minute, and hardly anybody asks for more than this."""

SCRAPE_SECONDS_AIM: Final = 1.0
P99_AIM: Final = 1.1
"""Within the noise of this machine."""

WORKLOAD: Final = next(each for each in WORKLOADS if each.name == "sync16")


@dataclass(frozen=True, slots=True)
class Round:
    """The same writers, left alone and while somebody scrapes."""

    alone: Measured
    scraped: Measured
    scrape_seconds: Sequence[float]

    @property
    def p99_ratio(self) -> float:
        return self.scraped.latency_p99 / self.alone.latency_p99


@dataclass(frozen=True, slots=True)
class Scraping:
    """All rounds, and how large an answer was."""

    rounds: Sequence[Round]
    answer_bytes: int

    @property
    def scrape_seconds(self) -> Sequence[float]:
        return [seconds for each in self.rounds for seconds in each.scrape_seconds]

    @property
    def p99_ratio(self) -> float:
        return median(each.p99_ratio for each in self.rounds)


def measure_scraping(frames: Frames, scratch: Path, *, rounds: int) -> Scraping:
    """Run it.  Raises ServerFailed, ProgramFailed."""
    pg_port, http_port = postgres.free_ports(2)
    with MeasuredKeeper.prepare(scratch, 1, pg_port, http_port) as keeper:
        keeper.start()
        keeper.wait_ready()
        for number in range(TIMELINES):
            create_timeline(keeper, number)
        played = [play(keeper, frames, number) for number in range(rounds + 1)]
        return Scraping(played[1:], len(scrape(keeper.http_port)))  # the first warms up


def create_timeline(keeper: MeasuredKeeper, number: int) -> None:
    timeline = {
        "tenant_id": f"{number:032x}", "timeline_id": f"{number:032x}",
        "mconf": {"generation": 0, "members": [], "new_members": None},
        "pg_version": PG_VERSION, "wal_seg_size": SEGMENT_BYTES, "start_lsn": "0/1000000",
    }  # fmt: skip
    url = f"http://{keeper.host}:{keeper.http_port}/v1/tenant/timeline"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(timeline).encode())):
        pass


def play(keeper: MeasuredKeeper, frames: Frames, number: int) -> Round:
    """One round; who begins changes."""
    runs: dict[bool, Measured] = {}
    taken: Sequence[float] = ()
    for is_scraped in (number % 2 == 0, number % 2 == 1):
        if is_scraped:
            with scraping(keeper.http_port) as taken:
                runs[is_scraped] = run(keeper, frames)
        else:
            runs[is_scraped] = run(keeper, frames)
    return Round(alone=runs[False], scraped=runs[True], scrape_seconds=taken)


def run(keeper: MeasuredKeeper, frames: Frames) -> Measured:
    return in_child(run_load, WORKLOAD, frames, keeper.pg_port, keeper.pid, RUN_SECONDS)


@contextmanager
def scraping(http_port: int) -> Iterator[list[float]]:
    """Another process that scrapes while the block runs; the list has at its end how long each scrape took."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=scrape_until_told, args=(http_port, theirs))
    process.start()
    taken: list[float] = []
    yield taken
    ours.send(None)
    taken.extend(ours.recv())
    process.join()


def scrape_until_told(http_port: int, pipe: Connection) -> None:
    taken: list[float] = []
    while not pipe.poll(RUN_SECONDS / 2 if not taken else RUN_SECONDS):
        began = time.perf_counter()
        scrape(http_port)
        taken.append(time.perf_counter() - began)
    pipe.send(taken)


def scrape(http_port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{http_port}/metrics") as answer:
        return bytes(answer.read())
