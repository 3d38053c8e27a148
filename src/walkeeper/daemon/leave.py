"""Leaves so that a quorum stays: a keeper that was told to stop serves on until the others can do without it.

The others can when those that serve, have caught up and take WAL are a majority of the quorum without us.  Of several keepers that leave
at once the one with the highest number goes first, as in a StatefulSet: those with lower ones stay for it, and count.

Two that leave must not rely on each other: each says that it leaves before it asks, and goes by no answer from the first
``SETTLE_SECONDS``.  Whoever goes has asked within ``ANSWER_SECONDS``; so whoever begins to leave after it was asked finds the
other gone when its own answers begin to count.  And whoever will soon go whatever the others are says so ``LAST_SECONDS`` before:
nobody who relies on it then goes in the ``SETTLE_SECONDS`` before it does.

Does not end anything: ``run`` does when this returns.
"""

import os
from collections.abc import Callable, Collection, Sequence
from typing import Final

import structlog
import trio

from walkeeper.control.collectors import DiskJobs
from walkeeper.control.health import Readiness
from walkeeper.control.neighbours import Neighbour, Neighbours
from walkeeper.control.positions import LOOKED_AT_IN_A_TURN, TimelinePositionsJson
from walkeeper.daemon.notify import STOPPING, notify
from walkeeper.links.overview import ANSWER_SECONDS
from walkeeper.membership import majority

LOOK_SECONDS: Final = 1.0
"""Between two looks at the others."""

SETTLE_SECONDS: Final = 2.0 * ANSWER_SECONDS
"""Who has asked us just before we left goes within ``ANSWER_SECONDS``; as much again in case its event loop is late."""

LAST_SECONDS: Final = SETTLE_SECONDS + ANSWER_SECONDS
"""Of its patience, in which nobody counts on a keeper: who has asked before goes within ``ANSWER_SECONDS``."""

SOON: Final = "time to stay"

SPARE_SECONDS: Final = 30.0
"""For control files to be saved on a slow disk, before a service manager kills us."""

log = structlog.stdlib.get_logger()


async def leave(
    neighbours: Neighbours,
    readiness: Readiness,
    disk: Callable[[], DiskJobs],
    patience_seconds: float,
    drain_seconds: float,
) -> None:
    """Return when the others can do without this keeper, after ``patience_seconds`` whatever they are, and at once if it has
    no others, or its ``disk`` hangs: it is of no use to them then.

    Cancellation: at any time.
    """
    notify(stopping(patience_seconds + drain_seconds), os.environ)
    if not neighbours or not patience_seconds:
        return
    readiness.leave()
    log.info("leaving when the others are enough", seconds_max=patience_seconds)
    began = trio.current_time()
    deadline = began + patience_seconds
    missing = "nobody was asked"
    while not disk().is_hanging:
        looked_at = trio.current_time()
        if looked_at >= deadline:
            log.warning("leaving although the others may be no quorum", error=missing)
            return
        if looked_at + LOOK_SECONDS >= deadline - LAST_SECONDS:  # the next look may be too late
            readiness.hinder(SOON, "nearly over")
        with trio.move_on_at(deadline):
            others = await neighbours.look()
            configurations = await configurations_of(others, neighbours.node_id)
            missing = what_is_missing(others, neighbours.node_id, configurations)
            if not missing and looked_at >= began + SETTLE_SECONDS:
                log.info("leaving: the others are enough", seconds=round(looked_at - began, 1))
                return
            await trio.sleep_until(looked_at + LOOK_SECONDS)
    log.warning("leaving at once: the disk does not answer")


async def configurations_of(others: Sequence[Neighbour], node_id: int) -> Collection[Sequence[int]]:
    """The members of all timelines that ``others`` know, by the newest configuration of each, where we are one of them.

    Cancellation: at any time.
    """
    newest: dict[tuple[str, str], TimelinePositionsJson] = {}
    for number, each in enumerate((each for other in others for each in other.told or ()), 1):
        known = newest.setdefault((each.tenant_id, each.timeline_id), each)
        if known.generation < each.generation:
            newest[each.tenant_id, each.timeline_id] = each
        if number % LOOKED_AT_IN_A_TURN == 0:
            await trio.lowlevel.checkpoint()
    found: set[Sequence[int]] = set()
    for number, each in enumerate(newest.values(), 1):
        if node_id in each.members:
            found.add(tuple(each.members))
        if number % LOOKED_AT_IN_A_TURN == 0:
            await trio.lowlevel.checkpoint()
    return found


def what_is_missing(
    others: Sequence[Neighbour], node_id: int, configurations: Collection[Sequence[int]] = ()
) -> str:
    """Empty if the others are enough without this keeper, or there are none; otherwise who is of no help, in words.

    They are a majority of the list then, and of each of ``configurations``: of members, us among them.
    """
    if not others:
        return ""
    staying = [each for each in others if is_of_help(each, node_id)]
    ids = {each.said.id for each in staying if each.said is not None}
    found = [("keepers", len(others) + 1, len(staying))]
    found += [("members of a timeline", len(each), len(ids.intersection(each))) for each in configurations]
    for what, size, left in found:
        if left < majority(size):
            why = "; ".join(each.plight for each in others if each not in staying)
            return f"{majority(size)} of {size} {what} are needed, {left} would be left; {why}"
    return ""


def is_of_help(other: Neighbour, node_id: int) -> bool:
    """Whether it serves with all that is committed, takes more, and will stay for us if it is leaving."""
    if other.said is None or not other.is_answering or not other.takes_wal:
        return False
    stays_longer = other.said.state == "leaving" and other.said.id < node_id
    return other.is_ready or (stays_longer and other.said.is_caught_up)


def stopping(seconds: float) -> str:
    """Tells a service manager that it takes so long, and with some time to spare."""
    return f"{STOPPING}\nEXTEND_TIMEOUT_USEC={int((seconds + SPARE_SECONDS) * 1_000_000)}"
