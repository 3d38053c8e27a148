"""Says in the log when commits wait because too few keepers count, and when they do not any more.

Whoever operates the primary sees commits hang; this tells why, whom to bring back, and when it is over.  One line for
each change: how a single keeper comes and goes is told by its link.  Who counts is the proposer's to say: a connection
alone is no help, nor is a keeper that lost its disk, and the first start needs everybody.
"""

from collections.abc import Callable
from typing import Final

import trio

from walkeeper.links.ensemble import Ensemble
from walkeeper.links.log import Log

START_SECONDS: Final = 10.0
"""For keepers to be found and a campaign to be won, perhaps against a rival, before it is said whom that lacks."""

GRACE_SECONDS: Final = 1.0
"""For keepers to come back after a moment's loss."""

BACK_SECONDS: Final = 3.0
"""How long a majority has to last to be one.  Links that fail each time come back after 2 s at most (``Backoff``)."""


async def watch_majority(ensemble: Ensemble, log: Log) -> None:
    """Watch until cancelled."""
    proposer = ensemble.proposer
    with trio.move_on_after(START_SECONDS):
        await ensemble.wait_until(lambda: proposer.has_majority)
    while True:
        await _wait_lasting(ensemble, lambda: not proposer.has_majority, GRACE_SECONDS)
        log.warning(
            "no majority: commits wait",
            missing=ensemble.troubles() or "nobody, but no campaign is won",
            **({"members": ensemble.members} if ensemble.members else {}),
        )
        await _wait_lasting(ensemble, lambda: proposer.has_majority, BACK_SECONDS)
        log.info("majority is back")


async def _wait_lasting(ensemble: Ensemble, condition: Callable[[], bool], seconds: float) -> None:
    """Until ``condition`` has held for ``seconds`` on end."""
    while True:
        await ensemble.wait_until(condition)
        with trio.move_on_after(seconds):
            await ensemble.wait_until(lambda: not condition())
            continue
        return
