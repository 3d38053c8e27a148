"""What a keeper counts and measures, under the names that Neon's dashboards know.

Two kinds: ``instruments``, which whoever does the work is handed as plain callables (``Metrics``'s methods), and
``collectors``, which look at ``statistics()`` when somebody scrapes, so that the series of a timeline vanish with the
timeline.  What each is called and means is in the ``catalogue``.  All of them hang off one ``Metrics``.

Instruments may be called from any thread.  Does not do anything on a timer, and does not answer scrapes: ``scrape`` does.

Source: Neon's safekeeper metrics.  Buckets are the union of both of its sets for disk operations.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from walkeeper.control.collectors import (
    RESOLVER,
    CertificateCollector,
    DiskCollector,
    DiskJobs,
    MemoryCollector,
    MemoryUse,
    ReadinessCollector,
    TimelineCollector,
)
from walkeeper.control.instruments import Counts, Distribution, Distributions, Peak, PgIo, Traffic
from walkeeper.control.scrape import ProcessMetrics
from walkeeper.errors import TimelineLimit
from walkeeper.storage.store import FAILED
from walkeeper.storage.wal import REMOVE_SEGMENT
from walkeeper.timeline.room import LOOK_AT_DISK
from walkeeper.timeline.timelines import Timelines

DISK_SECONDS: Final = (
    0.00005, 0.0001, 0.0005, 0.001, 0.003, 0.005, 0.01, 0.05, 0.1, 0.3, 0.5, 1.0, 5.0, 10.0, 30.0,
)  # fmt: skip
LOOK_SECONDS: Final = (0.001, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
WRITE_BYTES: Final = (1, 10, 100, 1024, 8192, 131_072, 1_048_576, 10_485_760)
ACK_SECONDS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
LAG_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0)
APPENDS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
QUEUED_MESSAGES: Final = (0, 1, 2, 4, 8, 16, 32, 64, 128, 255, 256)


@dataclass(frozen=True, slots=True)
class Peaks:
    """What was worst of late: how late the event loop was, and how long an fsync of WAL took."""

    loop_lag_seconds: float = 0.0
    flush_seconds: float = 0.0


class Metrics(ProcessMetrics):
    """The instruments of a keeper.

    ``availability_zone``: where this keeper is, if that was said.
    """

    def __init__(self, version: str, availability_zone: str | None = None) -> None:
        super().__init__(version)
        self._timelines: Timelines | None = None
        self._write_bytes = self._add(Distribution("safekeeper_write_wal_bytes", WRITE_BYTES))
        self._write_seconds = self._add(Distribution("safekeeper_write_wal_seconds", DISK_SECONDS))
        self._flush_seconds = self._add(Distribution("safekeeper_flush_wal_seconds", DISK_SECONDS))
        self._persist_seconds = self._add(Distribution("safekeeper_persist_control_file_seconds", DISK_SECONDS))
        self._operations = self._add(Distributions("safekeeper_wal_storage_operation_seconds", DISK_SECONDS))
        self._steps = self._add(Distributions("safekeeper_misc_operation_seconds", DISK_SECONDS))
        self._queued = self._add(Distribution("safekeeper_wal_receiver_queue_depth", QUEUED_MESSAGES))
        self._removed_segments = self._add(Counts("safekeeper_removed_wal_segments_total"))
        self._failures = self._add(Counts("safekeeper_wal_disk_io_errors"))
        self._over_limit = self._add(Counts("safekeeper_wal_storage_limit_errors"))
        self._looks = self._add(Distribution("safekeeper_global_disk_utilization_check_seconds", LOOK_SECONDS))
        self._received_queries = self._add(Counts("safekeeper_pg_queries_received_total"))
        self._finished_queries = self._add(Counts("safekeeper_pg_queries_finished_total"))
        self._messages = self._add(Counts("safekeeper_proposer_acceptor_messages_total", "success", "error"))
        self._feedbacks = self._add(Counts("safekeeper_received_ps_feedbacks_total"))
        self._http_connections = self._add(Counts("http_server_connection_started_total", "http"))
        self._http_failures = self._add(Counts("http_server_connection_errors_total", "tls"))
        self._certificate_looks = {
            outcome: self._add(Counts(f"tls_certs_reload_{outcome}_total", RESOLVER))
            for outcome in ("started", "updated", "failed")
        }
        self._ack_seconds = self._add(Distribution("walkeeper_ack_seconds", ACK_SECONDS))
        self._batch_appends = self._add(Distribution("walkeeper_batch_appends", APPENDS))
        self._lag_seconds = self._add(Distribution("walkeeper_loop_lag_seconds", LAG_SECONDS))
        self._flush_peak = self._add(Peak("walkeeper_flush_peak_seconds"))
        self._lag_peak = self._add(Peak("walkeeper_loop_lag_peak_seconds"))
        self._slow_steps = self._add(Counts("walkeeper_slow_steps_total"))
        self._refusals = self._add(Counts("walkeeper_refusals_total"))
        self._pg_io = self._add(PgIo(availability_zone))

    # -- instruments ----------------------------------------------------------------------------------------

    def storage_operation(self, operation: str, seconds: float, size_bytes: int) -> None:
        """What a store did (``storage.wal.Observe``).  On any thread."""
        match operation:
            case "write_wal":
                self._write_bytes.observe(size_bytes)
                self._write_seconds.observe(seconds)
            case "flush_wal":
                self._flush_seconds.observe(seconds)
                self._flush_peak.note(seconds)
            case "persist_control_file":
                self._persist_seconds.observe(seconds)
            case _ if operation == REMOVE_SEGMENT:
                self._removed_segments.count()
            case _ if operation == LOOK_AT_DISK:
                self._looks.observe(seconds)
            case _ if operation == FAILED:
                self._failures.count()
            case _:
                self._operations.observe(operation, seconds)

    def connection_begins(self, traffic: Traffic) -> None:
        self._pg_io.begin(traffic)

    def connection_identified(
        self, traffic: Traffic, application_name: str | None, availability_zone: str | None
    ) -> None:
        self._pg_io.identify(traffic, application_name, availability_zone)

    def connection_ends(self, traffic: Traffic) -> None:
        self._pg_io.end(traffic)

    def http_connection_begins(self, scheme: str = "http") -> None:
        self._http_connections.count(scheme)

    def https_failed(self) -> None:
        self._http_failures.count("tls")

    def certificate_looked_at(self, outcome: str) -> None:
        """``started``, ``updated`` or ``failed``."""
        self._certificate_looks[outcome].count(RESOLVER)

    def query_received(self, command: str) -> None:
        """``command``: the word that names it, one of a few; never what a peer made up."""
        self._received_queries.count(command)

    def query_finished(self, command: str) -> None:
        self._finished_queries.count(command)

    def refused(self, error: Exception) -> None:
        self._refusals.count(type(error).__name__)
        if isinstance(error, TimelineLimit):
            self._over_limit.count()

    def message_processed(self, *, is_accepted: bool) -> None:
        self._messages.count("success" if is_accepted else "error")

    def appends_kept(self, count: int) -> None:
        self._batch_appends.observe(count)

    def acknowledged(self, seconds: float) -> None:
        self._ack_seconds.observe(seconds)

    def leader_followed(self, seconds: float) -> None:
        self._steps.observe("handle_elected", seconds)

    def pageserver_reported(self) -> None:
        self._feedbacks.count()

    def loop_lagged(self, seconds: float) -> None:
        """A task has woken so much later than it should."""
        self._lag_seconds.observe(seconds)
        self._lag_peak.note(seconds)

    def step_was_slow(self) -> None:
        """A task has kept all others from running for too long."""
        self._slow_steps.count()

    def turn_peaks(self) -> None:
        """To be called every minute: a peak is what was highest since the last time, or before that."""
        self._flush_peak.turn()
        self._lag_peak.turn()

    def peaks(self) -> Peaks:
        return Peaks(self._lag_peak.value, self._flush_peak.value)

    def look_at_queues(self) -> None:
        """To be called every few seconds: how many messages of each writer wait for the disk."""
        if self._timelines is not None:
            for timeline in self._timelines.all():
                for receiver in timeline.registry.receivers():
                    self._queued.observe(receiver.waiting().messages)

    # -- scraping -------------------------------------------------------------------------------------------

    def watch_disk(self, look: Callable[[], DiskJobs]) -> None:
        """Show what is with the disk from now on."""
        self._add(DiskCollector(look))

    def watch_memory(self, look: Callable[[], MemoryUse]) -> None:
        """Show what connections hold from now on."""
        self._add(MemoryCollector(look))

    def watch_readiness(self, is_ready: Callable[[], bool], peers: Callable[[], Mapping[str, int]]) -> None:
        """Show from now on whether this keeper is ready, and how many others are in which state."""
        self._add(ReadinessCollector(is_ready, peers))

    def watch_certificate(self, valid_until: Callable[[], float]) -> None:
        """Show from now on when the certificate in use expires."""
        self._add(CertificateCollector(valid_until))

    def watch(self, timelines: Timelines) -> None:
        """Show these timelines from now on."""
        self._timelines = timelines
        self._add(TimelineCollector(timelines))

    @property
    def timelines_shown(self) -> int:
        """How many there are."""
        return 0 if self._timelines is None else len(self._timelines.ttids())
