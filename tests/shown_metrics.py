"""Metrics of which everything has been seen once, and timelines that can only be looked at."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import trio
from prometheus_client.core import Metric

from walkeeper.acceptor.state import AcceptorState, new_control_file
from walkeeper.control.collectors import DiskJobs, MemoryUse
from walkeeper.control.metrics import Metrics
from walkeeper.control.sidecar_metrics import SidecarMetrics
from walkeeper.errors import Malformed
from walkeeper.ids import NO_TLI, TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import Lsn
from walkeeper.membership import NO_CONFIGURATION
from walkeeper.messages import PageserverFeedback, ServerInfo
from walkeeper.sidecar.account import Account as SidecarAccount
from walkeeper.storage.store import FAILED, StoreStatistics
from walkeeper.storage.wal import REMOVE_SEGMENT
from walkeeper.timeline.account import Account
from walkeeper.timeline.registry import Client, Receiver, Registry, Sender, Waiting
from walkeeper.timeline.room import Room
from walkeeper.timeline.timeline import TimelineStatistics
from walkeeper.timeline.timelines import Timelines

TTID = TenantTimelineId(TenantId(b"t" * 16), TimelineId(b"l" * 16))
LABELS = f'{{tenant_id="{TTID.tenant_id}",timeline_id="{TTID.timeline_id}"}}'
SERVER = ServerInfo(pg_version=160_002, system_id=7, wal_seg_size=16 * 1024 * 1024)


def a_receiver(waiting: Waiting) -> Receiver:
    return Receiver(Client(1), trio.CancelScope(), lambda _feedback: None, lambda: waiting)


def a_sender(application_name: str | None) -> Sender:
    return Sender(Client(2, "", application_name), trio.CancelScope())


def an_account() -> Account:
    return Account(received_bytes=30, flushed_bytes=20, committed_bytes=10, committed_at=1.5, fuses_blown=2)


def an_open_timeline(*, readers: Sequence[str | None] = (), waiting: Waiting = Waiting()) -> TimelineStatistics:  # noqa: B008
    kept = new_control_file(
        TTID, SERVER, (0, 0), configuration=NO_CONFIGURATION, start_lsn=Lsn(0x800), commit_lsn=Lsn(0x800)
    )
    state = AcceptorState.recovered(replace(kept, commit_lsn=Lsn(0x1000)), Lsn(0), NO_TLI, is_whole=True)
    return TimelineStatistics(
        TTID,
        state,
        (a_receiver(waiting),),
        tuple(map(a_sender, readers)),
        None,
        StoreStatistics(8192, 0.5, 2.5, saved_at=2.5),
        an_account(),
        PageserverFeedback(last_received_lsn=Lsn(0x900), reply_time=1_500_000),
        3,
        is_corruption_reported=True,
        disk_usage_bytes=32,
    )


def a_shut_timeline() -> TimelineStatistics:
    return TimelineStatistics(TTID, None, (), (), Malformed("x"), StoreStatistics(), Account())


class Shown:
    """A timeline that can only be looked at."""

    def __init__(self, statistics: TimelineStatistics) -> None:
        self._statistics = statistics
        self.registry = Registry()

    def statistics(self) -> TimelineStatistics:
        return self._statistics


class ShownTimelines:
    """What a scrape asks of ``Timelines``."""

    def __init__(self, *statistics: TimelineStatistics, shut: int = 0) -> None:
        self.shown = [Shown(each) for each in statistics]
        self._shut = shut
        self.room = Room()
        self.room.free_bytes = 7

    def all(self) -> list[Shown]:
        return self.shown

    def shut(self) -> dict[int, Exception]:
        return {number: Malformed("x") for number in range(self._shut)}


class Peer:
    """A connection, of which bytes are counted."""

    def __init__(self, received_bytes: int = 0, sent_bytes: int = 0) -> None:
        self.received_bytes = received_bytes
        self.sent_bytes = sent_bytes


def watching(timelines: ShownTimelines) -> Metrics:
    metrics = Metrics("0")
    metrics.watch(cast("Timelines", timelines))
    return metrics


def everything_shown() -> list[Metric]:
    """What a scrape finds after everything has happened once."""
    metrics = watching(ShownTimelines(an_open_timeline(readers=["walreceiver"]), shut=1))
    for operation in ("write_wal", "flush_wal", "persist_control_file", "truncate_wal", REMOVE_SEGMENT, FAILED):
        metrics.storage_operation(operation, 0.001, 1)
    metrics.watch_disk(lambda: DiskJobs(0, 0.0))
    metrics.watch_memory(lambda: MemoryUse(1, 2, 3))
    metrics.watch_certificate(lambda: 1.5)
    metrics.watch_readiness(lambda: True, lambda: {"ready": 2})
    peer = Peer()
    metrics.connection_begins(peer)
    metrics.connection_identified(peer, "walreceiver", None)
    metrics.query_received("SHOW")
    metrics.query_finished("SHOW")
    metrics.refused(Malformed("x"))
    metrics.leader_followed(0.1)
    return list(metrics.registry.collect())


def everything_shown_of_a_sidecar() -> list[Metric]:
    """The same of a sidecar, of which everything is known."""
    metrics = SidecarMetrics("0")
    account = SidecarAccount(3)
    account.commits_wait = True
    account.slot_retained_bytes, account.slot_limit_bytes = 1, 2
    metrics.watch(account.look)
    return list(metrics.registry.collect())
