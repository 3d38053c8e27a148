"""The life of the keeper, from its data directory to its last breath.

Start: the data directory is claimed (lock, id, everything made durable), the sockets are bound, health and metrics
are served, the timelines are read from disk, writers and readers are let in, the service manager is told.

Shutdown is the indentation (``serve``): whatever was entered last ends first.  SIGTERM or SIGINT ends only the
accepting, once the others can do without us (``leave``); connections then have ``drain_seconds`` to finish what they
began, timelines save their control files, and health and metrics answer until then.  A second signal kills at once,
which is safe: no promise depends on a tidy end.  A failed fsync, wherever it comes from, ends everything (DurabilityLost).

Does not know how anything is done: it only says in which order.
Source of the order: Neon's ``bin/safekeeper.rs``.
"""

import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    closing,
    nullcontext,
)
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import structlog
import trio
from starlette.types import ASGIApp

import walkeeper
from walkeeper.control.api import ManagementApi
from walkeeper.control.app import create_app
from walkeeper.control.catching_up import catching_up
from walkeeper.control.collectors import MemoryUse
from walkeeper.control.dump import KeeperConfig
from walkeeper.control.events import Events
from walkeeper.control.health import Readiness, health_routes
from walkeeper.control.http1 import HttpConnection
from walkeeper.control.looks import Looks, Surroundings
from walkeeper.control.metrics import Metrics
from walkeeper.control.neighbours import Neighbours
from walkeeper.control.page import page_route
from walkeeper.control.peers import Peers
from walkeeper.control.positions import new_instance
from walkeeper.control.server import serving_http
from walkeeper.daemon import files, memory
from walkeeper.daemon.config import LimitsConfig, PeersConfig, ServeConfig, TimingConfig
from walkeeper.daemon.gates import OPEN_GATES, Gates, open_gates
from walkeeper.daemon.leave import leave
from walkeeper.daemon.logs import configure_logs
from walkeeper.daemon.notify import READY, notify, reporting
from walkeeper.daemon.pulse import keeping_pulse
from walkeeper.daemon.signals import answering_signals, ignore_until_answered
from walkeeper.daemon.sockets import bind, bound_address
from walkeeper.daemon.stop import wait_for_stop
from walkeeper.daemon.watch import WatchedOffload
from walkeeper.errors import ConfigError, Malformed
from walkeeper.formats.control_file import control_file_as_json, parse_control_file
from walkeeper.links.address import Address
from walkeeper.links.http_get import trust_authorities
from walkeeper.links.token import show_token
from walkeeper.services.admission import Gate
from walkeeper.services.budget import Budget
from walkeeper.services.listener import Limits, SocketListener, accepting
from walkeeper.storage.data_directory import DataDirectory, claim
from walkeeper.storage.disk import OsDisk
from walkeeper.storage.offload import Offload, ThreadOffload
from walkeeper.timeline.room import DiskLimits
from walkeeper.timeline.timelines import Timelines, open_timelines

TIMELINES: Final = "timelines read from disk"
LISTENER: Final = "writers and readers let in"

NO_PEERS: Final = PeersConfig()

log = structlog.stdlib.get_logger()


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
    ignore_until_answered()
    metrics = Metrics(walkeeper.__version__, config.listen.availability_zone)
    events = Events()
    configure_logs(config.log.format, sys.stdout, metrics.log_event, events.note, metrics.log_line_lost)
    show_token(config.peers.token_path)
    disk = OsDisk(sync=not config.place.no_sync)
    path = Path(os.path.realpath(config.place.path))
    trust_authorities(None if config.tls.peer_ca is None else path / config.tls.peer_ca)
    gates = (
        OPEN_GATES
        if config.init
        else open_gates(config.auth, config.tls, path, metrics, https=config.listen.https is not None)
    )
    with closing(claim(disk, path, config.place.node_id)) as directory:
        log.info("data directory claimed", path=str(path), id=directory.node_id, version=walkeeper.__version__)
        if config.init:
            return
        connections_max = files.settle_connections_max(config.listen.connections_max, files.raise_limit())
        disk.require_files()
        if config.place.no_sync:
            log.warning("nothing is fsynced (--no-sync): a power failure loses acknowledged WAL")
        with (
            bind(config.listen.pg, "--listen-pg") as pg,
            bind(config.listen.http, "--listen-http") as http,
            _bind_if_said(config.listen.https, "--listen-https") as https,
            _bind_if_said(config.listen.metrics, "--listen-metrics") as probed,
        ):
            log.info(
                "listening",
                pg=str(bound_address(pg)),
                http=str(bound_address(http)),
                **_told(https=https, metrics=probed),
            )
            log.info("room for writers and readers", connections_max=connections_max)
            gates.warn(pg, http, https)
            limits = Limits(config.timing.wal_sender_timeout_seconds, connections_max)
            budget = Budget(memory.settle_bytes_max(config.limits.memory_bytes_max))
            log.info("memory for writers and readers", bytes_max=budget.bytes_max)
            metrics.watch_memory(lambda: MemoryUse(budget.queued_bytes, budget.reading_bytes, budget.bytes_max))
            letting_in = partial(_accepting_at, metrics, limits, gates.pg, budget)
            keeper = partial(
                serve,
                https=https,
                probed=probed,
                gates=gates,
                no_sync=config.place.no_sync,
                limits=_disk_limits(config.limits),
                events=events,
                peers=config.peers,
            )
            trio.run(keeper, directory, config.timing, metrics, pg, http, letting_in)
    log.info("stopped")


def _bind_if_said(address: Address | None, flag: str) -> AbstractContextManager[socket.socket | None]:
    return nullcontext() if address is None else bind(address, flag)


def _told(**ports: socket.socket | None) -> dict[str, str]:
    return {name: str(bound_address(sock)) for name, sock in ports.items() if sock is not None}


def _accepting_at(
    metrics: Metrics,
    limits: Limits,
    gate: Gate,
    budget: Budget,
    sock: socket.socket,
    timelines: Timelines,
    connections: trio.Nursery,
) -> AbstractAsyncContextManager[None]:
    return accepting(SocketListener(sock), timelines, connections, metrics, limits, gate, budget)


def _serving_https(
    app: ASGIApp,
    sock: socket.socket | None,
    metrics: Metrics,
    gates: Gates,
    seated: set[HttpConnection],
) -> AbstractAsyncContextManager[None]:
    if sock is None:
        return nullcontext()
    assert gates.encrypt is not None, "a port for HTTPS has a certificate"
    return serving_http(app, sock, partial(metrics.http_connection_begins, "https"), gates.encrypt, seated)


def _serving_probes(
    app: ASGIApp, sock: socket.socket | None, metrics: Metrics, seated: set[HttpConnection]
) -> AbstractAsyncContextManager[None]:
    if sock is None:
        return nullcontext()
    return serving_http(app, sock, metrics.http_connection_begins, seated=seated)


@asynccontextmanager
async def _keeping(gates: Gates, offload: Offload) -> AsyncIterator[None]:
    async with AsyncExitStack() as beside:
        for keep in gates.keeping:
            await beside.enter_async_context(keep(offload))
        yield


def _describe(readiness: Readiness, metrics: Metrics) -> str:
    """One line for the service manager."""
    if readiness.state in ("leaving", "draining"):
        return readiness.state
    missing = "; ".join(f"{each.name}: {each.problem}" for each in readiness.checks() if each.problem)
    if readiness.state == "starting":
        return f"starting, {missing}"
    return f"serving {metrics.timelines_shown} timelines{', not ready: ' if missing else ''}{missing}"


def _disk_limits(config: LimitsConfig) -> DiskLimits:
    return DiskLimits(config.usage_ratio_max, config.timeline_bytes_max, config.check_seconds)


def _described(directory: DataDirectory, pg: socket.socket, http: socket.socket, *, no_sync: bool) -> KeeperConfig:
    return KeeperConfig(
        id=directory.node_id,
        workdir=str(directory.path),
        listen_pg_addr=str(bound_address(pg)),
        listen_http_addr=str(bound_address(http)),
        no_sync=no_sync,
    )


async def serve(
    directory: DataDirectory,
    timing: TimingConfig,
    metrics: Metrics,
    pg: socket.socket,
    http: socket.socket,
    letting_in: Accepting,
    *,
    https: socket.socket | None = None,
    probed: socket.socket | None = None,
    gates: Gates = OPEN_GATES,
    no_sync: bool = False,
    limits: DiskLimits | None = None,
    events: Events | None = None,
    peers: PeersConfig = NO_PEERS,
) -> None:
    """Serve until a signal comes and others can do without us, then drain.  ``probed``: for health and metrics only.

    Cancellation: operations that have begun are finished, the rest is dropped.
    """
    readiness = Readiness(TIMELINES, LISTENER)
    keeper = _described(directory, pg, http, no_sync=no_sync)
    async with ThreadOffload() as threads:
        offload = WatchedOffload(threads, timing.disk_hangs_seconds)
        metrics.watch_disk(offload.jobs)
        instance = new_instance()
        neighbours = Neighbours(peers.http, keeper.id, instance)
        metrics.watch_readiness(lambda: readiness.is_ready, neighbours.tally)
        others = Peers(peers.http, keeper.id, instance)
        around = Surroundings(
            keeper,
            readiness,
            offload.checks,
            offload.jobs,
            metrics.peaks,
            events or Events(),
            others,
            instance=instance,
        )
        api = ManagementApi(keeper, gates.verify_http, Looks(around))
        probes = [*health_routes(offload.checks, readiness), metrics.route()]
        app = create_app([page_route(), *probes, *api.routes()])
        seated = set[HttpConnection]()  # of all ports: descriptors are set aside for so many
        async with (
            serving_http(app, http, metrics.http_connection_begins, seated=seated),
            _serving_https(app, https, metrics, gates, seated),
            _serving_probes(create_app(probes), probed, metrics, seated),
            keeping_pulse(metrics, offload.tell_of_silence),
            answering_signals(lambda: readiness.state == "serving"),
            reporting(os.environ, offload.checks, partial(_describe, readiness, metrics)),
            _keeping(gates, offload),
        ):
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
                leaving = partial(
                    leave, neighbours, readiness, offload.jobs, peers.leave_seconds, timing.drain_seconds
                )
                async with catching_up(neighbours, timelines, readiness):
                    await _accept_until_told(
                        partial(letting_in, pg, timelines), readiness, leaving, timing.drain_seconds
                    )


async def _accept_until_told(
    accept: Callable[[trio.Nursery], AbstractAsyncContextManager[None]],
    readiness: Readiness,
    leaving: Callable[[], Awaitable[None]],
    drain_seconds: float,
) -> None:
    """Cancellation: ends all connections."""
    async with trio.open_nursery() as connections:
        async with accept(connections):
            readiness.reached(LISTENER)
            notify(READY, os.environ)
            await wait_for_stop()
            await leaving()
            readiness.drain(LISTENER)
        connections.cancel_scope.deadline = trio.current_time() + drain_seconds
