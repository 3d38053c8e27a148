"""Makes docs/metrics.md of the catalogue: `PYTHONPATH=tests python -m metrics_page > docs/metrics.md`.

A test compares.  What is told here and not in the catalogue is which of Neon's metrics are left out, and why.
"""

import sys
from collections.abc import Iterable, Sequence

from walkeeper.control.catalogue import CONNECTIONS, OURS, PROCESS, SIDECAR, STORAGE, TIMELINES, Declared

HEAD = """\
# Metrics

`/metrics` on the HTTP port, in Prometheus's text format. This page is made of the code
(`src/walkeeper/control/catalogue.py`); a test compares it with the code and with a scrape.

A keeper shows all but [a sidecar's](#a-sidecars). A [sidecar with `--listen-http`](operations.md#the-sidecars-health-and-metrics)
shows those, and [the process](#the-process).

Names that begin with `walkeeper_` are ours. All others have Neon's names, types and labels, so that its dashboards and
alerts work unchanged; where it has counters that are not called `…_total`, the text format has no type for them, and
they are `untyped`. Series with `tenant_id` and `timeline_id` vanish with their timeline. Names that clients choose get
series of their own for the first 32 of them, the others are `other`.

Metrics with a **bell** 🔔 are worth an alert: [operations.md](operations.md#what-to-alert-on) says on what.
"""

LEFT_OUT_HEAD = """
## Neon's that are not here

| name | why not |
|---|---|
"""

NO_BROKER = "there is no broker here"
NO_BACKUP = "there is no object storage here yet, and nothing is uploaded"
NO_EVICTION = "no timeline is ever evicted here"
NO_PULL = "timelines are not pulled from other keepers here yet"
NO_MANAGER = (
    "there is no manager: upkeep sleeps until it is needed, and a timeline is active while it has a writer"
    " (`safekeeper_timeline_active`)"
)

LEFT_OUT: Sequence[tuple[str, str]] = (
    ("safekeeper_broker_pushed_updates_total", NO_BROKER),
    ("safekeeper_broker_pulled_updates_total", NO_BROKER),
    ("safekeeper_broker_push_update_seconds", NO_BROKER),
    ("safekeeper_broker_iteration_timelines", NO_BROKER),
    ("safekeeper_backed_up_segments_total", NO_BACKUP),
    ("safekeeper_backup_errors_total", NO_BACKUP),
    ("safekeeper_partial_backup_uploads_total", NO_BACKUP),
    ("safekeeper_partial_backup_uploaded_bytes_total", NO_BACKUP),
    ("safekeeper_wal_backup_tasks_started_total", NO_BACKUP),
    ("safekeeper_wal_backup_tasks_finished_total", NO_BACKUP),
    ("safekeeper_wal_backup_active", NO_BACKUP),
    ("safekeeper_backup_reelect_leader_total", NO_BACKUP),
    ("remote_storage_s3_request_seconds", NO_BACKUP),
    ("remote_storage_s3_wait_seconds", NO_BACKUP),
    ("remote_storage_s3_cancelled_waits_total", NO_BACKUP),
    ("remote_storage_s3_deleted_objects_total", NO_BACKUP),
    ("safekeeper_manager_iterations_total", NO_MANAGER),
    ("safekeeper_manager_active_changes_total", NO_MANAGER),
    ("safekeeper_eviction_events_started_total", NO_EVICTION),
    ("safekeeper_eviction_events_completed_total", NO_EVICTION),
    ("safekeeper_evicted_timelines", NO_EVICTION),
    ("safekeeper_recovery_pull_timeline_errors", NO_PULL),
    ("safekeeper_recovery_pull_timeline_oks", NO_PULL),
    ("safekeeper_recovery_pull_timelines_seconds", NO_PULL),
    ("safekeeper_recovery_pull_timeline_seconds", NO_PULL),
    ("safekeeper_interpreted_wal_reader_tasks", "interpreted WAL is not served here"),
    ("metrics_metrics_stale_milliseconds", "every scrape is fresh"),
    ("hadron_critical_storage_event_count", "there are no such events; see `libmetrics_tracing_event_count`"),
)

SECTIONS: Sequence[tuple[str, Sequence[Declared]]] = (
    ("Ours", OURS),
    ("A sidecar's", SIDECAR),
    ("Storage", STORAGE),
    ("Connections", CONNECTIONS),
    ("Timelines", TIMELINES),
    ("The process", PROCESS),
)


def page() -> str:
    parts = [HEAD, *(section(title, declared) for title, declared in SECTIONS), LEFT_OUT_HEAD]
    return "".join(parts) + "".join(f"| `{name}` | {why} |\n" for name, why in LEFT_OUT)


def section(title: str, declared: Iterable[Declared]) -> str:
    head = f"\n## {title}\n\n| name | type | labels | unit | meaning | what to do with it |\n|---|---|---|---|---|---|\n"
    return head + "".join(map(row, declared))


def row(declared: Declared) -> str:
    bell = " 🔔" if declared.is_alert else ""
    kind = "untyped" if declared.kind == "unknown" else declared.kind
    labels = ", ".join(f"`{label}`" for label in declared.labels)
    cells = (f"`{declared.name}`{bell}", kind, labels, declared.unit, declared.meaning, declared.advice)
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    sys.stdout.write(page())
