"""Has this keeper caught up with what the other keepers know to be committed?

It is ready only then: whoever asks for readiness before he ends another keeper must not end one too many.

Rules:
* A *target* is the highest LSN that another keeper knows to be committed in a timeline.  It is reached when our WAL is durable
  up to there, whole, and the same, which it is if the same term wrote the last byte.  The next one is taken only when it is
  reached, so that a keeper which keeps up is never behind.
* What a keeper tells when this process hears it for the first time has to be reached, at the start or later: nobody knows what
  happened before.  Of what it tells afterwards, who does not reach a target for ``PATIENCE_SECONDS`` is behind.
* Who needed longer than that for a target must reach the next one in time before he counts as caught up: what was written
  while hours of WAL were copied is not a moment's.
* What is committed is on a majority of the keepers, whole and durable.  So those that are behind are a minority, whatever the
  others say, unless disks were lost, or a timeline was deleted on some while another was away.
* A timeline that is not here counts if it should be: it is of no configuration, or of one that we are a member of; something
  of it was committed; and nobody has deleted it here, which this process remembers for as long as others tell of it.
* Nobody's silence makes a keeper behind.  Only at the start it waits to hear all others, for ``HEARING_SECONDS``, and longer for
  those that are starting.  To give up proves nothing: whoever is heard later is heard for the first time.  It does not give
  up while it hears nobody but itself, where others should be: that is no failure of theirs.

Asks nobody (``neighbours`` does), copies nothing (writers do), and decides nothing but readiness.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

import structlog
import trio

from walkeeper.acceptor.state import AcceptorState
from walkeeper.control.health import HEARD, Readiness
from walkeeper.control.neighbours import Neighbour, Neighbours
from walkeeper.control.positions import LOOKED_AT_IN_A_TURN, TimelinePositionsJson, members_of, named, term_of
from walkeeper.errors import Closing, Deleted, TimelineUnavailable
from walkeeper.ids import TenantTimelineId
from walkeeper.lsn import INVALID_LSN, Lsn, format_lsn, parse_lsn
from walkeeper.timeline.timelines import Timelines

CAUGHT_UP: Final = "caught up with the other keepers"

BEHIND_SECONDS: Final = 1.0
"""Between two looks while it is not caught up: whoever waits for it waits no longer than that."""

WELL_SECONDS: Final = 10.0
"""Between two looks afterwards."""

PATIENCE_SECONDS: Final = 30.0
"""For a target: more than a busy moment takes, or a writer that comes back."""

HEARING_SECONDS: Final = 30.0
"""At the start, for all others to be heard: keepers that start together need so long, and a single survivor must serve."""

STARTING_SECONDS: Final = 600.0
"""At the start, for others that say they are starting: thousands of timelines take minutes; a disk that hangs takes for ever."""

SHOWN_MAX: Final = 3
"""Timelines that are named; the others are counted."""

log = structlog.stdlib.get_logger()


class Absence(Enum):
    """Of a timeline that cannot be used here: MISSING; of one that need not be here: ELSEWHERE."""

    MISSING = auto()
    ELSEWHERE = auto()


@dataclass(frozen=True, slots=True)
class Known:
    """What others say of a timeline: the highest commit, which term wrote it, who says so, and the newest configuration."""

    commit_lsn: Lsn
    commit_term: int
    keeper: int
    generation: int
    members: Sequence[int]

    def merged(self, other: "Known") -> "Known":
        highest = max(self, other, key=lambda each: each.commit_lsn)
        newest = max(self, other, key=lambda each: each.generation)
        return Known(highest.commit_lsn, highest.commit_term, highest.keeper, newest.generation, newest.members)


@dataclass(frozen=True, slots=True)
class Target:
    """``keeper`` has told us ``lsn``, written in ``term``.  ``blocks``: we are not caught up before it is reached."""

    lsn: Lsn
    term: int
    keeper: int
    since: float
    blocks: bool


class CatchingUp:
    """What this keeper, ``node_id``, has to reach.  ``problem`` is empty when it has caught up; ``silence`` says for whom it waits
    at the start, before it knows.
    """

    def __init__(self, node_id: int) -> None:
        self.problem, self.silence = "not yet", ""
        self._node_id = node_id
        self._began = self._waits_since = trio.current_time()
        self._has_waited = self._hears_itself = False
        self._is_behind: bool | None = None  # nobody knows yet
        self._heard: set[int] = set()
        self._deleted: set[TenantTimelineId] = set()  # of those that others still tell of
        self._targets: dict[TenantTimelineId, Target] = {}

    async def judge(self, others: Sequence[Neighbour], timelines: Timelines) -> None:
        """See how far we are, by what ``others`` have said.

        Cancellation: between two timelines; the next time all is seen.
        """
        now = trio.current_time()
        if not self._has_waited and self._waits(others, now):
            return
        news = [
            other for other in others if other.said and other.told is not None and other.said.id not in self._heard
        ]
        known, new = await what_is_known(others), await what_is_known(news)
        for ttid in [ttid for ttid in self._targets if ttid not in known]:
            del self._targets[ttid]
        self._deleted.intersection_update(known)
        behind: list[str] = []
        for number, (ttid, told) in enumerate(known.items(), 1):
            here = self._look_here(ttid, told, timelines)
            target = self._aim(ttid, told, new.get(ttid), here, now)
            if target is not None and target.blocks:
                behind.append(_in_words(ttid, target, here))
            if number % LOOKED_AT_IN_A_TURN == 0:
                await trio.lowlevel.checkpoint()
        self._heard.update(other.said.id for other in news if other.said)
        self._conclude(behind)

    def _waits(self, others: Sequence[Neighbour], now: float) -> bool:
        """Whether others may still be heard, before anything is concluded."""
        silent = [each for each in others if each.told is None]
        plights = "; ".join(each.plight for each in silent)
        if any(each.is_us for each in silent):
            if not self._hears_itself:
                log.warning("no other keeper is heard: not ready", error=plights)
            self._hears_itself, self._waits_since = True, now
        elif any(each.is_starting for each in silent) and now - self._began < STARTING_SECONDS:
            self._waits_since = now
        if silent and now - self._waits_since < HEARING_SECONDS:
            size = len(others) + 1
            self.silence = f"{size - len(silent)} of {size} keepers are heard, this one included: {plights}"
            return True
        if silent:
            log.warning("not all keepers are heard: those that are must do", error=plights)
        self._has_waited, self.silence = True, ""
        return False

    def _look_here(self, ttid: TenantTimelineId, told: Known, timelines: Timelines) -> AcceptorState | Absence:
        """The timeline as it is here."""
        try:
            state = timelines.get(ttid).usable_state
            self._deleted.discard(ttid)
        except Closing:
            return Absence.ELSEWHERE
        except Deleted:
            self._deleted.add(ttid)
            return Absence.ELSEWHERE
        except TimelineUnavailable:
            state = None
        if ttid in self._deleted:
            return Absence.ELSEWHERE
        generation, members = told.generation, told.members
        if state is not None and state.kept.configuration.generation > generation:
            generation, members = state.kept.configuration.generation, members_of(state.kept.configuration)
        if generation and self._node_id not in members:
            return Absence.ELSEWHERE
        return state or Absence.MISSING

    def _aim(
        self,
        ttid: TenantTimelineId,
        told: Known,
        new: Known | None,
        here: AcceptorState | Absence,
        now: float,
    ) -> Target | None:
        """What has to be reached in that timeline, if it is not reached yet.  ``new``: told by those heard for the first time."""
        target = self._targets.pop(ttid, None)
        blocks = False
        if target is not None:
            blocks = now - target.since >= PATIENCE_SECONDS
            if told.commit_lsn < target.lsn:  # it was deleted, and made again
                target = replace(target, lsn=told.commit_lsn, term=told.commit_term)
            is_reached = _has_reached(here, target.lsn, target.term)
            target = None if is_reached else replace(target, blocks=target.blocks or blocks)
        if new is not None and not _has_reached(here, new.commit_lsn, new.commit_term):
            if target is None or target.lsn < new.commit_lsn:
                target = Target(new.commit_lsn, new.commit_term, new.keeper, now, blocks=True)
            target = replace(target, blocks=True)
        elif target is None and not _has_reached(here, told.commit_lsn, told.commit_term):
            target = Target(told.commit_lsn, told.commit_term, told.keeper, now, blocks)
        if target is not None:
            self._targets[ttid] = target
        return target

    def _conclude(self, behind: Sequence[str]) -> None:
        more = f"; and {len(behind) - SHOWN_MAX} more" if len(behind) > SHOWN_MAX else ""
        self.problem = "; ".join(behind[:SHOWN_MAX]) + more
        if self._is_behind != bool(behind):
            self._is_behind = bool(behind)
            if behind:
                log.warning("behind the other keepers: not ready", timelines=len(behind), error=self.problem)
            else:
                log.info("caught up with the other keepers")


async def what_is_known(others: Sequence[Neighbour]) -> dict[TenantTimelineId, Known]:
    """Of each timeline of which something was committed, by what every keeper has said last.

    Cancellation: at any time.
    """
    found: dict[tuple[str, str], Known] = {}
    first: dict[tuple[str, str], TimelinePositionsJson] = {}
    told = (
        (other.said.id, timeline) for other in others if other.said is not None for timeline in other.told or ()
    )
    for number, (keeper, each) in enumerate(told, 1):
        name = (each.tenant_id, each.timeline_id)
        other = first.setdefault(name, each)
        if other is each or _differ(other, each):  # few do
            is_used = each.commit_lsn != each.start_lsn
            known = Known(
                parse_lsn(each.commit_lsn) if is_used else INVALID_LSN,
                each.commit_term,
                keeper,
                each.generation,
                each.members,
            )
            found[name] = found[name].merged(known) if name in found else known
        if number % LOOKED_AT_IN_A_TURN == 0:
            await trio.lowlevel.checkpoint()
    used: dict[TenantTimelineId, Known] = {}
    for number, (name, known) in enumerate(found.items(), 1):
        if known.commit_lsn:
            used[named(*name)] = known
        if number % LOOKED_AT_IN_A_TURN == 0:
            await trio.lowlevel.checkpoint()
    return used


def _differ(one: TimelinePositionsJson, other: TimelinePositionsJson) -> bool:
    return (one.commit_lsn, one.commit_term, one.generation) != (
        other.commit_lsn,
        other.commit_term,
        other.generation,
    )


def _has_reached(here: AcceptorState | Absence, lsn: Lsn, term: int) -> bool:
    """What need not be here is never missing."""
    if isinstance(here, Absence):
        return here is Absence.ELSEWHERE
    return here.is_whole and here.flush_lsn >= lsn and term_of(here, lsn) == term


def _in_words(ttid: TenantTimelineId, target: Target, here: AcceptorState | Absence) -> str:
    if isinstance(here, Absence):
        place = "which cannot be used here"
    else:
        place = f"here is {format_lsn(here.flush_lsn)}{'' if here.is_whole else ', not whole'}"
        if here.is_whole and here.flush_lsn >= target.lsn:
            place = f"here is WAL of another term: {term_of(here, target.lsn)}, not {target.term}"
    return f"keeper {target.keeper} has {format_lsn(target.lsn)} of {ttid} as committed, {place}"


@asynccontextmanager
async def catching_up(neighbours: Neighbours, timelines: Timelines, readiness: Readiness) -> AsyncIterator[None]:
    """Keep ``readiness`` told of how far we are, for as long as the block runs; not, if no other keeper is named."""
    async with trio.open_nursery() as nursery:
        if neighbours:
            readiness.hinder(CAUGHT_UP, "not yet")
            nursery.start_soon(_keep_looking, neighbours, timelines, readiness, name="catching up")
        yield
        nursery.cancel_scope.cancel(reason="shutdown")


async def _keep_looking(neighbours: Neighbours, timelines: Timelines, readiness: Readiness) -> None:
    state = CatchingUp(neighbours.node_id)
    while True:
        began = trio.current_time()
        await state.judge(await neighbours.look(), timelines)
        readiness.hinder(CAUGHT_UP, state.problem)
        readiness.hinder(HEARD, state.silence)
        await trio.sleep_until(began + (BEHIND_SECONDS if state.problem else WELL_SECONDS))
