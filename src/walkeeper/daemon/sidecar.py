"""The life of a sidecar that can be looked at: its port is there before the primary is reached, and until the end.

A signal ends the sidecar at once; whoever is being answered over HTTP then has a moment to read it.

Does not stream: ``walkeeper.sidecar`` does.
"""

import socket
from functools import partial

import structlog
import trio

from walkeeper.control.app import create_app
from walkeeper.control.health import health_routes
from walkeeper.control.server import serving_http
from walkeeper.control.sidecar_metrics import SidecarMetrics, SidecarReadiness
from walkeeper.daemon.sockets import bind, bound_address
from walkeeper.daemon.stop import until_stopped
from walkeeper.links.address import Address
from walkeeper.sidecar.account import Account
from walkeeper.sidecar.config import ProposeConfig
from walkeeper.sidecar.run import run_sidecar

log = structlog.stdlib.get_logger()


def run_with_port(config: ProposeConfig, address: Address, metrics: SidecarMetrics) -> None:
    """Run until a signal ends it.  Raises ConfigError, also for a port that cannot be had, and Fenced; in groups."""
    with bind(address, "--listen-http") as http:
        log.info("listening", http=str(bound_address(http)))
        trio.run(propose_and_serve, config, http, metrics)


async def propose_and_serve(config: ProposeConfig, http: socket.socket, metrics: SidecarMetrics) -> None:
    """Stream, and answer on ``http``.  Raises as ``run_sidecar``.  Cancellation: as for it; cuts requests off."""
    account = Account(len(config.keepers), metrics.acknowledged)
    metrics.watch(account.look)
    readiness = SidecarReadiness(account.awaits)
    app = create_app([*health_routes(lambda: (), readiness), metrics.route()])
    async with serving_http(app, http):
        await until_stopped(partial(run_sidecar, config, log=log, account=account))
