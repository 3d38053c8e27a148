"""Metrics: Neon's names, and series that end with what they are about."""

from collections.abc import Sequence

import httpx2
import pytest
import trio
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette

from shown_metrics import LABELS, Peer, ShownTimelines, a_shut_timeline, an_open_timeline, watching
from walkeeper.control.collectors import DiskJobs
from walkeeper.control.instruments import NAME_CHARACTERS_MAX, NAMES_MAX
from walkeeper.control.metrics import Metrics
from walkeeper.control.scrape import SAMPLES_PER_TURN_MAX, render
from walkeeper.errors import FileSystemLimit, Malformed, TimelineLimit
from walkeeper.storage.store import FAILED
from walkeeper.storage.wal import REMOVE_SEGMENT
from walkeeper.timeline.registry import Client, Waiting


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


async def test_what_the_disk_has_left_is_shown() -> None:
    lines = await scraped(watching(ShownTimelines(an_open_timeline())))
    assert f"safekeeper_disk_usage_bytes{LABELS} 32.0" in lines
    assert f"walkeeper_timeline_over_limit{LABELS} 0.0" in lines
    assert {"walkeeper_disk_free_bytes 7.0", "walkeeper_disk_refuses_wal 0.0"} <= set(lines)


async def test_refusals_by_the_limit_of_a_timeline_count_by_neons_name_too() -> None:
    metrics = Metrics("0")
    metrics.refused(TimelineLimit(5))
    metrics.refused(FileSystemLimit(1, 2))
    assert "safekeeper_wal_storage_limit_errors 1.0" in await scraped(metrics)


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


async def test_what_pageservers_report_and_what_the_disk_took_is_shown_for_each_timeline() -> None:
    lines = await scraped(watching(ShownTimelines(an_open_timeline())))
    assert f"safekeeper_ps_last_received_lsn{LABELS} 2304.0" in lines
    assert f"safekeeper_feedback_last_time_seconds{LABELS} 946684801.5" in lines
    assert f"safekeeper_ps_feedback_count_total{LABELS} 3.0" in lines
    assert f"safekeeper_ps_corruption_detected{LABELS} 1.0" in lines
    assert f"safekeeper_written_wal_bytes_total{LABELS} 8192.0" in lines
    assert f"safekeeper_written_wal_seconds_total{LABELS} 0.5" in lines
    assert f"safekeeper_flushed_wal_seconds_total{LABELS} 2.5" in lines


async def test_a_timeline_without_pageservers_shows_that_there_was_no_report() -> None:
    lines = await scraped(watching(ShownTimelines(a_shut_timeline())))
    assert f"safekeeper_ps_last_received_lsn{LABELS} 0.0" in lines
    assert f"safekeeper_feedback_last_time_seconds{LABELS} 946684800.0" in lines


async def test_what_waits_for_the_disk_is_added_up_over_all_writers() -> None:
    timelines = [an_open_timeline(waiting=Waiting(3, 700)), an_open_timeline(waiting=Waiting(1, 50))]
    lines = await scraped(watching(ShownTimelines(*timelines)))
    assert "safekeeper_wal_receiver_queue_depth_total 4.0" in lines
    assert "safekeeper_wal_receiver_queue_size_total 750.0" in lines


async def test_a_look_at_the_queues_counts_each_writer() -> None:
    timelines = ShownTimelines(a_shut_timeline())
    metrics = watching(timelines)
    registry = timelines.shown[0].registry
    with registry.receiving(Client(1), print), registry.receiving(Client(2), print, lambda: Waiting(5, 0)):
        metrics.look_at_queues()
    lines = await scraped(metrics)
    assert 'safekeeper_wal_receiver_queue_depth_bucket{le="0.0"} 1.0' in lines
    assert 'safekeeper_wal_receiver_queue_depth_bucket{le="4.0"} 1.0' in lines
    assert 'safekeeper_wal_receiver_queue_depth_bucket{le="8.0"} 2.0' in lines


def test_there_are_no_queues_to_look_at_before_there_are_timelines() -> None:
    metrics = Metrics("0")
    metrics.look_at_queues()
    assert metrics.registry.get_sample_value("safekeeper_wal_receiver_queue_depth_count") == 0


async def test_readers_are_counted_by_their_names() -> None:
    lines = await scraped(watching(ShownTimelines(an_open_timeline(readers=["a", "b", "a", None]))))
    assert 'safekeeper_wal_readers{kind="future",target="a"} 2.0' in lines
    assert 'safekeeper_wal_readers{kind="future",target="b"} 1.0' in lines
    assert 'safekeeper_wal_readers{kind="future",target="unknown"} 1.0' in lines


async def test_however_many_names_clients_make_up_the_series_are_few() -> None:
    metrics = watching(ShownTimelines(an_open_timeline(readers=[f"reader {n}" for n in range(3 * NAMES_MAX)])))
    for number in range(3 * NAMES_MAX):
        peer = Peer(1, 1)
        metrics.connection_begins(peer)
        metrics.connection_identified(peer, "x" * number * 10, f"zone {number}")
        metrics.connection_ends(peer)
    lines = await scraped(metrics)
    assert len([line for line in lines if line.startswith("safekeeper_wal_readers{")]) == NAMES_MAX + 1
    assert len([line for line in lines if line.startswith("safekeeper_pg_io_bytes_total{")]) <= 4 * (NAMES_MAX + 2)
    assert max(map(len, lines)) < NAME_CHARACTERS_MAX + 200


@pytest.mark.parametrize(("zone", "same"), [("a", "true"), ("b", "false"), (None, "unknown")])
async def test_the_bytes_of_a_connection_are_those_of_whoever_is_there(zone: str | None, same: str) -> None:
    """Live ones and those that have ended; of one that has not said who it is they count when it is gone."""
    metrics = Metrics("0", "a")
    gone, there, stranger = Peer(), Peer(), Peer()
    for peer in (gone, there, stranger):
        metrics.connection_begins(peer)
    for peer in (gone, there):
        metrics.connection_identified(peer, "walreceiver", zone)
    gone.received_bytes, there.received_bytes, there.sent_bytes, stranger.sent_bytes = 100, 20, 3, 7
    metrics.connection_ends(gone)
    value = metrics.registry.get_sample_value
    labels = {"client_az": zone or "unknown", "sk_az": "a", "app_name": "walreceiver", "same_az": same}
    assert value("safekeeper_pg_io_bytes_total", labels | {"dir": "read"}) == 120
    assert value("safekeeper_pg_io_bytes_total", labels | {"dir": "write"}) == 3
    labels = {"client_az": "unknown", "sk_az": "a", "app_name": "unknown", "same_az": "unknown"}
    assert value("safekeeper_pg_io_bytes_total", labels | {"dir": "write"}) is None
    metrics.connection_ends(stranger)
    assert value("safekeeper_pg_io_bytes_total", labels | {"dir": "write"}) == 7


async def test_wal_is_counted_by_how_far_it_got_and_the_last_successes_have_a_time() -> None:
    lines = await scraped(watching(ShownTimelines(an_open_timeline())))
    staged = LABELS.replace("{", '{stage="received",')
    assert f"walkeeper_wal_bytes_total{staged} 30.0" in lines
    assert f"walkeeper_wal_bytes_total{staged.replace('received', 'flushed')} 20.0" in lines
    assert f"walkeeper_wal_bytes_total{staged.replace('received', 'committed')} 10.0" in lines
    assert f"walkeeper_last_commit_timestamp_seconds{LABELS} 1.5" in lines
    assert f"walkeeper_last_control_file_save_timestamp_seconds{LABELS} 2.5" in lines
    assert f"walkeeper_fuses_blown_total{LABELS} 2.0" in lines


async def test_what_has_not_happened_yet_has_no_time() -> None:
    lines = await scraped(watching(ShownTimelines(a_shut_timeline())))
    assert not [line for line in lines if "timestamp_seconds{" in line]


async def test_answers_batches_and_what_the_disk_is_at_are_shown() -> None:
    metrics = watching(ShownTimelines(an_open_timeline(waiting=Waiting(0, 0, 3))))
    metrics.watch_disk(lambda: DiskJobs(2, 7.5))
    metrics.acknowledged(0.002)
    metrics.appends_kept(3)
    metrics.loop_lagged(0.03)
    lines = await scraped(metrics)
    assert 'walkeeper_ack_seconds_bucket{le="0.001"} 0.0' in lines
    assert 'walkeeper_ack_seconds_bucket{le="0.0025"} 1.0' in lines
    assert "walkeeper_batch_appends_sum 3.0" in lines
    assert "walkeeper_loop_lag_seconds_sum 0.03" in lines
    assert "walkeeper_disk_jobs 2.0" in lines
    assert "walkeeper_disk_oldest_job_seconds 7.5" in lines
    assert "walkeeper_unsent_replies 3.0" in lines


def test_a_peak_is_remembered_for_one_turn_and_forgotten_after_the_next() -> None:
    metrics = Metrics("0")
    seen = []
    for seconds in (9.0, 3.0, 0.0, 0.0):
        metrics.storage_operation("flush_wal", seconds, 0)
        metrics.loop_lagged(seconds)
        seen.append(metrics.registry.get_sample_value("walkeeper_flush_peak_seconds"))
        assert metrics.registry.get_sample_value("walkeeper_loop_lag_peak_seconds") == seen[-1]
        metrics.turn_peaks()
    assert seen == [9.0, 9.0, 3.0, 0.0]


async def test_failures_removals_messages_and_connections_are_counted() -> None:
    metrics = Metrics("0")
    metrics.storage_operation(FAILED, 0.0, 0)
    metrics.storage_operation(REMOVE_SEGMENT, 0.1, 1)
    metrics.message_processed(is_accepted=True)
    metrics.message_processed(is_accepted=False)
    metrics.message_processed(is_accepted=False)
    metrics.leader_followed(0.2)
    metrics.pageserver_reported()
    metrics.http_connection_begins()
    lines = await scraped(metrics)
    assert "safekeeper_wal_disk_io_errors 1.0" in lines
    assert "safekeeper_removed_wal_segments_total 1.0" in lines
    assert 'safekeeper_proposer_acceptor_messages_total{outcome="success"} 1.0' in lines
    assert 'safekeeper_proposer_acceptor_messages_total{outcome="error"} 2.0' in lines
    assert 'safekeeper_misc_operation_seconds_sum{operation="handle_elected"} 0.2' in lines
    assert "safekeeper_received_ps_feedbacks_total 1.0" in lines
    assert 'http_server_connection_started_total{scheme="http"} 1.0' in lines


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


async def test_what_is_rendered_here_reads_as_what_prometheus_client_renders() -> None:
    metrics = watching(ShownTimelines(an_open_timeline()))
    metrics.acknowledged(0.3)
    traffic = Peer()
    metrics.connection_begins(traffic)
    metrics.connection_identified(traffic, 'a "quoted" \\ name\nin two lines', None)
    ours, theirs = (
        {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for metric in text_string_to_metric_families(text.decode())
            for sample in metric.samples
            if not sample.name.startswith(("process_", "safekeeper_collect_"))
        }
        for text in (await render(metrics.registry), generate_latest(metrics.registry))
    )
    assert ours == theirs


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
