"""Metrics: Neon's names, and series that end with what they are about."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import httpx2
import trio
from starlette.applications import Starlette

from walkeeper.acceptor.state import AcceptorState, new_control_file
from walkeeper.control.metrics import SAMPLES_PER_TURN_MAX, Metrics, render
from walkeeper.errors import Malformed
from walkeeper.ids import NO_TLI, TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import Lsn
from walkeeper.membership import NO_CONFIGURATION
from walkeeper.messages import ServerInfo
from walkeeper.timeline.registry import Client, Receiver
from walkeeper.timeline.timeline import TimelineStatistics
from walkeeper.timeline.timelines import Timelines

TTID = TenantTimelineId(TenantId(b"t" * 16), TimelineId(b"l" * 16))
LABELS = f'{{tenant_id="{TTID.tenant_id}",timeline_id="{TTID.timeline_id}"}}'
SERVER = ServerInfo(pg_version=160_002, system_id=7, wal_seg_size=16 * 1024 * 1024)


def a_receiver() -> Receiver:
    return Receiver(Client(1), trio.CancelScope(), lambda _feedback: None)


def an_open_timeline() -> TimelineStatistics:
    kept = new_control_file(
        TTID, SERVER, (0, 0), configuration=NO_CONFIGURATION, start_lsn=Lsn(0x800), commit_lsn=Lsn(0x800)
    )
    state = AcceptorState.recovered(replace(kept, commit_lsn=Lsn(0x1000)), Lsn(0), NO_TLI, is_whole=True)
    return TimelineStatistics(TTID, state, (a_receiver(),), (), None)


def a_shut_timeline() -> TimelineStatistics:
    return TimelineStatistics(TTID, None, (), (), Malformed("x"))


class Shown:
    """A timeline that can only be looked at."""

    def __init__(self, statistics: TimelineStatistics) -> None:
        self._statistics = statistics

    def statistics(self) -> TimelineStatistics:
        return self._statistics


class ShownTimelines:
    """What a scrape asks of ``Timelines``."""

    def __init__(self, *statistics: TimelineStatistics, shut: int = 0) -> None:
        self.shown = [Shown(each) for each in statistics]
        self._shut = shut

    def all(self) -> list[Shown]:
        return self.shown

    def shut(self) -> dict[int, Exception]:
        return {number: Malformed("x") for number in range(self._shut)}


def watching(timelines: ShownTimelines) -> Metrics:
    metrics = Metrics("0")
    metrics.watch(cast("Timelines", timelines))
    return metrics


async def scraped(metrics: Metrics) -> Sequence[str]:
    return (await render(metrics.registry)).decode().splitlines()


async def test_the_endpoint_speaks_prometheus_text() -> None:
    app = Starlette(routes=[Metrics("1.2.3").route()])
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://keeper") as client:
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'libmetrics_build_info{build_tag="walkeeper-1.2.3",revision="1.2.3"} 1.0' in answer.text.splitlines()
    assert "libmetrics_metric_handler_requests_total 1.0" in answer.text.splitlines()


async def test_an_open_timeline_shows_its_positions() -> None:
    metrics = watching(ShownTimelines(an_open_timeline()))
    lines = await scraped(metrics)
    assert f"safekeeper_commit_lsn{LABELS} 4096.0" in lines
    assert f"safekeeper_flush_lsn{LABELS} 2048.0" in lines
    assert f"safekeeper_acceptor_term{LABELS} 0.0" in lines
    assert f"safekeeper_connected_computes{LABELS} 1.0" in lines
    assert f"safekeeper_timeline_active{LABELS} 1.0" in lines
    assert f"walkeeper_timeline_open{LABELS} 1.0" in lines
    assert "safekeeper_timelines 1.0" in lines
    assert "safekeeper_active_timelines 1.0" in lines
    assert "safekeeper_wal_receivers 1.0" in lines


async def test_a_shut_timeline_shows_that_it_is_and_no_positions() -> None:
    metrics = watching(ShownTimelines(a_shut_timeline(), shut=3))
    lines = await scraped(metrics)
    assert f"walkeeper_timeline_open{LABELS} 0.0" in lines
    assert "walkeeper_shut_timelines 3.0" in lines
    assert not [line for line in lines if line.startswith("safekeeper_flush_lsn{")]


async def test_the_series_of_a_timeline_vanish_with_it() -> None:
    timelines = ShownTimelines(an_open_timeline())
    metrics = watching(timelines)
    assert [line for line in await scraped(metrics) if LABELS in line]
    timelines.shown.clear()
    assert not [line for line in await scraped(metrics) if LABELS in line]


async def test_disk_operations_end_up_in_their_histograms() -> None:
    metrics = Metrics("0")
    metrics.storage_operation("write_wal", 0.002, 8192)
    metrics.storage_operation("flush_wal", 0.0002, 0)
    metrics.storage_operation("persist_control_file", 2.0, 0)
    metrics.storage_operation("truncate_wal", 0.02, 0)
    lines = await scraped(metrics)
    assert 'safekeeper_write_wal_bytes_bucket{le="1024.0"} 0.0' in lines
    assert 'safekeeper_write_wal_bytes_bucket{le="8192.0"} 1.0' in lines
    assert 'safekeeper_write_wal_seconds_bucket{le="0.001"} 0.0' in lines
    assert 'safekeeper_write_wal_seconds_bucket{le="0.003"} 1.0' in lines
    assert "safekeeper_flush_wal_seconds_sum 0.0002" in lines
    assert "safekeeper_persist_control_file_seconds_count 1.0" in lines
    assert 'safekeeper_wal_storage_operation_seconds_count{operation="truncate_wal"} 1.0' in lines


async def test_queries_refusals_and_log_lines_are_counted() -> None:
    metrics = Metrics("0")
    metrics.query_received("START_WAL_PUSH")
    metrics.query_received("START_WAL_PUSH")
    metrics.query_finished("START_WAL_PUSH")
    metrics.refused(Malformed("x"))
    metrics.log_event("warning")
    lines = await scraped(metrics)
    assert 'safekeeper_pg_queries_received_total{query="START_WAL_PUSH"} 2.0' in lines
    assert 'safekeeper_pg_queries_finished_total{query="START_WAL_PUSH"} 1.0' in lines
    assert 'walkeeper_refusals_total{error="Malformed"} 1.0' in lines
    assert 'libmetrics_tracing_event_count{level="warn"} 1.0' in lines
    assert 'libmetrics_tracing_event_count{level="error"} 0.0' in lines


async def test_what_the_process_uses_is_shown() -> None:
    names = {line.split()[0] for line in await scraped(Metrics("0")) if not line.startswith("#")}
    assert names >= {
        "process_cpu_seconds_total", "process_open_fds", "process_max_fds", "process_virtual_memory_bytes",
        "process_resident_memory_bytes", "process_start_time_seconds", "process_threads", "libmetrics_maxrss_kb",
        'libmetrics_disk_io_bytes_total{io_operation="read"}', 'libmetrics_disk_io_bytes_total{io_operation="write"}',
    }  # fmt: skip


async def test_nothing_is_shown_that_neons_do_not_have_for_every_counter() -> None:
    metrics = Metrics("0")
    metrics.storage_operation("flush_wal", 0.1, 0)
    assert not [line for line in await scraped(metrics) if "_created" in line]


async def test_two_keepers_in_one_process_count_apart() -> None:
    one, other = Metrics("0"), Metrics("0")
    one.refused(Malformed("x"))
    assert [line for line in await scraped(one) if line.startswith("walkeeper_refusals_total{")]
    assert not [line for line in await scraped(other) if line.startswith("walkeeper_refusals_total{")]


async def test_many_samples_are_one_metric_though_rendered_in_turns() -> None:
    count = 2 * SAMPLES_PER_TURN_MAX + 1
    lines = await scraped(watching(ShownTimelines(*[an_open_timeline()] * count)))
    assert lines.count("# TYPE safekeeper_commit_lsn gauge") == 1
    assert lines.count(f"safekeeper_commit_lsn{LABELS} 4096.0") == count


async def test_other_tasks_run_during_a_scrape() -> None:
    metrics = watching(ShownTimelines(*[an_open_timeline()] * 3 * SAMPLES_PER_TURN_MAX))
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        text = await render(metrics.registry)
        nursery.cancel_scope.cancel()
    assert turns >= text.count(b"\n") / (SAMPLES_PER_TURN_MAX + 2)
