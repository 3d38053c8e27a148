"""What keeps commits from being acknowledged: one situation a row, and what is found in it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from walkeeper.errors import ConfigError
from walkeeper.ids import NodeId, TenantTimelineId, TimelineNumber
from walkeeper.links.address import Address
from walkeeper.links.keeper import FINAL, TOKEN, KeptTimeline
from walkeeper.links.poll import Answer, Poll, Trouble
from walkeeper.lsn import Lsn, parse_lsn
from walkeeper.tools.diagnosis import (
    FAR_BEHIND_BYTES,
    SILENT,
    STILL,
    Facts,
    Finding,
    Gravity,
    PrimaryFacts,
    SlotFacts,
    StandbyFacts,
    diagnose,
    is_blocked,
)
from walkeeper.tools.diagnosis_report import as_json, as_text
from walkeeper.tools.status import KeeperStatus, ReceiverStatus, RefusalStatus, SenderStatus

NOW = datetime(2026, 1, 31, 14, 15, 16, tzinfo=UTC)
SKEW = timedelta(hours=3)  # of the keepers' and the primary's clocks: no moment of theirs may be taken for ours
THEIRS = NOW + SKEW
LONG_AGO = THEIRS - timedelta(minutes=2)
JUST_NOW = THEIRS - timedelta(milliseconds=3)

END = "0/5000000"
BEHIND = "0/4FFFF00"
FAR_BEHIND = "0/100000"
assert parse_lsn(END) - parse_lsn(FAR_BEHIND) > FAR_BEHIND_BYTES

STREAMING = [ReceiverStatus(1, "10.0.0.1:4711", "walkeeper", "Streaming")]
VOTING = [ReceiverStatus(1, "10.0.0.1:4711", "walkeeper", "Voting")]
ADDRESSES = [Address(f"k{number}", 5454) for number in (1, 2, 3)]

WELL = KeeperStatus(
    END, END, term=5, last_log_term=5, is_whole=True, now=THEIRS, generation=0, flushed_at=JUST_NOW,
    committed_at=JUST_NOW, receivers=STREAMING,
)  # fmt: skip
PRIMARY = PrimaryFacts(
    name="primary db:5432", now=THEIRS, is_standby=False, flush_lsn=parse_lsn(END), standby_names="walkeeper",
    synchronous_commit="on", standby=StandbyFacts("streaming", "sync", parse_lsn(END), JUST_NOW),
    slot=SlotFacts(is_active=True, wal_status="reserved", restart_lsn=parse_lsn(END)), waiting=0, waiting_since=None,
    sees_all=True, tli=TimelineNumber(1),
)  # fmt: skip

Said = KeeperStatus | Trouble


def dead(number: int) -> Trouble:
    address = ADDRESSES[number - 1]
    return Trouble(address, f"keeper {address}: Connection refused")


def ignorant(number: int) -> Trouble:
    return replace(dead(number), is_ignorant=True)


def misplaced(number: int) -> Trouble:
    return replace(dead(number), refusal=ConfigError("another cluster"), advice=FINAL)


def closed(number: int) -> Trouble:
    """It wants a token that we do not have."""
    address = ADDRESSES[number - 1]
    return Trouble(address, f"keeper {address} asks for a token: --auth-token-path", advice=TOKEN)


def keeper(**different: Any) -> KeeperStatus:
    return msgspec.structs.replace(WELL, **different)


def primary(**different: Any) -> PrimaryFacts:
    return replace(PRIMARY, **different)


def standby(**different: Any) -> PrimaryFacts:
    return primary(standby=replace(PRIMARY.standby or StandbyFacts("", "", None, None), **different))


def slot(**different: Any) -> PrimaryFacts:
    return primary(slot=replace(PRIMARY.slot or SlotFacts(False, "", None), **different))


def waiting(which: PrimaryFacts = PRIMARY) -> PrimaryFacts:
    return replace(which, waiting=2, waiting_since=LONG_AGO)


EMPTY = keeper(flush_lsn="0/0", commit_lsn="0/0")
NEONS = KeeperStatus(END, END)
GONE = keeper(receivers=[], flushed_at=LONG_AGO)


@dataclass(frozen=True)
class Situation:
    """`keepers`: what is different with some.  `found`: gravity, who, and words that the line has."""

    name: str
    keepers: Mapping[int, Said] = field(default_factory=dict)
    primary: PrimaryFacts | str | None = PRIMARY
    is_named: bool = True
    found: tuple[tuple[Gravity, str, str], ...] = ()


BLOCKED, RISK, NOTE = Gravity
SIDECAR, SLOT, DB = "sidecar walkeeper", "slot walkeeper", "primary db:5432"
UNREACHED = "primary db:5432: Connection refused"
K1, K2, K3 = (f"keeper {address}" for address in ADDRESSES)

SITUATIONS = (
    Situation("all is well"),
    Situation("all is well, as far as keepers tell", primary=None),
    Situation("keepers like Neon's do not tell who writes", dict.fromkeys((1, 2, 3), NEONS)),
    # -- the quorum
    Situation("one dead", {3: dead(3)}, found=((RISK, K3, "Connection refused"),)),
    Situation(
        "two dead", {2: dead(2), 3: dead(3)},
        found=((BLOCKED, "quorum", "1 of 3"), (BLOCKED, K2, "Connection refused"), (BLOCKED, K3, "refused")),
    ),
    Situation("one does not have it", {1: ignorant(1)}, found=((RISK, K1, "--system-id"),)),
    Situation("one is somebody else's", {1: misplaced(1)}, found=((RISK, K1, "put right"),)),
    Situation("one new", {2: keeper(is_whole=False)}, found=((RISK, K2, "until it is whole"),)),
    Situation(
        "one new, one dead", {1: dead(1), 2: keeper(is_whole=False)},
        found=((BLOCKED, "quorum", "1 of 3"), (BLOCKED, K1, "refused"), (BLOCKED, K2, "until it is whole")),
    ),
    # -- who does not let us in
    Situation("one wants a token", {1: closed(1)}, found=((NOTE, K1, "could not be seen: asks for a token"),)),
    Situation(
        "all want a token", {number: closed(number) for number in (1, 2, 3)},
        found=((NOTE, "quorum", "could not be seen: 0 of 3 keepers can acknowledge, 2 are needed, 3 would not tell"),
               *((NOTE, each, "--auth-token-path") for each in (K1, K2, K3))),
    ),
    Situation(
        "one wants a token, one is dead", {1: closed(1), 2: dead(2)},
        found=((RISK, K2, "Connection refused"), (NOTE, "quorum", "could not be seen"), (NOTE, K1, "could not be seen")),
    ),
    Situation(
        "one wants a token, two are dead", {1: closed(1), 2: dead(2), 3: dead(3)},
        found=((BLOCKED, "quorum", "0 of 3"), (BLOCKED, K2, "refused"), (BLOCKED, K3, "refused"), (NOTE, K1, "token")),
    ),
    # -- who writes
    Situation("one hears nothing", {2: GONE}, found=((RISK, K2, "no writer streams to it (its last WAL came at 2026-01-31T14:13:16+00:00); to do"),)),
    Situation(
        "no sidecar", dict.fromkeys((1, 2, 3), GONE), primary(standby=None),
        found=((BLOCKED, SIDECAR, "not connected"), (BLOCKED, "quorum", "0 of 3"),
         *((BLOCKED, each, "no writer streams") for each in (K1, K2, K3))),
    ),
    Situation("one is asked for its vote", {1: keeper(receivers=VOTING)}, found=((RISK, K1, "asks for its vote"),)),
    Situation(
        "one refuses, since its disk is full",
        {1: keeper(receivers=[], refused=RefusalStatus("flush_wal: No space left on device", LONG_AGO))},
        found=((RISK, K1, "No space left on device, since 2026-01-31T14:13:16+00:00 (120 s); to do: make room"),),
    ),
    Situation(
        "one has refused and takes WAL again",
        {1: keeper(refused=RefusalStatus("No space left on device", LONG_AGO))},
    ),
    Situation("one was fenced", {1: keeper(term=7)}, found=((RISK, K1, "term 7, the writer's is 5"),)),
    Situation(
        "most were fenced", {1: keeper(term=7, receivers=[]), 2: keeper(term=7, receivers=[])},
        found=((BLOCKED, "quorum", "1 of 3"), *((BLOCKED, each, "another one has taken over") for each in (K1, K2))),
    ),
    Situation(
        "all have voted for nobody who is there", dict.fromkeys((1, 2, 3), msgspec.structs.replace(GONE, term=7)),
        found=((BLOCKED, "quorum", "0 of 3"), *((BLOCKED, each, "voted in term 7") for each in (K1, K2, K3))),
    ),
    Situation("one in an old configuration", {3: keeper(generation=2)}, found=((RISK, K3, "generation 2"),)),
    # -- how far they are
    Situation("one a moment behind", {3: keeper(flush_lsn=BEHIND)}),
    Situation(
        "one stands still", {3: keeper(flush_lsn=BEHIND, flushed_at=LONG_AGO)},
        found=((RISK, K3, "256 bytes less than there is, since 2026-01-31T14:13:16"),),
    ),
    Situation(
        "two stand still", dict.fromkeys((2, 3), keeper(flush_lsn=BEHIND, flushed_at=LONG_AGO)),
        found=((BLOCKED, K2, "256 bytes less"), (BLOCKED, K3, "256 bytes less")),
    ),
    Situation("one is far behind", {3: keeper(flush_lsn=FAR_BEHIND)}, found=((RISK, K3, "less than there is"),)),
    Situation(
        "commits wait for the disks of all", dict.fromkeys((1, 2, 3), keeper(flush_lsn=BEHIND)), waiting(),
        found=((BLOCKED, DB, "2 commits wait"), *((BLOCKED, each, "256 bytes less") for each in (K1, K2, K3))),
    ),
    Situation(
        "nobody hears of commits", dict.fromkeys((1, 2, 3), keeper(commit_lsn=BEHIND, committed_at=LONG_AGO)),
        found=((BLOCKED, "quorum", "no keeper has heard of a commit above 0/4FFFF00"),),
    ),
    Situation("commits are heard of a moment later", dict.fromkeys((1, 2, 3), keeper(commit_lsn=BEHIND))),
    Situation(
        "a reader pauses", {1: keeper(senders=[SenderStatus(4, None, "db\x1b2", FAR_BEHIND, None, None, None)])},
        found=((NOTE, f"reader db\x1b2 of {K1}", "pauses or is slow"),),
    ),
    # -- whose WAL is not known
    Situation(
        "no primary, no name, two keepers", {1: ignorant(1), 2: ignorant(2), 3: dead(3)}, UNREACHED, is_named=False,
        found=((BLOCKED, "primary", "refused"), (RISK, K3, "Connection refused"),
               (NOTE, "quorum", "(k1:5454, k2:5454); how far they are is not known without --system-id; to do: say")),
    ),
    Situation(
        "no primary, no name, one keeper", {1: dead(1), 2: dead(2), 3: ignorant(3)}, UNREACHED, is_named=False,
        found=((BLOCKED, "primary", "refused"), (BLOCKED, "quorum", "1 of 3 keepers answers, 2 are needed"),
               (BLOCKED, K1, "refused"), (BLOCKED, K2, "refused"), (NOTE, "quorum", "(k3:5454)")),
    ),
    Situation(
        "no primary, no name, no token", {1: closed(1), 2: closed(2), 3: closed(3)}, UNREACHED, is_named=False,
        found=((BLOCKED, "primary", "refused"), *((NOTE, each, "could not be seen") for each in (K1, K2, K3)),
               (NOTE, "quorum", "0 of 3 keepers answer;")),
    ),
    # -- another stream's WAL
    Situation(
        "after a restore", dict.fromkeys((1, 2, 3), GONE), primary(tli=TimelineNumber(2)),
        found=((NOTE, "quorum", "is of PostgreSQL's timeline id 1, and the primary is on 2; to do: give the --timeline"),),
    ),
    Situation(
        "after a restore, two dead", {1: GONE, 2: dead(2), 3: dead(3)}, waiting(primary(tli=TimelineNumber(2))),
        found=((BLOCKED, DB, "2 commits wait"), (BLOCKED, "quorum", "1 of 3 keepers answers, 2 are needed"),
               (BLOCKED, K2, "refused"), (BLOCKED, K3, "refused"), (NOTE, "quorum", "--timeline")),
    ),
    Situation(
        "after a restore, one has been emptied", {1: EMPTY, 2: GONE, 3: GONE}, primary(tli=TimelineNumber(2)),
        found=((NOTE, "quorum", "--timeline"),),
    ),
    Situation("a primary whose timeline id is not known", primary=primary(tli=None)),
    # -- the primary
    Situation("no primary", primary=UNREACHED, found=((BLOCKED, "primary", "refused"),)),
    Situation("a standby", primary=primary(is_standby=True), found=((BLOCKED, DB, "it is a standby"),)),
    Situation(
        "commits wait", primary=waiting(),
        found=((BLOCKED, DB, "2 commits wait for a standby (wait event SyncRep), since 2026-01-31T14:13:16+00:00 (120 s)"),),
    ),
    Situation("one waits", primary=replace(waiting(), waiting=1), found=((BLOCKED, DB, "1 commit waits"),)),
    Situation("others are not seen", primary=primary(sees_all=False), found=((NOTE, DB, "pg_monitor"),)),
    Situation(
        "the sidecar is not connected", primary=primary(standby=None), found=((BLOCKED, SIDECAR, "not connected"),)
    ),
    Situation(
        "the sidecar hangs", primary=standby(replied_at=LONG_AGO),
        found=((BLOCKED, SIDECAR, "said nothing to the primary, since 2026-01-31T14:13:16"),),
    ),
    Situation(
        "the sidecar is not shown to this role", primary=standby(state=None, sync_state=None, flush_lsn=None, replied_at=None),
        found=((NOTE, SIDECAR, "how it is could not be seen; to do: GRANT pg_monitor"),),
    ),
    Situation("the sidecar begins", primary=standby(state="catchup"), found=((NOTE, SIDECAR, "catchup"),)),
    Situation("it is not the one", primary=standby(sync_state="potential"), found=((RISK, SIDECAR, "potential"),)),
    Situation(
        "the sidecar has acknowledged less", primary=waiting(standby(flush_lsn=parse_lsn(BEHIND))),
        found=((BLOCKED, DB, "2 commits wait"), (BLOCKED, SIDECAR, "up to 0/4FFFF00, 256 bytes less")),
    ),
    Situation(
        "it is not in the list", primary=replace(standby(sync_state="async"), standby_names=""),
        found=((RISK, DB, "commits return before any keeper has them"),),
    ),
    Situation(
        "they wait for somebody else", primary=waiting(primary(standby_names="other")),
        found=((BLOCKED, DB, "2 commits wait"), (BLOCKED, DB, "commits wait for others than walkeeper")),
    ),
    Situation(
        "not listed and not there", primary=primary(standby_names="", standby=None),
        found=((RISK, DB, "before any keeper"), (RISK, SIDECAR, "not connected")),
    ),
    Situation("nobody waits", primary=primary(synchronous_commit="local"), found=((RISK, DB, "synchronous_commit"),)),
    Situation("no slot", primary=primary(slot=None), found=((RISK, SLOT, "does not exist"),)),
    Situation("a lost slot", primary=slot(wal_status="lost"), found=((BLOCKED, SLOT, "lost"),)),
    Situation("a slot at its limit", primary=slot(wal_status="unreserved"), found=((RISK, SLOT, "about to be"),)),
    Situation(
        "a slot without a sidecar", primary=slot(is_active=False, restart_lsn=parse_lsn(BEHIND)),
        found=((RISK, SLOT, "keeps 256 bytes"),),
    ),
)  # fmt: skip


def result(number: int, said: Said) -> Answer[KeeperStatus] | Trouble:
    if isinstance(said, Trouble):
        return said
    told = said if said is NEONS else msgspec.structs.replace(said, node_id=number)
    kept = KeptTimeline(7, TimelineNumber(1), parse_lsn(told.commit_lsn))
    return Answer(ADDRESSES[number - 1], kept, told, NodeId(number))


def facts_of(situation: Situation) -> Facts:
    results = [result(number, situation.keepers.get(number, WELL)) for number in (1, 2, 3)]
    ttid = TenantTimelineId.of_system(7) if situation.is_named else None
    return Facts(NOW, ttid, Poll(results), situation.primary, "walkeeper", "walkeeper")


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda each: each.name)
def test_what_is_found_names_who_and_why(situation: Situation) -> None:
    facts = facts_of(situation)
    findings = diagnose(facts)
    shown = "\n".join(as_text(facts, [each]) for each in findings)
    assert [(each.gravity, each.who) for each in findings] == [found[:2] for found in situation.found], shown
    for finding, (_, _, words) in zip(findings, situation.found, strict=True):
        assert words in as_text(facts, [finding])
        assert finding.remedy


@pytest.mark.parametrize(
    ("moved_ago", "stands"), [(STILL, False), (STILL + timedelta(milliseconds=1), True)], ids=["at", "above"]
)
def test_a_position_stands_still_when_it_has_not_moved_for_longer_than_the_limit(
    moved_ago: timedelta, stands: bool
) -> None:
    slow = keeper(flush_lsn=BEHIND, flushed_at=THEIRS - moved_ago)
    assert is_blocked(diagnose(facts_of(Situation("", {1: slow, 2: slow})))) is stands


@pytest.mark.parametrize(
    ("silent_for", "hangs"), [(SILENT, False), (SILENT + timedelta(milliseconds=1), True)], ids=["at", "above"]
)
def test_a_sidecar_hangs_when_it_has_said_nothing_for_longer_than_the_limit(
    silent_for: timedelta, hangs: bool
) -> None:
    silent = standby(replied_at=THEIRS - silent_for)
    assert is_blocked(diagnose(facts_of(Situation("", primary=silent)))) is hangs


def test_the_gravest_comes_first() -> None:
    situation = Situation("", {3: dead(3)}, primary(sees_all=False, standby=None))
    assert [each.gravity for each in diagnose(facts_of(situation))] == [BLOCKED, RISK, NOTE]


def report(render: Callable[[Facts, list[Finding]], str], situation: Situation) -> str:
    facts = facts_of(situation)
    return render(facts, list(diagnose(facts)))


def test_the_text_begins_with_whether_anything_is_blocked_and_has_a_printable_line_for_each() -> None:
    by_name = {each.name: each for each in SITUATIONS}
    assert report(as_text, by_name["all is well"]) == "nothing is blocked"
    assert report(as_text, by_name["one dead"]).splitlines()[0] == "nothing is blocked"
    unseen = report(as_text, by_name["all want a token"]).splitlines()[0]
    assert unseen == "nothing is blocked, as far as could be seen"
    assert report(as_text, by_name["two dead"]).splitlines()[0].startswith("blocked: quorum: ")
    (_, line) = report(as_text, by_name["a reader pauses"]).splitlines()
    assert line.isprintable()


def test_the_json_tells_the_same_to_programs() -> None:
    situation = next(each for each in SITUATIONS if each.name == "one stands still")
    document = json.loads(report(as_json, situation))
    (finding,) = document.pop("findings")
    assert document == {
        "tenant_id": f"{7:032x}", "timeline_id": f"{7:032x}", "now": "2026-01-31T14:15:16Z", "is_blocked": False,
    }  # fmt: skip
    assert (finding["gravity"], finding["who"], finding["since"]) == ("risk", K3, "2026-01-31T14:13:16Z")


def test_a_keeper_that_has_no_wal_yet_is_behind_by_all_there_is() -> None:
    empty = keeper(flush_lsn="0/0", flushed_at=None)
    (finding,) = diagnose(facts_of(Situation("", {2: empty})))
    assert (finding.who, finding.since) == (K2, None)
    assert str(int(Lsn(parse_lsn(END)))) in finding.what
