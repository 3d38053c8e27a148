"""Says in the log when commits wait because too few keepers are there, and when they do not any more.

Whoever operates the primary sees commits hang; this tells why, whom to bring back, and when it is over.  One line for
each change: how a single keeper comes and goes is told by its link.
"""

from typing import Final

import trio

from walkeeper.links.ensemble import Ensemble
from walkeeper.links.log import Log
from walkeeper.membership import majority

GRACE_SECONDS: Final = 1.0
"""For keepers to connect at the start, and to come back after a moment's loss."""


async def watch_majority(ensemble: Ensemble, log: Log) -> None:
    """Watch until cancelled."""

    def is_there() -> bool:
        return len(ensemble.links) - len(ensemble.absent()) >= majority(len(ensemble.links))

    while True:
        await ensemble.wait_until(lambda: not is_there())
        with trio.move_on_after(GRACE_SECONDS):
            await ensemble.wait_until(is_there)
            continue
        missing = "; ".join(link.trouble or f"{link}: no answer yet" for link in ensemble.absent())
        log.warning("no majority: commits wait", missing=missing)
        await ensemble.wait_until(is_there)
        log.info("majority is back")
