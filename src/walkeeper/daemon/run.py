"""The life of the keeper, from its data directory to its last breath.

Start: the data directory is claimed (lock, id, everything made durable), the sockets are bound, health and metrics
are served, the timelines are read from disk, writers and readers are let in, the service manager is told.

Shutdown is the indentation (``serve``): whatever was entered last ends first.  SIGTERM or SIGINT ends only the
accepting; connections then have ``drain_seconds`` to finish what they began, timelines save their control files,
and health and metrics answer until then.  A second signal kills at once, which is safe: no promise depends on a
tidy end.  A failed fsync, wherever it comes from, ends everything (DurabilityLost).

Does not know how anything is done: it only says in which order.
Source of the order: Neon's ``bin/safekeeper.rs``.
"""

import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import structlog
import trio

import walkeeper
from walkeeper.auth.claims import Verify
from walkeeper.control.api import ManagementApi
from walkeeper.control.app import create_app
from walkeeper.control.collectors import MemoryUse
from walkeeper.control.dump import KeeperConfig
from walkeeper.control.health import Readiness, health_routes
from walkeeper.control.metrics import Metrics
from walkeeper.control.server import serving_http
from walkeeper.daemon import files, memory
from walkeeper.daemon.config import ServeConfig, TimingConfig
from walkeeper.daemon.logs import configure_logs
from walkeeper.daemon.notify import READY, STOPPING, notify
from walkeeper.daemon.pulse import keeping_pulse
from walkeeper.daemon.sockets import bind, bound_address, is_loopback
from walkeeper.daemon.stop import wait_for_stop
from walkeeper.daemon.watch import WatchedOffload
from walkeeper.errors import ConfigError, Malformed
from walkeeper.formats.control_file import control_file_as_json, parse_control_file
from walkeeper.services.budget import Budget
from walkeeper.services.listener import Limits, SocketListener, accepting
from walkeeper.storage.data_directory import DataDirectory, claim
from walkeeper.storage.disk import OsDisk
from walkeeper.storage.offload import Offload, ThreadOffload
from walkeeper.timeline.room import DiskLimits
from walkeeper.timeline.timelines import Timelines, open_timelines

TIMELINES: Final = "timelines read from disk"
LISTENER: Final = "writers and readers let in"

log = structlog.stdlib.get_logger()


Keeping = Callable[[Offload], AbstractAsyncContextManager[None]]
"""Does something beside for as long as its block runs."""


class Accepting(Protocol):
    """Lets writers and readers in for as long as its block runs; their tasks live in ``connections``."""

    def __call__(
        self, sock: socket.socket, timelines: Timelines, connections: trio.Nursery
    ) -> AbstractAsyncContextManager[None]: ...


def dump_control_file(path: Path) -> str:
    """The control file at ``path`` as one line of JSON.  Raises ConfigError if there is none that can be read."""
    try:
        return json.dumps(control_file_as_json(parse_control_file(path.read_bytes())))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except Malformed as error:
        raise ConfigError(f"{path} is not a control file: {error}") from None


def run_keeper(config: ServeConfig) -> None:
    """Run until a signal ends it.  Raises ConfigError before anything was served, StorageError, DurabilityLost."""
    metrics = Metrics(walkeeper.__version__, config.listen.availability_zone)
    configure_logs(config.log.format, sys.stdout, metrics.log_event)
    disk = OsDisk(sync=not config.place.no_sync)
    path = Path(os.path.realpath(config.place.path))
    with closing(claim(disk, path, config.place.node_id)) as directory:
        log.info("data directory claimed", path=str(path), id=directory.node_id, version=walkeeper.__version__)
        if config.init:
            return
        connections_max = files.settle_connections_max(config.listen.connections_max, files.raise_limit())
        disk.require_files()
        reload_seconds = config.auth.key_reload_seconds
        verify, keeping = open_gate(config.auth.pg_key_path, reload_seconds)
        verify_http, keeping_http = open_gate(config.auth.http_key_path, reload_seconds)
        if config.place.no_sync:
            log.warning("nothing is fsynced (--no-sync): a power failure loses acknowledged WAL")
        with bind(config.listen.pg, "--listen-pg") as pg, bind(config.listen.http, "--listen-http") as http:
            log.info("listening", pg=str(bound_address(pg)), http=str(bound_address(http)))
            log.info("room for writers and readers", connections_max=connections_max)
            warn_of_open_port(pg, verify, "--listen-pg", "read and write WAL")
            warn_of_open_port(http, verify_http, "--listen-http", "delete timelines")
            limits = Limits(config.timing.wal_sender_timeout_seconds, connections_max)
            budget = Budget(memory.settle_bytes_max(config.limits.memory_bytes_max))
            log.info("memory for writers and readers", bytes_max=budget.bytes_max)
            metrics.watch_memory(lambda: MemoryUse(budget.queued_bytes, budget.reading_bytes, budget.bytes_max))
            letting_in = partial(_accepting_at, metrics, limits, verify, budget)
            keeper = partial(
                serve,
                keeping=(keeping, keeping_http),
                verify=verify_http,
                no_sync=config.place.no_sync,
                limits=DiskLimits(
                    config.limits.usage_ratio_max, config.limits.timeline_bytes_max, config.limits.check_seconds
                ),
            )
            trio.run(keeper, directory, config.timing, metrics, pg, http, letting_in)
    log.info("stopped")


def warn_of_open_port(sock: socket.socket, verify: Verify | None, flag: str, right: str) -> None:
    """Say so if others than this machine get in without a token, and what they may do then."""
    if verify is None and not is_loopback(sock):
        log.warning("a port is open to whoever reaches it: no key asks for tokens", port=flag, anybody_may=right)


def open_gate(path: Path | None, reload_seconds: float) -> tuple[Verify | None, Keeping]:
    """How tokens are verified, if they are, and the block in which that is kept up.  Raises ConfigError."""
    if path is None:
        return None, lambda _offload: nullcontext()
    # Takes its time to load, and memory: only where it is of use.
    from walkeeper.auth.tokens import TokenVerifier, load_keys
    from walkeeper.auth.upkeep import keeping_keys

    verifier = TokenVerifier(load_keys(path))
    return verifier.verify, partial(keeping_keys, verifier, path, reload_seconds)


def _accepting_at(
    metrics: Metrics,
    limits: Limits,
    verify: Verify | None,
    budget: Budget,
    sock: socket.socket,
    timelines: Timelines,
    connections: trio.Nursery,
) -> AbstractAsyncContextManager[None]:
    return accepting(SocketListener(sock), timelines, connections, metrics, limits, verify, budget)


async def serve(
    directory: DataDirectory,
    timing: TimingConfig,
    metrics: Metrics,
    pg: socket.socket,
    http: socket.socket,
    letting_in: Accepting,
    *,
    keeping: Sequence[Keeping] = (),
    verify: Verify | None = None,
    no_sync: bool = False,
    limits: DiskLimits | None = None,
) -> None:
    """Serve until a signal comes, then drain.  With ``verify`` operators must show a token.

    Cancellation: operations that have begun are finished, the rest is dropped.
    """
    readiness = Readiness(TIMELINES, LISTENER)
    api = ManagementApi(
        KeeperConfig(
            id=directory.node_id,
            workdir=str(directory.path),
            listen_pg_addr=str(bound_address(pg)),
            listen_http_addr=str(bound_address(http)),
            no_sync=no_sync,
        ),
        verify,
    )
    async with ThreadOffload() as threads:
        offload = WatchedOffload(threads, timing.disk_hangs_seconds)
        metrics.watch_disk(offload.jobs)
        app = create_app([*health_routes(offload.checks, readiness), metrics.route(), *api.routes()])
        serving = serving_http(app, http, metrics.http_connection_begins)
        async with serving, keeping_pulse(metrics), AsyncExitStack() as beside:
            for keep in keeping:
                await beside.enter_async_context(keep(offload))
            async with open_timelines(
                directory,
                offload,
                save_seconds=timing.control_file_save_interval_seconds,
                observe=metrics.storage_operation,
                limits=limits,
            ) as timelines:
                api.begin(timelines)
                metrics.watch(timelines)
                readiness.reached(TIMELINES)
                memory.settle()
                async with trio.open_nursery() as connections:
                    async with letting_in(pg, timelines, connections):
                        readiness.reached(LISTENER)
                        notify(READY, os.environ)
                        await wait_for_stop()
                        readiness.drain(LISTENER)
                        notify(STOPPING, os.environ)
                    connections.cancel_scope.deadline = trio.current_time() + timing.drain_seconds
