"""What keeps commits from being acknowledged: from what keepers and the primary say to findings.

Pure: the same facts give the same findings, so each of them is a row of a table in the tests.

Three gravities.  *Blocked*: commits wait because of it, or will when there are some.  *Risk*: they do not, but the next
failure may make them, or they return without keepers.  *Note*: what was not seen, or delays nobody's commits.

A keeper *can acknowledge* if nothing that it says of itself speaks against that; what keeps one from it is *blocked*
where too few can, else a *risk*.  Of one that does not let us in nothing is known: it counts for neither side.

Does not ask anybody (``why_blocked``) and does not print (``diagnosis_report``).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from walkeeper.ids import TenantTimelineId, TimelineNumber
from walkeeper.links.poll import Answer, Poll, Trouble
from walkeeper.links.primary import flaw_of_standby_names
from walkeeper.lsn import Lsn, format_lsn, parse_lsn
from walkeeper.membership import majority
from walkeeper.terms import Term
from walkeeper.tools.status import KeeperStatus

STILL: Final = timedelta(seconds=5)
"""A position that has not moved for so long although there is more WAL stands still; a busy disk takes a second."""

SILENT: Final = timedelta(seconds=10)
"""A sidecar reports every second; one that has said nothing for so long hangs."""

FAR_BEHIND_BYTES: Final = 64 * 1024 * 1024
"""The sidecar's window: a keeper that lacks more than that has to be filled by another one, which takes its time."""

QUORUM: Final = "quorum"
"""Who it is that is told of, when it is all of them together."""

SIDECAR: Final = "look at the log of walkeeper propose, which says why"


class Gravity(Enum):
    """In the order in which they are told."""

    BLOCKED = "blocked"
    RISK = "risk"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be: of whom, what, since when if that is known, and what can be done."""

    gravity: Gravity
    who: str
    what: str
    remedy: str
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class StandbyFacts:
    """A row of pg_stat_replication.  ``flush_lsn``: what it has acknowledged.

    ``state`` is None in a row whose values the role may not see.
    """

    state: str | None
    sync_state: str | None
    flush_lsn: Lsn | None
    replied_at: datetime | None


@dataclass(frozen=True, slots=True)
class SlotFacts:
    """A row of pg_replication_slots."""

    is_active: bool
    wal_status: str
    restart_lsn: Lsn | None


@dataclass(frozen=True, slots=True)
class PrimaryFacts:
    """What the primary says, by its own clock (``now``).

    ``standby``: the sidecar, None if it is not connected.  ``waiting``: commits that waited for a standby during all of
    the look, the oldest ``waiting_since``.  ``sees_all``: whether its role may see what other roles wait for.  ``tli``:
    PostgreSQL's timeline id, None of a standby.
    """

    name: str
    now: datetime
    is_standby: bool
    flush_lsn: Lsn
    standby_names: str
    synchronous_commit: str
    standby: StandbyFacts | None
    slot: SlotFacts | None
    waiting: int
    waiting_since: datetime | None
    sees_all: bool
    tli: TimelineNumber | None


@dataclass(frozen=True, slots=True)
class Facts:
    """``primary``: what it says, or why it says nothing; None if it was not asked.  ``now``: our clock.

    ``ttid``: None if nobody says whose WAL is meant; then ``found`` has no answers, only who lives.  ``sidecar``: how it is called in the primary's lists; ``slot``: the name of its slot.
    """

    now: datetime
    ttid: TenantTimelineId | None
    found: Poll[KeeperStatus]
    primary: PrimaryFacts | str | None
    sidecar: str
    slot: str


def diagnose(facts: Facts) -> Sequence[Finding]:
    """What is found, gravest first; nothing if all is well."""
    unknown = _why_unknown(facts)
    keepers = Keepers(facts).findings() if unknown is None else _of_presence(facts, *unknown)
    found = [*_of_primary(facts), *keepers]
    return sorted(found, key=lambda each: list(Gravity).index(each.gravity))


def is_blocked(findings: Sequence[Finding]) -> bool:
    return any(each.gravity is Gravity.BLOCKED for each in findings)


def is_seen(findings: Sequence[Finding]) -> bool:
    """Whether enough was seen of the keepers to tell if something is blocked."""
    return not any(each.gravity is Gravity.NOTE and each.who == QUORUM for each in findings)


# -- the primary ----------------------------------------------------------------------------------------------


def _of_primary(facts: Facts) -> Iterator[Finding]:
    match facts.primary:
        case None:
            return
        case str(why):
            yield Finding(
                Gravity.BLOCKED,
                "primary",
                why,
                "start it, or look at its network and pg_hba.conf: nobody else writes",
            )
        case PrimaryFacts(is_standby=True) as primary:
            yield Finding(
                Gravity.BLOCKED, primary.name, "it is a standby", "give the address of the primary, or promote it"
            )
        case primary:
            yield from _of_writing_primary(facts, primary)


def _of_writing_primary(facts: Facts, primary: PrimaryFacts) -> Iterator[Finding]:
    if primary.waiting:
        plural = "commits wait" if primary.waiting > 1 else "commit waits"
        since = _by_our_clock(facts, primary.now, primary.waiting_since)
        yield Finding(
            Gravity.BLOCKED,
            primary.name,
            f"{primary.waiting} {plural} for a standby (wait event SyncRep)",
            "see who has not acknowledged, in the other lines",
            since,
        )
    if not primary.sees_all:
        yield Finding(
            Gravity.NOTE,
            primary.name,
            "this role cannot see what others wait for",
            "GRANT pg_monitor to it: without that, commits that wait are not seen",
        )
    yield from _of_settings(facts, primary)
    yield from _of_standby(facts, primary)
    yield from _of_slot(facts, primary)


def _of_settings(facts: Facts, primary: PrimaryFacts) -> Iterator[Finding]:
    if primary.synchronous_commit in ("off", "local"):
        yield Finding(
            Gravity.RISK,
            primary.name,
            f"synchronous_commit is {primary.synchronous_commit}: commits return before any keeper has them",
            "ALTER SYSTEM SET synchronous_commit = 'on'; SELECT pg_reload_conf();",
        )
    if flaw := flaw_of_standby_names(primary.standby_names, facts.sidecar):
        yield Finding(
            Gravity.BLOCKED if primary.waiting else Gravity.RISK,
            primary.name,
            f"synchronous_standby_names is {primary.standby_names!r}: {flaw}",
            f"ALTER SYSTEM SET synchronous_standby_names = '{facts.sidecar}'; SELECT pg_reload_conf();",
        )


def _of_standby(facts: Facts, primary: PrimaryFacts) -> Iterator[Finding]:
    who = f"sidecar {facts.sidecar}"
    standby = primary.standby
    waits_for_it = not flaw_of_standby_names(primary.standby_names, facts.sidecar)
    gravity = Gravity.BLOCKED if waits_for_it else Gravity.RISK
    if standby is None:
        yield Finding(
            gravity,
            who,
            "it is not connected to the primary (pg_stat_replication)",
            f"start walkeeper propose, or {SIDECAR}; its application_name must be {facts.sidecar}",
        )
        return
    if standby.state is None:
        yield Finding(Gravity.NOTE, who, "how it is could not be seen", "GRANT pg_monitor to the role that asks")
        return
    replied_at = standby.replied_at
    if replied_at is not None and primary.now - replied_at > SILENT:
        since = _by_our_clock(facts, primary.now, replied_at)
        yield Finding(
            gravity, who, "it has said nothing to the primary", f"{SIDECAR}; restart it if it hangs", since
        )
    elif standby.state != "streaming":
        yield Finding(Gravity.NOTE, who, f"it does not stream yet (state {standby.state})", SIDECAR)
    elif waits_for_it and standby.sync_state not in ("sync", "quorum"):
        yield Finding(
            Gravity.RISK,
            who,
            f"commits do not wait for it (sync_state {standby.sync_state})",
            "reload the primary's settings, or look whether another standby has its name",
        )
    lag_bytes = primary.flush_lsn - (standby.flush_lsn or Lsn(0))
    if primary.waiting and lag_bytes > 0:
        acknowledged = format_lsn(standby.flush_lsn or Lsn(0))
        yield Finding(
            Gravity.BLOCKED,
            who,
            f"it has acknowledged up to {acknowledged}, {lag_bytes} bytes less than the primary has written",
            f"it waits for a majority of keepers: see below, or {SIDECAR}",
        )


def _of_slot(facts: Facts, primary: PrimaryFacts) -> Iterator[Finding]:
    who, slot = f"slot {facts.slot}", primary.slot
    if slot is None:
        yield Finding(
            Gravity.RISK,
            who,
            "it does not exist: the primary may remove WAL that no keeper has",
            "the sidecar makes it when it leads; say --slot if it has another name",
        )
    elif slot.wal_status == "lost":
        yield Finding(
            Gravity.BLOCKED,
            who,
            "it is lost: the primary has removed WAL that keepers lack",
            "drop the slot, take a base backup, and see operations.md about a sidecar that was away for too long",
        )
    elif slot.wal_status == "unreserved":
        yield Finding(
            Gravity.RISK,
            who,
            "it is about to be lost: the primary keeps no more WAL for it",
            "raise max_slot_wal_keep_size, and have the sidecar catch up",
        )
    elif not slot.is_active:
        kept_bytes = primary.flush_lsn - slot.restart_lsn if slot.restart_lsn else 0
        yield Finding(
            Gravity.RISK,
            who,
            f"nobody uses it, and the primary keeps {kept_bytes} bytes of WAL for it",
            f"start walkeeper propose, or {SIDECAR}",
        )


# -- the keepers ----------------------------------------------------------------------------------------------


def _why_unknown(facts: Facts) -> tuple[str, str] | None:
    """Why keepers were not asked about the WAL that the sidecar streams, and what to do; None if they were."""
    if facts.ttid is None:
        return (
            "how far they are is not known without --system-id",
            "say --system-id (pg_controldata tells it), or --tenant and --timeline",
        )
    kept = {each.kept.tli for each in facts.found.answers if each.kept.end_lsn and each.kept.tli}
    own = facts.primary.tli if isinstance(facts.primary, PrimaryFacts) else None
    if own is None or not kept or own in kept:
        return None
    return (
        f"the WAL that was asked for is of PostgreSQL's timeline id {max(kept)}, and the primary is on {own}",
        "give the --timeline that the sidecar has: after a restore or a promotion it needs a new one",
    )


def _of_presence(facts: Facts, why: str, remedy: str) -> Iterator[Finding]:
    """Who is there: nothing else that keepers say of themselves is about this primary."""
    found = facts.found
    absent = [each for each in found.troubles if not each.is_ignorant]
    there = [str(each.address) for each in found.results if each not in absent]
    size, needed = len(found.results), majority(len(found.results))
    may_be_there = len(there) + sum(each.advice.is_unseen for each in absent)
    counted = f"{len(there)} of {size} keepers {'answers' if len(there) == 1 else 'answer'}"
    gravity = Gravity.RISK if may_be_there >= needed else Gravity.BLOCKED
    if gravity is Gravity.BLOCKED:
        yield Finding(gravity, QUORUM, f"{counted}, {needed} are needed", "bring back those that do not")
    yield from _of_troubles(absent, gravity)
    names = f" ({', '.join(there)})" if there else ""
    yield Finding(Gravity.NOTE, QUORUM, f"{counted}{names}; {why}", remedy)


def _of_troubles(troubles: Sequence[Trouble], gravity: Gravity) -> Iterator[Finding]:
    for trouble in troubles:
        who, why = f"keeper {trouble.address}", _without_name(trouble)
        if trouble.advice.is_unseen:
            yield Finding(Gravity.NOTE, who, f"it could not be seen: {why}", trouble.advice.remedy)
        else:
            yield Finding(gravity, who, why, _remedy_of(trouble))


class Keepers:
    """What is to be said of the keepers, each and together."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        found = facts.found
        self._troubles, self._answers = found.troubles, found.answers
        self._needed = majority(len(found.results))
        self._size = len(found.results)
        self._reasons = {each.address: list(self._against(each.told)) for each in self._answers}
        self._able = [each for each in self._answers if not self._reasons[each.address]]

    def findings(self) -> Iterator[Finding]:
        able, unseen = len(self._able), sum(each.advice.is_unseen for each in self._troubles)
        gravity = Gravity.RISK if able + unseen >= self._needed else Gravity.BLOCKED
        if able < self._needed:
            counted = f"{able} of {self._size} keepers can acknowledge, {self._needed} are needed"
            yield Finding(
                Gravity.NOTE if gravity is Gravity.RISK else gravity,
                QUORUM,
                f"it could not be seen: {counted}, {unseen} would not tell"
                if gravity is Gravity.RISK
                else counted,
                "put right what the lines of the others say, the easiest first",
            )
        yield from _of_troubles(self._troubles, gravity)
        for answer in self._answers:
            for what, remedy, since in self._reasons[answer.address]:
                yield Finding(gravity, f"keeper {answer.address}", what, remedy, since)
        yield from self._of_positions()
        for answer in self._answers:
            yield from self._of_readers(answer)

    def _against(self, told: KeeperStatus) -> Iterator[tuple[str, str, datetime | None]]:
        """What keeps it from acknowledging, what can be done, since when."""
        if told.is_whole is False:
            yield (
                "it is new or has lost its disk, and does not count until it is whole",
                "nothing, while a writer fills it and a majority of others is whole; else see operations.md",
                None,
            )
        if told.generation is not None and told.generation != (usual := self._usual_generation()):
            yield (
                f"it is in generation {told.generation} of the configuration, others are in {usual}",
                "give it the newer one (PUT .../membership)",
                None,
            )
        yield from self._against_following(told)

    def _against_following(self, told: KeeperStatus) -> Iterator[tuple[str, str, datetime | None]]:
        """Why it takes no WAL of the writer.  A keeper that tells no node_id, as Neon's, does not tell who writes either."""
        leader_term = self._leader_term()
        if told.term is not None and leader_term is not None and told.term > leader_term:
            yield (
                f"it is in term {told.term}, the writer's is {leader_term}: another one has taken over, or a sync",
                "stop one of the two writers, and start the other again",
                None,
            )
            return
        if told.node_id is None or _is_streaming(told):
            return
        last = self._last_wal(told)
        if told.receivers:
            yield f"a writer asks for its vote and does not stream yet{last}", SIDECAR, None
        elif told.refused is not None:
            when = self._since(told, told.refused.at)
            yield f"it has sent the writer away: {told.refused.why}", _remedy_for_refusal(told.refused.why), when
        elif told.term is not None and told.last_log_term is not None and told.term > told.last_log_term:
            yield (
                f"no writer streams to it{last}; it has voted in term {told.term}, and its WAL is of term {told.last_log_term}",
                f"a writer that was fenced does not come back by itself: start the one that is to write; {SIDECAR}",
                None,
            )
        else:
            yield (
                f"no writer streams to it{last}",
                f"start walkeeper propose, or {SIDECAR}; is this keeper among its --keepers?",
                None,
            )

    def _last_wal(self, told: KeeperStatus) -> str:
        """When its WAL grew last: not since when nobody streams, for a writer may be idle."""
        moment = self._since(told, told.flushed_at)
        return "" if moment is None else f" (its last WAL came at {moment.isoformat(timespec='seconds')})"

    def _leader_term(self) -> Term | None:
        terms = [each.told.last_log_term for each in self._answers if _is_streaming(each.told)]
        return Term(max((term for term in terms if term is not None), default=0)) or None

    def _usual_generation(self) -> int:
        """That of most keepers; of two that are as many, the newer one."""
        generations = [each.told.generation for each in self._answers if each.told.generation is not None]
        return max(generations, key=lambda each: (generations.count(each), each))

    # -- how far they are -------------------------------------------------------------------------------------

    def _of_positions(self) -> Iterator[Finding]:
        flushed = sorted((parse_lsn(each.told.flush_lsn) for each in self._able), reverse=True)
        if len(flushed) < self._needed:
            return
        on_majority = flushed[self._needed - 1]
        target = self._target()
        for answer in self._able:
            lag_bytes = target - parse_lsn(answer.told.flush_lsn)
            stands = self._stands_still(answer.told, answer.told.flushed_at)
            if lag_bytes > FAR_BEHIND_BYTES or (lag_bytes > 0 and (stands or self._has_waiting)):
                is_needed = on_majority < target and (stands or self._has_waiting)
                yield Finding(
                    Gravity.BLOCKED if is_needed else Gravity.RISK,
                    f"keeper {answer.address}",
                    f"it has WAL up to {answer.told.flush_lsn}, {lag_bytes} bytes less than there is",
                    "look at its disk (walkeeper check -D) and its network; the sidecar's log says whether it is dropped",
                    self._since(answer.told, answer.told.flushed_at),
                )
        yield from self._of_commit(on_majority)

    def _of_commit(self, on_majority: Lsn) -> Iterator[Finding]:
        newest = max(self._able, key=lambda each: parse_lsn(each.told.commit_lsn)).told
        lag_bytes = on_majority - parse_lsn(newest.commit_lsn)
        if lag_bytes > 0 and self._stands_still(newest, newest.committed_at):
            yield Finding(
                Gravity.BLOCKED,
                QUORUM,
                f"a majority has WAL up to {format_lsn(on_majority)}, and no keeper has heard of a commit above"
                f" {newest.commit_lsn}",
                f"the writer has not got that far in its term, or hangs: {SIDECAR}",
                self._since(newest, newest.committed_at),
            )

    def _target(self) -> Lsn:
        """Up to where there is WAL that keepers should have."""
        most = max(parse_lsn(each.told.flush_lsn) for each in self._answers)
        primary = self._facts.primary
        return max(most, primary.flush_lsn) if isinstance(primary, PrimaryFacts) else most

    @property
    def _has_waiting(self) -> bool:
        primary = self._facts.primary
        return isinstance(primary, PrimaryFacts) and primary.waiting > 0

    def _of_readers(self, answer: Answer[KeeperStatus]) -> Iterator[Finding]:
        for sender in answer.told.senders:
            lag_bytes = parse_lsn(answer.told.commit_lsn) - parse_lsn(sender.sent_lsn)
            if lag_bytes > FAR_BEHIND_BYTES:
                yield Finding(
                    Gravity.NOTE,
                    f"reader {sender.application_name or sender.connection} of keeper {answer.address}",
                    f"it was sent WAL up to {sender.sent_lsn}, {lag_bytes} bytes less than is committed: it pauses or is slow",
                    "look at that reader; no commit waits for it",
                )

    # -- clocks -----------------------------------------------------------------------------------------------

    def _stands_still(self, told: KeeperStatus, moved_at: datetime | None) -> bool:
        """Whether a position moved last so long ago.  One that does not tell its clock is given the benefit of the doubt."""
        if told.now is None:
            return False
        return moved_at is None or told.now - moved_at > STILL

    def _since(self, told: KeeperStatus, moment: datetime | None) -> datetime | None:
        return None if told.now is None else _by_our_clock(self._facts, told.now, moment)


def _is_streaming(told: KeeperStatus) -> bool:
    return any(each.status == "Streaming" for each in told.receivers)


def _by_our_clock(facts: Facts, theirs: datetime, moment: datetime | None) -> datetime | None:
    """``moment`` of a clock that shows ``theirs`` while ours shows ``facts.now``."""
    return None if moment is None else facts.now - (theirs - moment)


def _without_name(trouble: Trouble) -> str:
    return trouble.why.removeprefix(f"keeper {trouble.address}").lstrip(": ")


def _remedy_of(trouble: Trouble) -> str:
    if trouble.is_ignorant:
        return "is it the right --system-id? A writer makes the timeline when it connects"
    return trouble.advice.remedy


_REFUSALS: Final = (
    ("No space left", "make room on its disk: it goes on by itself"),
    ("Global disk usage exceeded", "its disk is nearly full: make room there, and it goes on by itself"),
    (
        "WAL storage utilization exceeds",
        "remove segments that nobody needs, or raise --max-timeline-disk-usage-bytes",
    ),
    ("generation", "give it the newer configuration (PUT .../membership)"),
    ("being read again", "its disk failed in the middle of an operation: its log says how"),
)


def _remedy_for_refusal(why: str) -> str:
    return next((remedy for word, remedy in _REFUSALS if word in why), f"its log has more; {SIDECAR}")
