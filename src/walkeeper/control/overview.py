"""The overview of a keeper: what its status page and ``walkeeper top`` show, as one JSON object.

Of timelines there may be thousands, so it has totals of all of them and the ``SHOWN_MAX`` that are most worth a look: those
with something wrong, then those in use, then those that were in use last.  All of it is seen without locks.

LSNs are text as PostgreSQL prints them, times are seconds since 1970, what is not known is null.  Fields may be added.

Does not know HTTP, nor who looks.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from heapq import nlargest
from typing import Any, Final

import trio

from walkeeper.acceptor.state import AcceptorState
from walkeeper.control import diagnosis
from walkeeper.control.diagnosis import Problem
from walkeeper.control.events import EventJson
from walkeeper.control.health import State
from walkeeper.control.models import Json
from walkeeper.errors import StorageError
from walkeeper.ids import TenantTimelineId
from walkeeper.lsn import Lsn, format_lsn
from walkeeper.membership import Configuration
from walkeeper.timeline.account import Account
from walkeeper.timeline.registry import Client, Receiver, Sender
from walkeeper.timeline.timeline import Timeline, TimelineStatistics
from walkeeper.timeline.timelines import Timelines

SHOWN_MAX: Final = 50
"""Timelines that are told in full: more than anybody reads, and some 100 KiB."""

STREAMS_MAX: Final = 20
"""Writers, and readers, of one timeline that are told one by one; the others are counted."""

LOOKED_AT_IN_A_TURN: Final = 100
"""Timelines between two checkpoints, well under a millisecond's worth: looking must not hold up commits."""

NAME_CHARACTERS_MAX: Final = 63
"""As PostgreSQL cuts names."""

CAUSE_CHARACTERS_MAX: Final = 300


class CheckJson(Json, frozen=True):
    """``problem`` is empty when it is fine."""

    name: str
    problem: str


class KeeperJson(Json, frozen=True):
    """This process.  Peaks are those of the last minute or two; ``instance`` is another text for each process."""

    id: int
    version: str
    http: str
    pg: str
    started_at: float
    is_ready: bool
    checks: list[CheckJson]
    memory_bytes: int
    loop_lag_peak_seconds: float
    flush_peak_seconds: float
    disk_jobs: int
    disk_oldest_job_seconds: float
    watchers: int
    problems: list[Problem]
    instance: str = ""
    state: State = "serving"


class ReceiverJson(Json, frozen=True):
    connection: int
    peer: str
    application_name: str | None
    status: str
    waiting_messages: int
    waiting_bytes: int


class SenderJson(Json, frozen=True):
    """``lag_bytes``: from what is committed here to where its reader is by its own account, or else to what it was sent."""

    connection: int
    peer: str
    application_name: str | None
    kind: str
    sent_lsn: str
    write_lsn: str | None
    flush_lsn: str | None
    apply_lsn: str | None
    lag_bytes: int


class OverviewMemberJson(Json, frozen=True):
    """``is_new``, ``is_old``: in which set of the configuration it is; in both unless that is a joint one."""

    id: int
    address: str
    is_old: bool
    is_new: bool


class PositionsJson(Json, frozen=True):
    """``start_lsn``: where the WAL that is here begins."""

    flush_lsn: str
    commit_lsn: str
    peer_horizon_lsn: str
    backup_lsn: str
    remote_consistent_lsn: str
    start_lsn: str


class TimelineJson(Json, frozen=True):
    """``standing``: open, blown, shut or closing; only an open one has a term, positions and members.

    ``behind_bytes``: WAL that is here and not known to be committed; ``behind_seconds``: since when there is some and nothing
    was committed.
    """

    tenant_id: str
    timeline_id: str
    standing: str
    problems: list[Problem]
    term: int | None = None
    last_log_term: int | None = None
    is_whole: bool | None = None
    pg_version: int | None = None
    generation: int | None = None
    members: list[OverviewMemberJson] = []  # noqa: RUF012  msgspec gives each its own
    positions: PositionsJson | None = None
    behind_bytes: int = 0
    behind_seconds: float = 0.0
    committed_at: float | None = None
    flushed_bytes: int = 0
    committed_bytes: int = 0
    fuses_blown: int = 0
    receivers: list[ReceiverJson] = []  # noqa: RUF012  msgspec gives each its own
    senders: list[SenderJson] = []  # noqa: RUF012  msgspec gives each its own
    receivers_count: int = 0
    senders_count: int = 0


class TotalsJson(Json, frozen=True):
    """Of all timelines.  ``found``: how many are meant by what was looked for; ``troubled``: how many have a problem."""

    timelines: int = 0
    found: int = 0
    troubled: int = 0
    written: int = 0
    blown: int = 0
    shut: int = 0
    receivers: int = 0
    senders: int = 0
    behind_bytes: int = 0
    received_bytes: int = 0
    flushed_bytes: int = 0
    committed_bytes: int = 0


class OtherTimelineJson(Json, frozen=True):
    """What another keeper says of a timeline."""

    tenant_id: str
    timeline_id: str
    standing: str
    term: int | None = None
    is_whole: bool | None = None
    flush_lsn: str | None = None
    commit_lsn: str | None = None


class OtherKeeperJson(Json, frozen=True):
    """Another keeper.  ``since``: when it became so, or was first asked; ``keeper`` is what it said last, if ever."""

    address: str
    is_answering: bool
    since: float
    problems: list[Problem]
    keeper: KeeperJson | None = None
    timelines: list[OtherTimelineJson] = []  # noqa: RUF012  msgspec gives each its own


class OverviewJson(Json, frozen=True):
    at: float
    keeper: KeeperJson
    totals: TotalsJson
    timelines: list[TimelineJson]
    peers: list[OtherKeeperJson]
    events: list[EventJson]


# -- all of them ----------------------------------------------------------------------------------------------


async def look_at_timelines(timelines: Timelines, find: str) -> tuple[TotalsJson, list[TimelineJson]]:
    """``find``: a part of ``tenant/timeline``; only such timelines are told in full.

    Cancellation: at any time; nothing has changed.
    """
    now = time.time()
    tally = Tally()
    candidates: list[tuple[Interest, TenantTimelineId, Timeline]] = []
    for number, timeline in enumerate(timelines.all(), 1):
        statistics = timeline.statistics()
        interest = interest_of(statistics, now, is_closing=timeline.is_closing)
        tally.add(statistics, is_troubled=interest[0] > 0)
        if is_meant(timeline.ttid, find):
            candidates.append((interest, timeline.ttid, timeline))
        if number % LOOKED_AT_IN_A_TURN == 0:
            await trio.lowlevel.checkpoint()
    shut = timelines.shut()
    found_shut = sorted(ttid for ttid in shut if is_meant(ttid, find))
    shown = [shut_timeline(ttid, shut[ttid]) for ttid in found_shut[:SHOWN_MAX]]
    best = nlargest(SHOWN_MAX - len(shown), candidates, key=lambda each: each[0])
    shown += [describe(each.statistics(), now, is_closing=each.is_closing) for _, _, each in best]
    return tally.totals(len(shut), len(candidates) + len(found_shut)), shown


Interest = tuple[int, int, int, float]
"""How much a timeline is worth a look: what is wrong, who writes, who reads, when something was committed."""


def interest_of(statistics: TimelineStatistics, now: float, *, is_closing: bool) -> Interest:
    """Quick: it is asked of every timeline.  What is above 0 in the first place has a problem, be it a small one."""
    state, account = statistics.state, statistics.account
    if state is None:
        trouble = 1 if is_closing else 4
    elif (
        behind_seconds(state, account, now) > diagnosis.WAITS_SECONDS
        or statistics.is_corruption_reported
        or statistics.is_over_limit
    ):
        trouble = 3
    elif not state.is_whole:
        trouble = 2
    else:
        trouble = 1 if account.fuses_blown else 0
    return trouble, len(statistics.receivers), len(statistics.senders), account.committed_at or 0.0


def is_meant(ttid: TenantTimelineId, find: str) -> bool:
    return not find or find in f"{ttid.tenant_id}/{ttid.timeline_id}"


class Tally:
    """Totals while they are made."""

    def __init__(self) -> None:
        self._sums = dict.fromkeys(TotalsJson.__struct_fields__, 0)

    def add(self, statistics: TimelineStatistics, *, is_troubled: bool) -> None:
        sums, state, account = self._sums, statistics.state, statistics.account
        sums["timelines"] += 1
        sums["troubled"] += is_troubled
        sums["written"] += bool(statistics.receivers)
        sums["blown"] += state is None
        sums["receivers"] += len(statistics.receivers)
        sums["senders"] += len(statistics.senders)
        sums["behind_bytes"] += 0 if state is None else behind_bytes(state)
        sums["received_bytes"] += account.received_bytes
        sums["flushed_bytes"] += account.flushed_bytes
        sums["committed_bytes"] += account.committed_bytes

    def totals(self, shut: int, found: int) -> TotalsJson:
        sums = self._sums
        sums |= {"shut": shut, "found": found, "timelines": sums["timelines"] + shut}
        sums["troubled"] += shut
        return TotalsJson(**sums)


# -- one of them ----------------------------------------------------------------------------------------------


def behind_bytes(state: AcceptorState) -> int:
    return max(0, state.flush_lsn - state.ahead.commit_lsn)


def behind_seconds(state: AcceptorState, account: Account, now: float) -> float:
    if account.waits_since is None or not behind_bytes(state):
        return 0.0
    return max(0.0, now - account.waits_since)


def shut_timeline(ttid: TenantTimelineId, error: StorageError) -> TimelineJson:
    cause = str(error)[:CAUSE_CHARACTERS_MAX]
    problem = diagnosis.of_shut_timeline(cause)
    return TimelineJson(str(ttid.tenant_id), str(ttid.timeline_id), "shut", [problem])


def describe(statistics: TimelineStatistics, now: float, *, is_closing: bool) -> TimelineJson:
    state, account = statistics.state, statistics.account
    lag_bytes = 0 if state is None else behind_bytes(state)
    lag_seconds = 0.0 if state is None else behind_seconds(state, account, now)
    problems = list(
        diagnosis.of_timeline(
            statistics, is_closing=is_closing, behind_bytes=lag_bytes, behind_seconds=lag_seconds
        )
    )
    senders: list[SenderJson] = []
    for sender in statistics.senders[:STREAMS_MAX]:
        senders.append(told := _sender(sender, state))
        if problem := diagnosis.of_sender(sender, told.lag_bytes):
            problems.append(problem)
    return TimelineJson(
        tenant_id=str(statistics.ttid.tenant_id),
        timeline_id=str(statistics.ttid.timeline_id),
        standing="closing" if is_closing else "blown" if state is None else "open",
        problems=problems,
        behind_bytes=lag_bytes,
        behind_seconds=round(lag_seconds, 1),
        committed_at=account.committed_at,
        flushed_bytes=account.flushed_bytes,
        committed_bytes=account.committed_bytes,
        fuses_blown=account.fuses_blown,
        receivers=[_receiver(each) for each in statistics.receivers[:STREAMS_MAX]],
        senders=senders,
        receivers_count=len(statistics.receivers),
        senders_count=len(statistics.senders),
        **({} if state is None else _of_state(state)),
    )


def _of_state(state: AcceptorState) -> dict[str, Any]:
    """The fields that only an open timeline has."""
    return {
        "term": state.term,
        "last_log_term": state.last_log_term,
        "is_whole": state.is_whole,
        "pg_version": state.kept.server.pg_version,
        "generation": state.kept.configuration.generation,
        "members": list(_members(state.kept.configuration)),
        "positions": _positions(state),
    }


def _positions(state: AcceptorState) -> PositionsJson:
    return PositionsJson(
        format_lsn(state.flush_lsn),
        format_lsn(state.ahead.commit_lsn),
        format_lsn(state.ahead.peer_horizon_lsn),
        format_lsn(state.ahead.backup_lsn),
        format_lsn(state.ahead.remote_consistent_lsn),
        format_lsn(state.kept.local_start_lsn),
    )


def _members(configuration: Configuration) -> Iterator[OverviewMemberJson]:
    old = configuration.members
    new = old if configuration.new_members is None else configuration.new_members
    for member in dict.fromkeys((*old, *new)):
        address = f"{member.host[:NAME_CHARACTERS_MAX]}:{member.pg_port}"
        yield OverviewMemberJson(member.id, address, member in old, member in new)


def _receiver(receiver: Receiver) -> ReceiverJson:
    client, waiting = receiver.client, receiver.waiting()
    return ReceiverJson(
        client.connection,
        client.peer,
        _name(client),
        receiver.status.value.lower(),
        waiting.messages,
        waiting.pinned_bytes,
    )


def _sender(sender: Sender, state: AcceptorState | None) -> SenderJson:
    """A pageserver's positions are told in a standby's words, as ``SHOW walkeeper_status`` does."""
    standby, pageserver = sender.status, sender.pageserver
    reported: tuple[Lsn, ...] = ()
    if standby is not None:
        reported = (standby.write_lsn, standby.flush_lsn, standby.apply_lsn)
    elif pageserver is not None:
        reported = (pageserver.last_received_lsn, pageserver.disk_consistent_lsn, pageserver.remote_consistent_lsn)
    write_lsn, flush_lsn, apply_lsn = [format_lsn(lsn) for lsn in reported] or (None, None, None)
    reached = _reached(sender, reported)
    committed = state.ahead.commit_lsn if state else Lsn(0)
    return SenderJson(
        sender.client.connection,
        sender.client.peer,
        _name(sender.client),
        "pageserver" if pageserver is not None else "standby" if sender.is_standby else "reader",
        format_lsn(sender.sent_lsn),
        write_lsn,
        flush_lsn,
        apply_lsn,
        max(0, committed - reached) if reached else 0,
    )


def _reached(sender: Sender, reported: Iterable[Lsn]) -> Lsn:
    """How far it is by its own account: pg_receivewal applies nothing, a standby may not flush; 0 if nobody knows."""
    return max((lsn for lsn in reported if lsn), default=sender.sent_lsn)


def _name(client: Client) -> str | None:
    return client.application_name and client.application_name[:NAME_CHARACTERS_MAX]


def of_peer(timelines: Sequence[TimelineJson]) -> list[OtherTimelineJson]:
    """What is shown of another keeper's timelines."""
    return [
        OtherTimelineJson(
            each.tenant_id,
            each.timeline_id,
            each.standing,
            each.term,
            each.is_whole,
            each.positions.flush_lsn if each.positions else None,
            each.positions.commit_lsn if each.positions else None,
        )
        for each in timelines
    ]
