"""Every metric that a keeper or a sidecar shows: its name, type, labels and unit, what it means, and what to do with it.

This is the only list.  Instruments and collectors take name, type, labels and HELP text from here, docs/metrics.md is
made of it, and a test holds what a scrape shows against it.  Names that begin with ``walkeeper_`` are ours, all others
are Neon's, with Neon's types and labels, so that its dashboards and alerts work unchanged.

Does not measure anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram", "unknown"]

TIMELINE: Final = ("tenant_id", "timeline_id")
"""The labels of whatever is about one timeline: such series vanish with it."""


@dataclass(frozen=True, slots=True)
class Declared:
    """One metric.  ``kind``: ``unknown`` stands for counters whose name does not end in ``_total``, which Prometheus's
    text format has no type for.  ``is_alert``: docs/operations.md says what to do when it rises."""

    name: str
    kind: Kind
    unit: str
    meaning: str
    advice: str
    labels: tuple[str, ...] = ()
    is_alert: bool = False


STORAGE: Final = (
    Declared(
        "safekeeper_write_wal_bytes", "histogram", "bytes",
        "WAL in one write, which is what shares one sync",
        "Commits of many writers gather here when the disk is slow; compare with `walkeeper_batch_appends`.",
    ),
    Declared(
        "safekeeper_write_wal_seconds", "histogram", "seconds",
        "Time of a write of WAL into the page cache",
        "Above some milliseconds the kernel is short of memory, or is writing back what a slow disk owes it.",
    ),
    Declared(
        "safekeeper_flush_wal_seconds", "histogram", "seconds",
        "Time of an fsync of WAL; buckets up to 30 s",
        "What the disk costs each commit: alert on a 99th percentile of some times the usual one, and move to a quicker disk"
        " when it stays.",
        is_alert=True,
    ),
    Declared(
        "safekeeper_persist_control_file_seconds", "histogram", "seconds",
        "Time to save a control file: two fsyncs and a rename",
        "Elections take that long on this keeper; look at the disk as for `safekeeper_flush_wal_seconds`.",
    ),
    Declared(
        "safekeeper_wal_storage_operation_seconds", "histogram", "seconds",
        "Time of an operation on segment files: initialize_segment, initialize_first_segment, truncate_wal",
        "Commits wait for initialize_segment; when it takes long the next segment was not made in time.",
        ("operation",),
    ),
    Declared(
        "safekeeper_removed_wal_segments_total", "counter", "segments",
        "Segments removed here",
        "Only truncations remove segments so far, after an election that found WAL which nobody had committed.",
    ),
    Declared(
        "safekeeper_wal_disk_io_errors", "unknown", "errors",
        "Operations on WAL and control files that failed, a full disk included",
        "Any is worth a look at the log and at the disk.",
        is_alert=True,
    ),
    Declared(
        "safekeeper_wal_storage_limit_errors", "unknown", "messages",
        "Messages refused since the segments of their timeline take `--max-timeline-disk-usage-bytes`",
        "`walkeeper_timeline_over_limit` says of which timeline: remove segments, or allow more.",
        is_alert=True,
    ),
    Declared(
        "safekeeper_global_disk_utilization_check_seconds", "histogram", "seconds",
        "Time of a look at how much of the file system is free",
        "A disk or a network file system that takes long for that takes long for everything.",
    ),
)  # fmt: skip

CONNECTIONS: Final = (
    Declared(
        "safekeeper_pg_io_bytes_total", "counter", "bytes",
        "Bytes on the PostgreSQL port, by who is at the other end",
        "Shows who reads and writes how much, and what crosses availability zones; of many names the later ones are `other`.",
        ("client_az", "sk_az", "app_name", "dir", "same_az"),
    ),
    Declared(
        "safekeeper_pg_queries_received_total", "counter", "commands",
        "Commands begun on the PostgreSQL port",
        "START_WAL_PUSH that comes again and again is a writer that is sent away each time: see `walkeeper_refusals_total`.",
        ("query",),
    ),
    Declared(
        "safekeeper_pg_queries_finished_total", "counter", "commands",
        "Commands ended on the PostgreSQL port",
        "Received less finished are running.",
        ("query",),
    ),
    Declared(
        "safekeeper_proposer_acceptor_messages_total", "counter", "messages",
        "Messages of writers that were processed; appends that share a sync count once",
        "Errors are refusals: `walkeeper_refusals_total` says of what.",
        ("outcome",),
    ),
    Declared(
        "safekeeper_misc_operation_seconds", "histogram", "seconds",
        "Time of handle_elected: following a new leader, with its truncation",
        "Part of how long commits wait after a change of leader.",
        ("operation",),
    ),
    Declared(
        "safekeeper_received_ps_feedbacks_total", "counter", "messages",
        "Reports of pageservers",
        "Standing still while pageservers are connected, they are stuck.",
    ),
    Declared(
        "safekeeper_wal_receivers", "gauge", "connections",
        "Connected writers of all timelines",
        "As many as there are databases that write here.",
    ),
    Declared(
        "safekeeper_wal_readers", "gauge", "connections",
        "Readers that are sent WAL, by application name",
        "A standby that is missing here is not connected; of many names the later ones are `other`.",
        ("kind", "target"),
    ),
    Declared(
        "safekeeper_wal_receiver_queue_depth", "histogram", "messages",
        "How many messages of one writer wait for the disk, looked at every 5 s",
        "Mostly 0; at 256 the disk is slower than the writer, and its TCP window closes.",
    ),
    Declared(
        "safekeeper_wal_receiver_queue_depth_total", "gauge", "messages",
        "Messages of all writers that wait for the disk",
        "As above, of all of them, now.",
    ),
    Declared(
        "safekeeper_wal_receiver_queue_size_total", "gauge", "bytes",
        "Receive buffers of all writers that are held until the disk has them",
        "At most 16 MiB for each writer; it is memory that this process needs.",
    ),
    Declared(
        "http_server_connection_started_total", "counter", "connections",
        "HTTP connections accepted",
        "A rate far above that of probes and scrapes is somebody else.",
        ("scheme",),
    ),
    Declared(
        "http_server_connection_errors_total", "counter", "connections",
        "HTTPS connections for which no TLS came about, in time or at all (type tls); others are not counted here",
        "Clients do not trust the certificate, or are no HTTPS clients: the log says why.",
        ("type",),
    ),
    Declared(
        "tls_certs_expiration_time_seconds", "gauge", "seconds since 1970",
        "When the certificate that is shown expires; absent without TLS",
        "Alert two weeks before: clients that verify it, writers among them, are lost at that moment.",
        ("resolver_name",), is_alert=True,
    ),
    Declared(
        "tls_certs_reload_started_total", "counter", "looks",
        "Looks at the files of the certificate",
        "One every `--ssl-cert-reload-period`.",
        ("resolver_name",),
    ),
    Declared(
        "tls_certs_reload_updated_total", "counter", "looks",
        "Looks after which another certificate was shown",
        "Tells that a renewal has arrived.",
        ("resolver_name",),
    ),
    Declared(
        "tls_certs_reload_failed_total", "counter", "looks",
        "Looks at files that are not usable; the certificate of before is shown on",
        "Growing, somebody has put half a certificate there, one without its key, or an expired one: the log says which.",
        ("resolver_name",), is_alert=True,
    ),
)  # fmt: skip

TIMELINES: Final = (
    Declared(
        "safekeeper_commit_lsn", "gauge", "LSN",
        "Up to where WAL is known to be on a quorum",
        "Not moving while the database writes, commits wait: `walkeeper status` says for whom.",
        TIMELINE, is_alert=True,
    ),
    Declared(
        "safekeeper_flush_lsn", "gauge", "LSN",
        "Up to where WAL is durable here",
        "Less than that of the other keepers by ever more, this one falls behind: look at its disk and network.",
        TIMELINE, is_alert=True,
    ),
    Declared(
        "safekeeper_backup_lsn", "gauge", "LSN",
        "Up to where WAL is said to be in remote storage",
        "Nothing here uploads WAL yet; it moves only where another keeper of Neon's said so before.",
        TIMELINE,
    ),
    Declared(
        "safekeeper_epoch_start_lsn", "gauge", "LSN",
        "Where the term of the present leader starts; 0 if there was none since the start",
        "A commit LSN below it means that this leader has not committed anything yet.",
        TIMELINE,
    ),
    Declared(
        "safekeeper_peer_horizon_lsn", "gauge", "LSN",
        "Up to where every keeper has the WAL, as the leader said",
        "Standing still, one keeper of the quorum is missing: find out which, since the next loss costs the majority.",
        TIMELINE, is_alert=True,
    ),
    Declared(
        "safekeeper_remote_consistent_lsn", "gauge", "LSN",
        "Up to where pageservers need no WAL any more",
        "Only with pageservers; standing still, they lag.",
        TIMELINE,
    ),
    Declared(
        "safekeeper_ps_last_received_lsn", "gauge", "LSN",
        "Up to where a pageserver has received WAL, as the last report said; 0 if there was none",
        "Less than the commit LSN by ever more, it falls behind.",
        TIMELINE,
    ),
    Declared(
        "safekeeper_feedback_last_time_seconds", "gauge", "seconds since 1970",
        "When the last report of a pageserver was written, by its clock; the year 2000 if there was none",
        "Long ago while one is connected, it is stuck.",
        TIMELINE,
    ),
    Declared(
        "safekeeper_ps_feedback_count_total", "gauge", "messages",
        "Reports of pageservers since this keeper was started",
        "As `safekeeper_received_ps_feedbacks_total`, of one timeline.",
        TIMELINE,
    ),
    Declared(
        "safekeeper_ps_corruption_detected", "gauge", "0 or 1",
        "1 when a pageserver has reported corruption since this keeper was started",
        "Look at that pageserver's log, and at the WAL here with `walkeeper inspect`.",
        TIMELINE, is_alert=True,
    ),
    Declared(
        "safekeeper_timeline_active", "gauge", "0 or 1",
        "1 while a writer is connected",
        "0 for a database that runs: its writer does not reach this keeper, or is sent away.",
        TIMELINE,
    ),
    Declared(
        "safekeeper_connected_computes", "gauge", "connections",
        "Connected writers",
        "More than one for more than a moment: two of them fence each other in turn.",
        TIMELINE,
    ),
    Declared(
        "safekeeper_acceptor_term", "gauge", "term",
        "The newest term voted for",
        "Each step is an election; many in a row are writers that fence each other, or a writer that is started over and over.",
        TIMELINE,
    ),
    Declared(
        "safekeeper_written_wal_bytes_total", "gauge", "bytes",
        "WAL written since this keeper was started",
        "The rate at which a database writes.",
        TIMELINE,
    ),
    Declared(
        "safekeeper_written_wal_seconds_total", "gauge", "seconds",
        "Time spent in writes of WAL since this keeper was started",
        "Which timeline it is that a slow disk is busy with.",
        TIMELINE,
    ),
    Declared(
        "safekeeper_flushed_wal_seconds_total", "gauge", "seconds",
        "Time spent in fsyncs of WAL since this keeper was started",
        "Its rate is the part of the time in which this timeline waits for its disk; near 1 the disk is the limit.",
        TIMELINE,
    ),
    Declared(
        "safekeeper_disk_usage_bytes", "gauge", "bytes",
        "What the segments take, from the first one to the one that is written; absent while there are none",
        "Grows until somebody removes segments; of those that were removed by hand it hears with the next segment.",
        TIMELINE,
    ),
    Declared(
        "safekeeper_timelines", "gauge", "timelines",
        "Timelines that can be used",
        "Those that could not be read at the start are in `walkeeper_shut_timelines`.",
    ),
    Declared(
        "safekeeper_active_timelines", "gauge", "timelines",
        "Timelines with a writer",
        "As many as there are databases that run.",
    ),
    Declared(
        "safekeeper_collect_timeline_metrics_seconds", "gauge", "seconds",
        "How long the last look at all timelines took, with the turns of other tasks in between",
        "Above a second scrape less often.",
    ),
)  # fmt: skip

PROCESS: Final = (
    Declared(
        "libmetrics_build_info", "gauge", "always 1",
        "What is running",
        "Tells which keepers have been upgraded.",
        ("revision", "build_tag"),
    ),
    Declared(
        "libmetrics_metric_handler_requests_total", "counter", "requests",
        "Scrapes of this endpoint",
        "Who scrapes how often.",
    ),
    Declared(
        "libmetrics_tracing_event_count", "unknown", "lines",
        "Log lines by level",
        "Any rate of error is worth reading the log.",
        ("level",), is_alert=True,
    ),
    Declared(
        "walkeeper_log_lines_lost_total", "counter", "lines",
        "Log lines that could not be written",
        "The disk of the log is full, or whoever read it has ended; all else goes on.",
    ),
    Declared(
        "libmetrics_disk_io_bytes_total", "gauge", "bytes",
        "Bytes read from and written to disks by this process",
        "Reads are readers of WAL that is no longer cached, or the start.",
        ("io_operation",),
    ),
    Declared(
        "libmetrics_maxrss_kb", "gauge", "KiB",
        "The most memory this process ever had",
        "What a memory limit has to leave room for.",
    ),
    Declared(
        "process_cpu_seconds_total", "counter", "seconds",
        "CPU time of this process",
        "A rate near 1 is one core, which is all that the event loop can use.",
    ),
    Declared(
        "process_open_fds", "gauge", "descriptors",
        "Open file descriptors",
        "Near `process_max_fds` new connections wait: raise the limit.",
        is_alert=True,
    ),
    Declared(
        "process_max_fds", "gauge", "descriptors",
        "The limit of open file descriptors",
        "Three for each writer and reader, and 272.",
    ),
    Declared(
        "process_virtual_memory_bytes", "gauge", "bytes",
        "Address space of this process",
        "Says little; see `process_resident_memory_bytes`.",
    ),
    Declared(
        "process_resident_memory_bytes", "gauge", "bytes",
        "Memory of this process",
        "Growing for days with the same load, it leaks: restart it, and tell us.",
    ),
    Declared(
        "process_start_time_seconds", "gauge", "seconds since 1970",
        "When this process was started",
        "Changing by itself, something restarts it: the log, or that of the service manager, says why.",
        is_alert=True,
    ),
    Declared(
        "process_threads", "gauge", "threads",
        "Threads of this process",
        "Always the same.",
    ),
)  # fmt: skip

NEON: Final = (*STORAGE, *CONNECTIONS, *TIMELINES, *PROCESS)

OURS: Final = (
    Declared(
        "walkeeper_ack_seconds", "histogram", "seconds",
        "From the arrival of WAL, the oldest of those that share a sync, to its answer being with the kernel",
        "What this keeper adds to a commit: alert on the 99th percentile; if `safekeeper_flush_wal_seconds` is as slow it is"
        " the disk, if not, see `walkeeper_loop_lag_seconds`.",
        is_alert=True,
    ),
    Declared(
        "walkeeper_batch_appends", "histogram", "appends",
        "Appends that have shared a sync",
        "1 while the disk is quicker than the writer; the more share a sync, the more it is the disk that is waited for.",
    ),
    Declared(
        "walkeeper_flush_peak_seconds", "gauge", "seconds",
        "The longest fsync of WAL of the last one to two minutes",
        "One that takes seconds is a disk that stalls, though percentiles may not show it.",
        is_alert=True,
    ),
    Declared(
        "walkeeper_wal_bytes_total", "counter", "bytes",
        "WAL received, flushed and committed since this keeper was started, in this order and never more than the stage before",
        "Received ahead of flushed is what waits for the disk, or was refused; flushed ahead of committed waits for other"
        " keepers.",
        (*TIMELINE, "stage"),
    ),
    Declared(
        "walkeeper_last_commit_timestamp_seconds", "gauge", "seconds since 1970",
        "When the commit LSN moved last; absent before it has",
        "How long ago tells a stream that stands still from one that is slow.",
        TIMELINE,
    ),
    Declared(
        "walkeeper_last_control_file_save_timestamp_seconds", "gauge", "seconds since 1970",
        "When the control file was saved last, or read at the start",
        "While WAL is committed, at most `--control-file-save-interval` ago; longer, saving fails: see the log.",
        TIMELINE,
    ),
    Declared(
        "walkeeper_fuses_blown_total", "counter", "times",
        "How often an operation ended halfway, so that the timeline had to be read again from disk",
        "Any is worth a look at the log: the disk has failed, or this program has.",
        TIMELINE, is_alert=True,
    ),
    Declared(
        "walkeeper_loop_lag_seconds", "histogram", "seconds",
        "How late a task wakes that sleeps a tenth of a second",
        "Everything here waits for that; mostly below a millisecond or two. More is too little CPU.",
    ),
    Declared(
        "walkeeper_loop_lag_peak_seconds", "gauge", "seconds",
        "The latest that it woke in the last one to two minutes",
        "Above a second the machine stood still, or a disk stalled under a small commit.",
        is_alert=True,
    ),
    Declared(
        "walkeeper_slow_steps_total", "counter", "steps",
        "Times that one task kept all others from running for more than 0.2 s",
        "Counted within a minute after `the event loop was late`; the log names the task: `a step of the event loop was slow`.",
        is_alert=True,
    ),
    Declared(
        "walkeeper_disk_jobs", "gauge", "jobs",
        "Jobs that the disk has been given and has not answered yet",
        "More than the 8 threads for longer than a moment: some wait for a thread, and the disk is too slow.",
    ),
    Declared(
        "walkeeper_disk_oldest_job_seconds", "gauge", "seconds",
        "For how long the oldest of them has been there",
        "Above some seconds the disk hangs; `/livez?verbose` says in what and for which timeline.",
        is_alert=True,
    ),
    Declared(
        "walkeeper_unsent_replies", "gauge", "replies",
        "Answers that wait for writers that do not read",
        "Mostly 0; a writer, or the network to it, is stuck.",
    ),
    Declared(
        "walkeeper_timeline_open", "gauge", "0 or 1",
        "0 while nothing is taken, since the timeline must be read from disk again",
        "For more than a moment its files cannot be read: the log says why.",
        TIMELINE, is_alert=True,
    ),
    Declared(
        "walkeeper_shut_timelines", "gauge", "timelines",
        "Timelines whose files could not be read at the start",
        "Look with `walkeeper inspect`; the others are served.",
        is_alert=True,
    ),
    Declared(
        "walkeeper_timeline_over_limit", "gauge", "0 or 1",
        "1 while WAL is refused since the segments take `--max-timeline-disk-usage-bytes`",
        "Commits wait once that is so on a majority: remove segments that nobody needs, or allow more.",
        TIMELINE, is_alert=True,
    ),
    Declared(
        "walkeeper_disk_refuses_wal", "gauge", "0 or 1",
        "1 while WAL is refused since the file system is nearly full",
        "Commits wait once that is so on a majority: make room; it goes on by itself then.",
        is_alert=True,
    ),
    Declared(
        "walkeeper_disk_free_bytes", "gauge", "bytes",
        "Free in the file system, when it was looked at last",
        "Compare with `walkeeper_disk_reserve_bytes`: alert while there is still time, at some times that.",
        is_alert=True,
    ),
    Declared(
        "walkeeper_disk_reserve_bytes", "gauge", "bytes",
        "With less free than that WAL is refused; with a quarter more it is taken again",
        "Follows from `--max-global-disk-usage-ratio`.",
    ),
    Declared(
        "walkeeper_memory_bytes", "gauge", "bytes",
        "What connections hold: `queued` waits for the disk; `reading` is set aside for readers, 512 KiB for each that is"
        " connected, whatever it is being sent",
        "Near `walkeeper_memory_limit_bytes` writers are read from only as the disk catches up, and at half of it readers are"
        " refused: `--max-memory` must be a MiB for each reader, and more for writers.",
        ("stage",), is_alert=True,
    ),
    Declared(
        "walkeeper_memory_limit_bytes", "gauge", "bytes",
        "How much that may be",
        "`--max-memory`, or what follows from the machine.",
    ),
    Declared(
        "walkeeper_ready", "gauge", "",
        "1 while `/readyz` says 200",
        "0 for long is a keeper that has not caught up with the others, which `/readyz` and its log explain: until it has, lose no"
        " other keeper.",
        is_alert=True,
    ),
    Declared(
        "walkeeper_peers", "gauge", "keepers",
        "The other keepers of `--peer-http`, as they were seen last: `ready`, `unready` or `silent`",
        "Seen by each keeper, every ten seconds: one that is silent for a single other one is a matter of the network between them.",
        ("state",),
    ),
    Declared(
        "walkeeper_refusals_total", "counter", "requests",
        "Requests on the PostgreSQL port that ended in an error, by its name",
        "The log says to whom and why; NotElected and WalGap now and then are a writer that was fenced.",
        ("error",), is_alert=True,
    ),
)  # fmt: skip

SIDECAR: Final = (
    Declared(
        "walkeeper_sidecar_leading", "gauge", "0 or 1",
        "1 while it leads the keepers",
        "0 for longer than some seconds, commits wait: `/readyz` and the log say for what. 1 alone is not enough: see"
        " `walkeeper_sidecar_keepers`.",
        is_alert=True,
    ),
    Declared(
        "walkeeper_sidecar_term", "gauge", "term",
        "The term in which it leads, or asks for votes; 0 before the first",
        "Each step is an election.",
    ),
    Declared(
        "walkeeper_sidecar_keepers", "gauge", "keepers",
        "The listed keepers: `acknowledging` get the newest WAL and count; `catching_up` are there, and do not have it yet;"
        " `incomplete` are new or have lost their disk, and do not count; `lost` are not reached",
        "With fewer acknowledging than `walkeeper_sidecar_keepers_needed` commits wait; with as many, the next loss makes them.",
        ("state",), is_alert=True,
    ),
    Declared(
        "walkeeper_sidecar_keepers_needed", "gauge", "keepers",
        "How many have to acknowledge: the majority",
        "Compare with `walkeeper_sidecar_keepers`.",
    ),
    Declared(
        "walkeeper_sidecar_received_lsn", "gauge", "LSN",
        "Up to where WAL has come from the primary; 0 before the first",
        "Its rate is that at which the database writes.",
    ),
    Declared(
        "walkeeper_sidecar_commit_lsn", "gauge", "LSN",
        "Up to where a majority has it, as far as this sidecar has seen; 0 before the first",
        "Standing still while `walkeeper_sidecar_received_lsn` moves, commits wait.",
    ),
    Declared(
        "walkeeper_sidecar_waiting_seconds", "gauge", "seconds",
        "For how long the oldest WAL that no majority has has been here; 0 if there is none",
        "Above some seconds commits stand still: `/readyz` and [`walkeeper why-blocked`](operations.md#why-commits-wait) say for"
        " whom. WAL that the primary has not been asked for does not count: see `walkeeper_sidecar_leading`.",
        is_alert=True,
    ),
    Declared(
        "walkeeper_sidecar_ack_seconds", "histogram", "seconds",
        "From the arrival of WAL from the primary to a majority having it; one sample at a time",
        "What keepers add to a commit, with the network to them: compare with `walkeeper_ack_seconds` of each keeper.",
        is_alert=True,
    ),
    Declared(
        "walkeeper_sidecar_elections_total", "counter", "elections",
        "Elections won since this sidecar was started",
        "One for each start and each session; more are links that break: see the log.",
        is_alert=True,
    ),
    Declared(
        "walkeeper_sidecar_sessions_ended_total", "counter", "sessions",
        "Sessions, of one connection to the primary and one leadership, that ended, or did not come about",
        "Commits wait until the next one leads; the log's `session ended` says why.",
        is_alert=True,
    ),
    Declared(
        "walkeeper_sidecar_commits_wait", "gauge", "0 or 1",
        "0 while the primary's settings let commits return before a majority of keepers has them; absent before it was asked",
        "0: an acknowledged commit may be lost with the primary; the log's `commits do not wait for keepers` says how to change"
        " it.",
        is_alert=True,
    ),
    Declared(
        "walkeeper_sidecar_slot_retained_bytes", "gauge", "bytes",
        "WAL that the primary keeps for this sidecar's slot; absent before it has been looked at, and if it has never kept"
        " any; once it has lost it, what it would have to keep",
        "Near `walkeeper_sidecar_slot_limit_bytes` the stream will be lost: bring back a majority of keepers.",
        is_alert=True,
    ),
    Declared(
        "walkeeper_sidecar_slot_limit_bytes", "gauge", "bytes",
        "How much that may be: the primary's `max_slot_wal_keep_size`; absent if it is unlimited",
        "Absent, the primary's disk is the limit.",
    ),
    Declared(
        "walkeeper_sidecar_slot_look_failures_total", "counter", "looks",
        "Looks at slot and settings that failed; there is one every 30 s",
        "Rising, the last figures are old: the log's `the primary cannot be looked at` says why.",
        is_alert=True,
    ),
)  # fmt: skip

OF_KEEPERS: Final = (*NEON, *OURS)
OF_SIDECARS: Final = (*SIDECAR, *PROCESS)

ALL: Final[Mapping[str, Declared]] = {each.name: each for each in (*OF_KEEPERS, *SIDECAR)}
