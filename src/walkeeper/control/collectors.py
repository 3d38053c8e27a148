"""What is looked at when somebody scrapes: the timelines that there are now, and the disk.

The series of a timeline vanish with it.  Every look is a ``statistics()``, without locks and threads.

Does not remember anything.
"""

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import Metric, Sample
from prometheus_client.registry import Collector

from walkeeper.acceptor.state import AcceptorState
from walkeeper.control.instruments import Names, family, one_value
from walkeeper.formats.replication import unix_seconds
from walkeeper.messages import PageserverFeedback
from walkeeper.timeline.registry import Sender
from walkeeper.timeline.room import Room
from walkeeper.timeline.timeline import TimelineStatistics
from walkeeper.timeline.timelines import Timelines

RESOLVER: Final = "main"
"""What Neon's metrics call the one certificate that there is."""

HANGS_SECONDS: Final = 10.0
"""For one job of the disk: writers drop a keeper that is silent for so long."""

NO_FEEDBACK: Final = PageserverFeedback()
"""What stands for the report that no pageserver has made yet."""

Labels = dict[str, str]

OF_STATES: Final[Sequence[tuple[str, Callable[[AcceptorState], float]]]] = (
    ("safekeeper_commit_lsn", lambda state: state.ahead.commit_lsn),
    ("safekeeper_backup_lsn", lambda state: state.ahead.backup_lsn),
    ("safekeeper_flush_lsn", lambda state: state.flush_lsn),
    ("safekeeper_epoch_start_lsn", lambda state: state.term_start_lsn),
    ("safekeeper_peer_horizon_lsn", lambda state: state.ahead.peer_horizon_lsn),
    ("safekeeper_remote_consistent_lsn", lambda state: state.ahead.remote_consistent_lsn),
    ("safekeeper_acceptor_term", lambda state: state.term),
)
"""Of timelines that are open."""

OF_TIMELINES: Final[Sequence[tuple[str, Callable[[TimelineStatistics], float]]]] = (
    ("safekeeper_connected_computes", lambda each: len(each.receivers)),
    ("safekeeper_timeline_active", lambda each: bool(each.receivers)),
    ("safekeeper_ps_last_received_lsn", lambda each: (each.pageserver or NO_FEEDBACK).last_received_lsn),
    (
        "safekeeper_feedback_last_time_seconds",
        lambda each: unix_seconds((each.pageserver or NO_FEEDBACK).reply_time),
    ),
    ("safekeeper_ps_feedback_count_total", lambda each: each.pageserver_reports),
    ("safekeeper_ps_corruption_detected", lambda each: each.is_corruption_reported),
    ("safekeeper_written_wal_bytes_total", lambda each: each.storage.written_bytes),
    ("safekeeper_written_wal_seconds_total", lambda each: each.storage.written_seconds),
    ("safekeeper_flushed_wal_seconds_total", lambda each: each.storage.flushed_seconds),
    ("walkeeper_fuses_blown_total", lambda each: each.account.fuses_blown),
    ("walkeeper_timeline_open", lambda each: each.state is not None),
    ("walkeeper_timeline_over_limit", lambda each: each.is_over_limit),
)
"""Of all timelines."""

KNOWN: Final[Sequence[tuple[str, Callable[[TimelineStatistics], float | None]]]] = (
    ("safekeeper_disk_usage_bytes", lambda each: each.disk_usage_bytes),
    ("walkeeper_last_commit_timestamp_seconds", lambda each: each.account.committed_at),
    ("walkeeper_last_control_file_save_timestamp_seconds", lambda each: each.storage.saved_at),
)
"""Of timelines of which it is known, or for which it has happened."""


class TimelineCollector(Collector):
    """Everything about the timelines there are now."""

    def __init__(self, timelines: Timelines) -> None:
        self._timelines = timelines

    def collect(self) -> Iterator[Metric]:
        started = time.perf_counter()
        timelines = [timeline.statistics() for timeline in self._timelines.all()]
        labels = [labels_of(timeline) for timeline in timelines]
        yield from _of_each(timelines, labels)
        yield from _of_all(timelines)
        yield from _of_the_disk(self._timelines.room)
        yield one_value("walkeeper_shut_timelines", len(self._timelines.shut()))
        yield one_value("safekeeper_collect_timeline_metrics_seconds", time.perf_counter() - started)


def labels_of(timeline: TimelineStatistics) -> Labels:
    """To be shared by all its series: making them costs more than looking does."""
    return {"tenant_id": str(timeline.ttid.tenant_id), "timeline_id": str(timeline.ttid.timeline_id)}


def _of_each(timelines: Sequence[TimelineStatistics], labels: Sequence[Labels]) -> Iterator[Metric]:
    states = [(own, each.state) for own, each in zip(labels, timelines, strict=True) if each.state is not None]
    for name, look in OF_STATES:
        yield series(name, ((own, look(state)) for own, state in states))
    for name, see in OF_TIMELINES:
        yield series(name, zip(labels, map(see, timelines), strict=True))
    for name, find in KNOWN:
        found = zip(labels, map(find, timelines), strict=True)
        yield series(name, ((own, value) for own, value in found if value is not None))
    yield series("walkeeper_wal_bytes_total", _stages(timelines, labels))


def _stages(timelines: Sequence[TimelineStatistics], labels: Sequence[Labels]) -> Iterator[tuple[Labels, float]]:
    """How much WAL has got how far."""
    for own, each in zip(labels, timelines, strict=True):
        account = each.account
        yield own | {"stage": "received"}, account.received_bytes
        yield own | {"stage": "flushed"}, account.flushed_bytes
        yield own | {"stage": "committed"}, account.committed_bytes


def _of_all(timelines: Sequence[TimelineStatistics]) -> Iterator[Metric]:
    receivers = [receiver for each in timelines for receiver in each.receivers]
    waiting = [receiver.waiting() for receiver in receivers]
    yield one_value("safekeeper_timelines", len(timelines))
    yield one_value("safekeeper_active_timelines", sum(bool(each.receivers) for each in timelines))
    yield one_value("safekeeper_wal_receivers", len(receivers))
    yield one_value("safekeeper_wal_receiver_queue_depth_total", sum(each.messages for each in waiting))
    yield one_value("safekeeper_wal_receiver_queue_size_total", sum(each.pinned_bytes for each in waiting))
    yield one_value("walkeeper_unsent_replies", sum(each.replies for each in waiting))
    yield readers(sender for each in timelines for sender in each.senders)


def _of_the_disk(room: Room) -> Iterator[Metric]:
    yield one_value("walkeeper_disk_refuses_wal", room.is_refusing)
    if room.free_bytes is not None:
        yield one_value("walkeeper_disk_free_bytes", room.free_bytes)
        yield one_value("walkeeper_disk_reserve_bytes", room.reserve_bytes)


def readers(senders: Iterable[Sender]) -> Metric:
    """``kind``: Neon's tasks are for a protocol of its own; all readers here are what it calls futures."""
    names = Names()
    tally = Tally(names.bounded(sender.client.application_name) for sender in senders)
    metric = family("safekeeper_wal_readers")
    for target, count in sorted(tally.items()):
        metric.add_sample(metric.name, {"kind": "future", "target": target}, count)
    return metric


def series(name: str, values: Iterable[tuple[Labels, float]]) -> Metric:
    """A metric with a sample for each of ``values``."""
    metric = family(name)
    metric.samples = [Sample(name, own, value) for own, value in values]
    return metric


@dataclass(frozen=True, slots=True)
class DiskJobs:
    """What the disk has been given and has not answered yet: how many jobs, and for how long the oldest has been there."""

    running: int
    oldest_seconds: float

    @property
    def is_hanging(self) -> bool:
        return self.oldest_seconds >= HANGS_SECONDS


class DiskCollector(Collector):
    """What the disk is busy with now, as ``look`` sees it."""

    def __init__(self, look: Callable[[], DiskJobs]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        jobs = self._look()
        yield one_value("walkeeper_disk_jobs", jobs.running)
        yield one_value("walkeeper_disk_oldest_job_seconds", jobs.oldest_seconds)


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """What connections hold: WAL that waits for the disk, and that readers are sent; and how much it may be."""

    queued_bytes: int
    reading_bytes: int
    bytes_max: float


class MemoryCollector(Collector):
    """What connections hold now, as ``look`` sees it."""

    def __init__(self, look: Callable[[], MemoryUse]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        use = self._look()
        metric = family("walkeeper_memory_bytes")
        metric.add_sample(metric.name, {"stage": "queued"}, use.queued_bytes)
        metric.add_sample(metric.name, {"stage": "reading"}, use.reading_bytes)
        yield metric
        yield one_value("walkeeper_memory_limit_bytes", use.bytes_max)


class ReadinessCollector(Collector):
    """Whether it is ready now, as ``is_ready`` says, and how many other keepers are in which state, as ``peers`` does."""

    def __init__(self, is_ready: Callable[[], bool], peers: Callable[[], Mapping[str, int]]) -> None:
        self._is_ready = is_ready
        self._peers = peers

    def collect(self) -> Iterator[Metric]:
        yield one_value("walkeeper_ready", self._is_ready())
        yield series("walkeeper_peers", (({"state": state}, count) for state, count in self._peers().items()))


class CertificateCollector(Collector):
    """When the certificate that is shown expires."""

    def __init__(self, valid_until: Callable[[], float]) -> None:
        self._valid_until = valid_until

    def collect(self) -> Iterator[Metric]:
        metric = family("tls_certs_expiration_time_seconds")
        metric.add_sample(metric.name, {"resolver_name": RESOLVER}, self._valid_until())
        yield metric
