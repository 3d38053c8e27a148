"""What this process counts and measures, under the names that Neon's dashboards know.

Two kinds: instruments, which whoever does the work is handed as plain callables (``Metrics``'s methods), and
collectors, which look at ``statistics()`` when somebody scrapes, so that the series of a timeline vanish with the
timeline.  Everything hangs off one ``Metrics``; there is no global registry.

Instruments may be called from any thread.  A scrape runs on the event loop and lets other tasks run between two
metrics.  Does not do anything on a timer.

Source: Neon's safekeeper metrics.  Buckets are the union of both of its sets for disk operations.
"""

import resource
import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import trio
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from walkeeper.acceptor.state import AcceptorState
from walkeeper.timeline.timeline import TimelineStatistics
from walkeeper.timeline.timelines import Timelines

CONTENT_TYPE: Final = "text/plain; version=0.0.4"

DISK_SECONDS: Final = (
    0.00005, 0.0001, 0.0005, 0.001, 0.003, 0.005, 0.01, 0.05, 0.1, 0.3, 0.5, 1.0, 5.0, 10.0, 30.0,
)  # fmt: skip
WRITE_BYTES: Final = (1, 10, 100, 1024, 8192, 131_072, 1_048_576, 10_485_760)

DISK_BLOCK_BYTES: Final = 512
"""The unit of ru_inblock and ru_oublock (getrusage(2))."""

SAMPLES_PER_TURN_MAX: Final = 200
"""Rendered before other tasks run again, some milliseconds' worth: a scrape must not hold up commits."""

LEVELS: Final = ("error", "warning", "info", "debug")


class Metrics:
    """The instruments of one process, and the registry that a scrape reads."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        self._write_bytes = self._histogram("safekeeper_write_wal_bytes", "Bytes per WAL write", WRITE_BYTES)
        self._write_seconds = self._histogram("safekeeper_write_wal_seconds", "Time of each WAL write")
        self._flush_seconds = self._histogram("safekeeper_flush_wal_seconds", "Time of each WAL sync")
        self._persist_seconds = self._histogram(
            "safekeeper_persist_control_file_seconds", "Time to save a control file"
        )
        self._operation_seconds = self._histogram(
            "safekeeper_wal_storage_operation_seconds", "Time of operations on WAL files", labels=("operation",)
        )
        self._queries_received = self._counter(
            "safekeeper_pg_queries_received_total", "Commands begun on PostgreSQL connections", ("query",)
        )
        self._queries_finished = self._counter(
            "safekeeper_pg_queries_finished_total", "Commands ended on PostgreSQL connections", ("query",)
        )
        self._refusals = self._counter(
            "walkeeper_refusals_total", "Requests of peers that ended in an error, by its name", ("error",)
        )
        self._scrapes = self._counter("libmetrics_metric_handler_requests_total", "Scrapes of this endpoint")
        self._log_events = LogEvents()
        for collector in (self._log_events, BuildInfo(version), ProcessUsage()):
            self.registry.register(collector)
        ProcessCollector(registry=self.registry)

    def _histogram(
        self, name: str, help: str, buckets: Sequence[float] = DISK_SECONDS, labels: Sequence[str] = ()
    ) -> Histogram:
        return Histogram(name, help, labels, buckets=buckets, registry=self.registry)

    def _counter(self, name: str, help: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(name, help, labels, registry=self.registry)

    # -- instruments ----------------------------------------------------------------------------------------

    def storage_operation(self, operation: str, seconds: float, size_bytes: int) -> None:
        """What a store did: ``write_wal``, ``flush_wal``, ``persist_control_file``, or an operation on WAL files."""
        match operation:
            case "write_wal":
                self._write_bytes.observe(size_bytes)
                self._write_seconds.observe(seconds)
            case "flush_wal":
                self._flush_seconds.observe(seconds)
            case "persist_control_file":
                self._persist_seconds.observe(seconds)
            case _:
                self._operation_seconds.labels(operation).observe(seconds)

    def log_event(self, level: str) -> None:
        self._log_events.count(level)

    def query_received(self, command: str) -> None:
        """``command``: the word that names it, one of a few; never what a peer made up."""
        self._queries_received.labels(command).inc()

    def query_finished(self, command: str) -> None:
        self._queries_finished.labels(command).inc()

    def refused(self, error: Exception) -> None:
        self._refusals.labels(type(error).__name__).inc()

    # -- scraping -------------------------------------------------------------------------------------------

    def watch(self, timelines: Timelines) -> None:
        """Show these timelines from now on."""
        self.registry.register(TimelineCollector(timelines))

    def route(self) -> Route:
        async def scrape(_request: Request) -> Response:
            self._scrapes.inc()
            return Response(await render(self.registry), media_type=CONTENT_TYPE)

        return Route("/metrics", scrape, methods=["GET"])


async def render(registry: Collector) -> bytes:
    """Prometheus's text format.

    Cancellation: at any time.
    """
    pieces = []
    for metric in registry.collect():
        for piece in render_in_turns(metric):
            pieces.append(piece)
            await trio.lowlevel.checkpoint()
    return b"".join(pieces)


def render_in_turns(metric: Metric) -> Iterator[bytes]:
    """One metric, some samples at a time, without the ``_created`` series that the format has no place for."""
    samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
    for first in range(0, max(len(samples), 1), SAMPLES_PER_TURN_MAX):
        metric.samples = samples[first : first + SAMPLES_PER_TURN_MAX]
        text = generate_latest(One(metric))
        yield text if first == 0 else text.split(b"\n", 2)[2]  # HELP and TYPE stand once, before all samples


class One(Collector):
    """A collector of one metric."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


# -- collectors ---------------------------------------------------------------------------------------------

Look = Callable[[AcceptorState], float]

OPEN_TIMELINE_GAUGES: Final[Sequence[tuple[str, str, Look]]] = (
    ("safekeeper_commit_lsn", "Known to be on a quorum", lambda state: state.ahead.commit_lsn),
    ("safekeeper_backup_lsn", "Known to be in remote storage", lambda state: state.ahead.backup_lsn),
    ("safekeeper_flush_lsn", "Durable here", lambda state: state.flush_lsn),
    ("safekeeper_epoch_start_lsn", "Where the leader's term starts", lambda state: state.term_start_lsn),
    ("safekeeper_peer_horizon_lsn", "What every peer has", lambda state: state.ahead.peer_horizon_lsn),
    (
        "safekeeper_remote_consistent_lsn",
        "What pageservers no longer need",
        lambda state: state.ahead.remote_consistent_lsn,
    ),
    ("safekeeper_acceptor_term", "The newest term voted for", lambda state: state.term),
)


class TimelineCollector(Collector):
    """Gauges of every timeline there is now."""

    def __init__(self, timelines: Timelines) -> None:
        self._timelines = timelines

    def collect(self) -> Iterator[Metric]:
        started = time.perf_counter()
        timelines = [timeline.statistics() for timeline in self._timelines.all()]
        yield from self._of_open_ones(timelines)
        yield from self._of_connections(timelines)
        yield GaugeMetricFamily("safekeeper_timelines", "Timelines of this keeper", len(timelines))
        active = sum(bool(timeline.receivers) for timeline in timelines)
        yield GaugeMetricFamily("safekeeper_active_timelines", "Timelines with a writer", active)
        shut = len(self._timelines.shut())
        yield GaugeMetricFamily(
            "walkeeper_shut_timelines", "Timelines whose files could not be read at start", shut
        )
        took_seconds = time.perf_counter() - started
        yield GaugeMetricFamily("safekeeper_collect_timeline_metrics_seconds", "Time to look", took_seconds)

    def _of_open_ones(self, timelines: Iterable[TimelineStatistics]) -> Iterator[Metric]:
        states = [(_labels(each), each.state) for each in timelines if each.state is not None]
        for name, meaning, look in OPEN_TIMELINE_GAUGES:
            yield _per_timeline(name, meaning, ((labels, look(state)) for labels, state in states))

    def _of_connections(self, timelines: Iterable[TimelineStatistics]) -> Iterator[Metric]:
        counts = [(_labels(each), len(each.receivers)) for each in timelines]
        yield _per_timeline("safekeeper_connected_computes", "Connected writers", counts)
        yield _per_timeline(
            "safekeeper_timeline_active", "1 with a writer", ((labels, min(n, 1)) for labels, n in counts)
        )
        is_open = ((_labels(each), float(each.state is not None)) for each in timelines)
        yield _per_timeline("walkeeper_timeline_open", "0 while it must be read from disk again", is_open)
        total = sum(n for _, n in counts)
        yield GaugeMetricFamily("safekeeper_wal_receivers", "Connected writers of all timelines", total)


def _labels(timeline: TimelineStatistics) -> Sequence[str]:
    return (str(timeline.ttid.tenant_id), str(timeline.ttid.timeline_id))


def _per_timeline(name: str, help: str, values: Iterable[tuple[Sequence[str], float]]) -> Metric:
    family = GaugeMetricFamily(name, help, labels=("tenant_id", "timeline_id"))
    for labels, value in values:
        family.add_metric(labels, value)
    return family


class LogEvents(Collector):
    """How many log lines there were of each level.

    Untyped, since the format knows no counter without ``_total``, and the name is Neon's.
    """

    def __init__(self) -> None:
        self._tally: Tally[str] = Tally()
        self._lock = threading.Lock()

    def count(self, level: str) -> None:
        with self._lock:
            self._tally[level] += 1

    def collect(self) -> Iterator[Metric]:
        metric = Metric("libmetrics_tracing_event_count", "Log lines by level", "unknown")
        for level in LEVELS:
            name = "warn" if level == "warning" else level
            metric.add_sample(metric.name, {"level": name}, self._tally[level])
        yield metric


class BuildInfo(Collector):
    """A gauge that is always 1 and says in its labels what is running."""

    def __init__(self, version: str) -> None:
        self._version = version

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily("libmetrics_build_info", "What is running", labels=("revision", "build_tag"))
        family.add_metric((self._version, f"walkeeper-{self._version}"), 1)
        yield family


class ProcessUsage(Collector):
    """What getrusage(2) and the interpreter know, beyond prometheus_client's own process metrics."""

    def collect(self) -> Iterator[Metric]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        io = GaugeMetricFamily(
            "libmetrics_disk_io_bytes_total", "Bytes read from and written to disks", labels=("io_operation",)
        )
        io.add_metric(("read",), usage.ru_inblock * DISK_BLOCK_BYTES)
        io.add_metric(("write",), usage.ru_oublock * DISK_BLOCK_BYTES)
        yield io
        yield GaugeMetricFamily("libmetrics_maxrss_kb", "Peak resident set in KiB", usage.ru_maxrss)
        yield GaugeMetricFamily("process_threads", "Threads", threading.active_count())
