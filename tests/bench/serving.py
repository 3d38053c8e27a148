"""Serving WAL: our keeper beside PostgreSQL's own walsender, both to the same `pg_receivewal`.

One primary, and one keeper that a sidecar fills: both have the same WAL, and take turns in serving it.  The readers
do not sync what they write, so that as little as possible of what is measured is theirs.

*catch-up*: one reader begins at the oldest WAL, and all it wants is there.  *1 stream* and *10 streams*: the readers
have everything, and the primary writes as fast as it can until they have so much more.

A keeper cannot serve WAL before it has it, and it gets it over a sidecar and an fsync, whoever serves.  So a live turn
ends when the readers have everything *and* the keeper has: what is left as a difference between the servers is who
serves.  When the readers alone were done is noted beside it.

CPU: a live keeper also receives, whoever serves.  What it uses in the walsender's turn is that, and is subtracted from
what it uses in its own.  A keeper that is busy serving receives more at a time, for less: so the difference flatters
it, the more so the larger what is subtracted.  Of the primary only the walsenders count, not the backend that writes.

Does not print.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final, Self

import postgres
import programs
from bench.load import cpu_seconds
from bench.stage import SETTINGS
from replicated import Replicated
from walkeeper.formats.segments import segment_name, segment_number, segment_start
from walkeeper.ids import FIRST_TLI
from walkeeper.lsn import Lsn, format_lsn, parse_lsn

KEEPER: Final = "keeper"
WALSENDER: Final = "walsender"
SERVERS: Final = (KEEPER, WALSENDER)

RECEIVEWAL: Final = "pg_receivewal"
"""The program, and what it calls itself."""

WALSENDERS_QUERY: Final = f"SELECT {{}} FROM pg_stat_replication WHERE application_name = '{RECEIVEWAL}'"

SEGMENT_BYTES: Final = 16 << 20
MESSAGE_BYTES: Final = 100_000
"""Of the logical messages that the WAL consists of: large, so that writing it costs the primary little."""

MORE_BYTES: Final = 4 << 20
"""Written behind the last byte that is waited for: of the end PostgreSQL keeps a MiB in its buffers for a while."""

TURN_SECONDS: Final = 120.0
"""What the slowest disk may take for anything that is written or read here."""

LOOK_SECONDS: Final = 0.01
"""Between two looks at the readers: the most by which a time is wrong, and a walsender's CPU."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """``wal_bytes``, whole segments, to each of ``readers``.  ``is_live``: it is written while they read."""

    name: str
    readers: int
    wal_bytes: int
    is_live: bool


CATCH_UP: Final = Scenario("catch-up", readers=1, wal_bytes=1 << 30, is_live=False)
SCENARIOS: Final = (
    CATCH_UP,  # comes first: the others write so much that the primary may drop what is oldest
    Scenario("1 stream", readers=1, wal_bytes=384 << 20, is_live=True),
    Scenario("10 streams", readers=10, wal_bytes=96 << 20, is_live=True),
)


@dataclass(frozen=True, slots=True)
class Turn:
    """What one server's turn took: wall-clock seconds, and CPU seconds of the keeper and of the walsenders.

    After ``reader_seconds`` the readers had everything, after ``seconds`` the keeper had, too.
    """

    seconds: float
    reader_seconds: float
    keeper_cpu_seconds: float
    walsender_cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Served:
    """WAL to all readers together, wall-clock seconds as in ``Turn``, and the CPU seconds that serving it took.

    From those ``subtracted_cpu_seconds`` are gone already.
    """

    wal_bytes: int
    seconds: float
    reader_seconds: float
    cpu_seconds: float
    subtracted_cpu_seconds: float = 0.0

    @property
    def bytes_per_second(self) -> float:
        return self.wal_bytes / self.seconds

    @property
    def reader_bytes_per_second(self) -> float:
        return self.wal_bytes / self.reader_seconds

    @property
    def cpu_seconds_per_byte(self) -> float:
        return self.cpu_seconds / self.wal_bytes

    @property
    def subtracted_cpu_seconds_per_byte(self) -> float:
        return self.subtracted_cpu_seconds / self.wal_bytes


def served(scenario: Scenario, turns: Mapping[str, Turn]) -> Mapping[str, Served]:
    """What a round's turns say of each server."""
    wal_bytes = scenario.readers * scenario.wal_bytes
    own, other = turns[KEEPER], turns[WALSENDER]
    receiving = other.keeper_cpu_seconds
    return {
        KEEPER: Served(wal_bytes, own.seconds, own.reader_seconds, own.keeper_cpu_seconds - receiving, receiving),
        WALSENDER: Served(wal_bytes, other.seconds, other.reader_seconds, other.walsender_cpu_seconds),
    }


@dataclass(frozen=True, slots=True)
class Contest:
    """All rounds of one scenario."""

    scenario: Scenario
    rounds: Sequence[Mapping[str, Served]]

    def ratios(self, figure: Callable[[Served], float]) -> Sequence[float]:
        """The keeper's figure to the walsender's, by round."""
        return [figure(one[KEEPER]) / figure(one[WALSENDER]) for one in self.rounds]

    def ratio(self, figure: Callable[[Served], float]) -> float:
        """The median over the rounds."""
        return median(self.ratios(figure))

    def middle(self, server: str, figure: Callable[[Served], float]) -> float:
        """The median over the rounds of one figure of one server."""
        return median(figure(one[server]) for one in self.rounds)


def measure_serving(scratch: Path, *, rounds: int) -> Sequence[Contest]:
    """Run everybody.  Raises PostgresNotFound, PostgresFailed, ProgramFailed."""
    directory = scratch / "serving"
    directory.mkdir()
    try:
        with ExitStack() as stack:
            place = Place.begin(directory, stack)
            place.play(CATCH_UP, 0)  # not counted: it touches memory and warms the servers
            return [Contest(each, [place.play(each, number) for number in range(rounds)]) for each in SCENARIOS]
    finally:
        shutil.rmtree(directory)
        os.sync()  # or whoever is measured next pays for what this leaves in the page cache


# ----------------------------------------------------------------------------------------------- processes


@dataclass(frozen=True, slots=True)
class Job:
    """One of PostgreSQL's programs at work."""

    process: "subprocess.Popen[bytes]"
    log_path: Path

    def wait(self, look: Callable[[], None] = lambda: None) -> None:
        """Return when it has ended well, and ``look`` often until then; raise ProgramFailed."""
        for _ in range(int(TURN_SECONDS / LOOK_SECONDS)):
            look()
            if self.has_ended(LOOK_SECONDS):
                return
        raise programs.ProgramFailed(f"{self.log_path.stem} did not end in {TURN_SECONDS} s\n{self._log[-2000:]}")

    def has_ended(self, seconds: float) -> bool:
        """Wait so long at most; raise ProgramFailed if it has ended badly."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        if code != 0:
            raise programs.ProgramFailed(f"{self.log_path.stem} ended with code {code}\n{self._log[-2000:]}")
        return True

    @property
    def _log(self) -> str:
        return self.log_path.read_text(errors="replace")


@contextmanager
def at_work(primary: postgres.Cluster, log_path: Path, program: str, *arguments: str) -> Iterator[Job]:
    """A program of the primary's account, which is killed at the end if it still runs."""
    process = primary.spawn(program, *arguments, output=log_path)
    try:
        yield Job(process, log_path)
    finally:
        process.kill()
        process.wait(programs.END_SECONDS)


class Meter:
    """What time has passed, and what processes have used of the CPUs, since this was made."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._began = perf_counter()
        self._before = {pid: cpu_seconds(pid) for pid in pids}
        self._after = dict(self._before)

    @property
    def seconds(self) -> float:
        return perf_counter() - self._began

    def look(self, pids: Iterable[int]) -> None:
        """Note what they have used by now; of one that has ended, the last look counts."""
        for pid in pids:
            try:
                self._after[pid] = cpu_seconds(pid)
            except OSError:
                continue

    def cpu_seconds(self, *pids: int) -> float:
        """By the last look; one that was not there at first has begun since."""
        return sum(self._after[pid] - self._before.get(pid, 0.0) for pid in pids)


# ----------------------------------------------------------------------------------------------- the place


def end_segment(scene: Replicated) -> Lsn:
    """Return, when the keeper has everything, where the segment begins that is written next."""
    scene.primary.sql("SELECT pg_switch_wal()")
    return segment_start(scene.wait_everywhere(), SEGMENT_BYTES)


@dataclass(frozen=True, slots=True)
class Place:
    """A primary with WAL from ``oldest_lsn`` on, and a keeper that has it too, for all rounds."""

    scene: Replicated
    oldest_lsn: Lsn

    @classmethod
    def begin(cls, directory: Path, stack: ExitStack) -> Self:
        """Start everything, and write what there is to catch up.  Raises ProgramFailed, PostgresFailed."""
        primary = stack.enter_context(postgres.Cluster.prepare(directory / "primary"))
        primary.initdb(segment_mib=SEGMENT_BYTES >> 20)
        primary.configure(**SETTINGS, max_wal_senders=20)
        primary.start()
        scene = Replicated.begin(directory, primary, stack, keeper_count=1)
        primary.configure(synchronous_standby_names="")  # nobody who writes waits for the keeper
        primary.reload()
        place = cls(scene, end_segment(scene))
        with place._load(CATCH_UP.wal_bytes) as load:
            load.wait()
        scene.wait_everywhere()
        return place

    @property
    def _primary(self) -> postgres.Cluster:
        return self.scene.primary

    @property
    def _keeper_pid(self) -> int:
        return self.scene.keepers[0].pid

    def play(self, scenario: Scenario, number: int) -> Mapping[str, Served]:
        """One round; who begins changes."""
        order = SERVERS if number % 2 == 0 else SERVERS[::-1]
        take_turn = self._follow if scenario.is_live else self._catch_up
        return served(scenario, {server: take_turn(server, scenario) for server in order})

    def _catch_up(self, server: str, scenario: Scenario) -> Turn:
        """The time includes that of connecting."""
        meter, begin_lsn = Meter([self._keeper_pid]), self.oldest_lsn
        with self._readers(server, scenario.readers, begin_lsn, begin_lsn + scenario.wal_bytes) as readers:
            walsenders = self._wait_sent(server, readers, begin_lsn)
            return self._finish(meter, readers, walsenders, [])

    def _follow(self, server: str, scenario: Scenario) -> Turn:
        """The time begins when the readers have had a segment, and with it everything."""
        newest_lsn = end_segment(self.scene)
        end_lsn = newest_lsn + scenario.wal_bytes
        with self._readers(server, scenario.readers, newest_lsn - SEGMENT_BYTES, end_lsn) as readers:
            walsenders = self._wait_sent(server, readers, newest_lsn)
            meter = Meter([self._keeper_pid, *walsenders])
            with self._load(scenario.wal_bytes) as load:
                return self._finish(meter, readers, walsenders, [load])

    def _finish(
        self, meter: Meter, readers: Sequence[Job], walsenders: Sequence[int], writers: Sequence[Job]
    ) -> Turn:
        """The keeper's CPU includes what it takes to receive all that is written, in either server's turn."""
        for reader in readers:
            reader.wait(lambda: meter.look(walsenders))
        reader_seconds = meter.seconds
        for writer in writers:
            writer.wait()
        self.scene.wait_everywhere()
        meter.look([self._keeper_pid])
        seconds = meter.seconds if writers else reader_seconds
        return Turn(seconds, reader_seconds, meter.cpu_seconds(self._keeper_pid), meter.cpu_seconds(*walsenders))

    def _load(self, wal_bytes: int) -> AbstractContextManager[Job]:
        """Write so much WAL and a little more."""
        messages = (wal_bytes + MORE_BYTES) // MESSAGE_BYTES
        message = f"pg_logical_emit_message(false, 'bench', repeat('x', {MESSAGE_BYTES}))"
        statement = f"SELECT count({message}) FROM generate_series(1, {messages})"
        arguments = [*self._primary.client_arguments(), "-d", "postgres", "-w", "-X", "-q", "-c", statement]
        return at_work(self._primary, self.scene.directory / "load.log", "psql", *arguments)

    # ---- readers

    @contextmanager
    def _readers(self, server: str, count: int, begin_lsn: int, end_lsn: int) -> Iterator[Sequence[Job]]:
        """Readers of [begin_lsn, end_lsn), both where segments begin; what they wrote is deleted at the end."""
        conninfo = self.scene.keepers_conninfo() if server == KEEPER else self._primary.conninfo()
        # It looks whether it is beyond the end where a segment ends, and where nothing more is there to be read.
        options = ["-d", conninfo, "-w", "--no-loop", "--no-sync", "--endpos", format_lsn(Lsn(end_lsn - 1))]
        with ExitStack() as stack:
            yield [
                stack.enter_context(
                    self._reader(self.scene.directory / f"{RECEIVEWAL}{number}", begin_lsn, options)
                )
                for number in range(count)
            ]

    @contextmanager
    def _reader(self, target: Path, begin_lsn: int, options: Sequence[str]) -> Iterator[Job]:
        """It begins behind the newest whole segment that it finds."""
        target.mkdir()
        before = segment_name(FIRST_TLI, segment_number(begin_lsn, SEGMENT_BYTES) - 1, SEGMENT_BYTES)
        (target / before).touch()
        os.truncate(target / before, SEGMENT_BYTES)
        self._primary.account.own(target)
        log_path = target.with_suffix(".log")
        try:
            with at_work(self._primary, log_path, RECEIVEWAL, "-D", str(target), *options) as job:
                yield job
        finally:
            shutil.rmtree(target)

    def _wait_sent(self, server: str, readers: Sequence[Job], lsn: int) -> Sequence[int]:
        """Return when all readers were sent everything before ``lsn``: the walsenders that did it, if any."""

        def has_come() -> bool:
            if any(reader.has_ended(0.0) for reader in readers):
                raise programs.ProgramFailed(f"{RECEIVEWAL} has ended before it was sent everything")
            return sum(sent_lsn >= lsn for sent_lsn in self._sent_lsns(server)) == len(readers)

        self.scene.wait_until(has_come, f"{len(readers)} readers at {format_lsn(Lsn(lsn))}")
        if server == KEEPER:
            return []
        return [int(pid) for (pid,) in self._primary.rows(WALSENDERS_QUERY.format("pid"))]

    def _sent_lsns(self, server: str) -> Sequence[int]:
        """How far each reader was sent WAL by a server."""
        if server == WALSENDER:
            query = WALSENDERS_QUERY.format("coalesce(sent_lsn, '0/0')")
            return [parse_lsn(text) for (text,) in self._primary.rows(query)]
        arguments = ["-d", self.scene.keepers_conninfo(), "-w", "-X", "-q", "-A", "-t"]
        status = json.loads(self._primary.run("psql", *arguments, "-c", "SHOW walkeeper_status").stdout)
        senders = [each for each in status["senders"] if each["application_name"] == RECEIVEWAL]
        return [parse_lsn(each["sent_lsn"]) for each in senders]
