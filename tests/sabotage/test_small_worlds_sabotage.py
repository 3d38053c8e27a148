"""Exploring small worlds finds what is wrong with keepers and writers that break one rule, and the way there.

``rule`` is what is asked for: the nearest rule that is broken, or one about the whole quorum that follows from it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import pytest

from walkeeper.acceptor.acceptor import Acceptor, Intent, Kept
from walkeeper.acceptor.effects import KeepControlFile, SyncWal
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import NO_GENERATION, majority
from walkeeper.messages import (
    AppendRun,
    Batch,
    ProposerElected,
    VoteRequest,
    VoteResponse,
)
from walkeeper.proposer.actions import Action, CommitAdvanced, Elected
from walkeeper.proposer.election import Election
from walkeeper.proposer.follower import Follower
from walkeeper.proposer.proposer import Proposer
from walkeeper.proposer.quorum import Quorum, Voter
from walkeeper.terms import INITIAL_TERM, Term, TermHistory
from walkeeper.testing.exploration.entries import START, lsn_of, wal_of
from walkeeper.testing.exploration.invariants import Fault
from walkeeper.testing.exploration.keeper import Disk, Keeper, KeeperCode, Store
from walkeeper.testing.exploration.narrative import tell
from walkeeper.testing.exploration.search import Found, explore
from walkeeper.testing.exploration.world import Bounds, Event, SmallWorld, State
from walkeeper.testing.exploration.writer import WriterCode

STATES_MAX = 200_000

# -- keepers -------------------------------------------------------------------------------------------------


class VotesTwice(Acceptor):
    """For everybody who asks in its own term."""

    __slots__ = ()

    def _vote(self, request: VoteRequest) -> Intent:
        intent = super()._vote(request)
        reply = intent._kept.reply
        assert isinstance(reply, VoteResponse)
        given = replace(reply, vote_given=request.term == reply.term)
        return Intent(intent.effects, replace(intent._kept, reply=given))


class FollowsOldLeaders(Acceptor):
    """Takes WAL of any term."""

    __slots__ = ()

    def _append(self, run: AppendRun) -> Intent:
        return super()._append(replace(run, term=max(run.term, self.state.term)))


class TruncatesWhereItIsTold(Acceptor):
    """Believes any leader, whatever it knows to be committed."""

    __slots__ = ()

    def _require_divergence_at(self, elected: ProposerElected) -> None:
        pass


class CommitsWhatItLacks(Acceptor):
    """Takes the leader's commit as it is."""

    __slots__ = ()

    def _append(self, run: AppendRun) -> Intent:
        intent = super()._append(run)
        state = intent._kept.acceptor.state
        if not run.commit_lsn or not run.slices:
            return intent
        ahead = replace(state.ahead, commit_lsn=Lsn(run.end_lsn + 8))
        return Intent(
            intent.effects, replace(intent._kept, acceptor=Acceptor(self.node_id, replace(state, ahead=ahead)))
        )


class ForgetsItsVote(KeeperCode):
    """The vote is in memory only."""

    def recover(self, disk: Disk, voted: frozenset[Term]) -> Keeper:
        control_file = disk.control_file
        if control_file.term > control_file.term_history.last_term:
            control_file = replace(control_file, term=control_file.term_history.last_term)
        return super().recover(replace(disk, control_file=control_file), voted)


class HistoryBeforeTruncation(KeeperCode):
    """Old WAL is called the new leader's for a moment."""

    def keep(self, intent: Intent, store: Store) -> Kept:
        effects = sorted(intent.effects, key=lambda effect: not isinstance(effect, KeepControlFile))
        return Intent(effects, intent._kept).keep(store)


class DoesNotSync(KeeperCode):
    """What it has acknowledged is in the page cache."""

    def keep(self, intent: Intent, store: Store) -> Kept:
        return Intent([each for each in intent.effects if not isinstance(each, SyncWal)], intent._kept).keep(store)


# -- writers -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OneLessThanAMajority(Quorum):
    def agree(self, said_yes: Collection[Voter]) -> bool:
        return all(len(voters.intersection(said_yes)) >= majority(len(voters)) - 1 for voters in self.sets)


class WinsWithoutAMajority(Proposer):
    def _campaign(self) -> None:
        self._quorum = OneLessThanAMajority(self._quorum.sets)
        super()._campaign()


class CommitsWhatOneHas(Proposer):
    """The quorum for WAL is off by one."""

    def _advance_commit(self, now: float) -> Sequence[Action]:
        self.commit_lsn = max(self.commit_lsn, *(each.acked_lsn for each in self.followers))
        return [CommitAdvanced(self.commit_lsn)]


class CountsWalOfOlderTerms(Proposer):
    """Commits what a majority has, whoever wrote it (Raft, figure 8)."""

    def _advance_commit(self, now: float) -> Sequence[Action]:
        start, self.term_start_lsn = self.term_start_lsn, INVALID_LSN
        try:
            return super()._advance_commit(now)
        finally:
            self.term_start_lsn = start


class ContinuesTheShortestLog(Proposer):
    def _win(self, is_vouched_for: bool) -> Sequence[Action]:
        actions = super()._win(is_vouched_for)
        votes = {place: each.vote for place, each in enumerate(self.followers) if each.vote is not None}
        donor = min(votes, key=lambda place: votes[place].flush_lsn)
        vote = votes[donor]
        self.election = Election(self.term, donor, vote.flush_lsn, vote.term_history, INVALID_LSN, is_vouched_for)
        return [Elected(self.election), *actions[1:]]


class DivergesNowhere(Proposer):
    """Goes on where each keeper's WAL ends."""

    def _announce(self, follower: Follower) -> ProposerElected:
        assert follower.vote is not None
        end_lsn = min(follower.vote.flush_lsn, self.available_lsn)
        follower.start_streaming(end_lsn)
        return ProposerElected(self.configuration.generation, self.term, end_lsn, self.history)


class BeginsAnew(Proposer):
    """Has every keeper throw away everything."""

    def _announce(self, follower: Follower) -> ProposerElected:
        follower.start_streaming(START)
        return ProposerElected(self.configuration.generation, self.term, START, self.history)


def keepers_of_two_leaders() -> list[Keeper]:
    """One has two entries of the leader of term 1, one has an entry of the leader of term 2; the third elected both."""
    return [told(Term(1), 2), told(Term(2), 1), told(Term(2), 0)]


def told(term: Term, entries: int) -> Keeper:
    """A keeper that voted in a term and got so many entries of its leader; none if it never heard of the outcome."""
    code, end = KeeperCode(), lsn_of(entries)
    messages: list[Batch] = [VoteRequest(NO_GENERATION, term)]
    if entries:
        history = TermHistory.of((INITIAL_TERM, START), (term, START))
        messages.append(ProposerElected(NO_GENERATION, term, START, history))
        wal = wal_of((term,) * entries)
        messages.append(AppendRun(NO_GENERATION, term, START, end, INVALID_LSN, INVALID_LSN, (wal,)))
    keeper = code.new()
    for message in messages:
        keeper = code.hear(keeper, message)[0].keeper
    return keeper


@dataclass(frozen=True, slots=True)
class Broken:
    """``steps``: how long the shortest way is."""

    bounds: Bounds
    rule: str
    steps: int
    acceptor: type[Acceptor] = Acceptor
    keepers: type[KeeperCode] = KeeperCode
    proposer: type[Proposer] = Proposer
    scene: Sequence[Keeper] = ()


ONE_TERM = Bounds(proposers=2, acceptors=3, terms=1, entries=1)
TWO_TERMS = Bounds(proposers=1, acceptors=3, terms=2, entries=2)
SHORT = replace(TWO_TERMS, entries=1)
THREE_TERMS = Bounds(proposers=1, acceptors=3, terms=3, entries=2, faults=1)
FOUR_TERMS = Bounds(proposers=1, acceptors=3, terms=4, entries=2)

CASES = {
    "votes twice": Broken(ONE_TERM, "2", 3, VotesTwice),
    "votes twice, which its writers hear when it confirms": Broken(ONE_TERM, "refusal", 4, VotesTwice),
    "forgets its vote": Broken(replace(ONE_TERM, faults=1), "1", 3, keepers=ForgetsItsVote),
    "forgets its vote, and two are elected": Broken(replace(ONE_TERM, faults=1), "35", 12, keepers=ForgetsItsVote),
    "follows old leaders": Broken(replace(SHORT, proposers=2), "15", 14, FollowsOldLeaders),
    "truncates what is committed": Broken(SHORT, "10", 17, TruncatesWhereItIsTold, proposer=BeginsAnew),
    "diverges nowhere": Broken(SHORT, "15", 16, TruncatesWhereItIsTold, proposer=DivergesNowhere),
    "diverges nowhere, and is refused": Broken(SHORT, "refusal", 16, proposer=DivergesNowhere),
    "commits what it lacks": Broken(ONE_TERM, "8", 11, CommitsWhatItLacks),
    "history before truncation": Broken(
        THREE_TERMS, "15", 6, keepers=HistoryBeforeTruncation, scene=keepers_of_two_leaders()
    ),
    "does not sync": Broken(replace(ONE_TERM, faults=1), "7", 8, keepers=DoesNotSync),
    "wins without a majority": Broken(ONE_TERM, "35", 6, proposer=WinsWithoutAMajority),
    "commits what one has": Broken(TWO_TERMS, "39", 13, proposer=CommitsWhatOneHas),
    "commits what one has, and others have not": Broken(TWO_TERMS, "40", 8, proposer=CommitsWhatOneHas),
    "continues the shortest log": Broken(TWO_TERMS, "39", 15, proposer=ContinuesTheShortestLog),
    "counts older terms": Broken(
        FOUR_TERMS, "39", 14, proposer=CountsWalOfOlderTerms, scene=keepers_of_two_leaders()
    ),
}


def search(case: Broken) -> tuple[SmallWorld, Found[State, Event]]:
    writers = WriterCode(case.bounds.acceptors, case.proposer)
    keepers = case.keepers(case.acceptor)
    world = SmallWorld(case.bounds, keepers, writers, only={case.rule}, scene=case.scene)
    return world, explore(world, states_max=STATES_MAX)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_broken_rule_is_found_by_a_shortest_way(case: Broken) -> None:
    _, found = search(case)
    assert found.violation is not None
    assert {fault.rule for fault in found.violation.faults if isinstance(fault, Fault)} == {case.rule}
    assert len(found.violation.trace) == case.steps


def test_from_that_scene_nothing_is_found_if_no_rule_is_broken() -> None:
    found = explore(
        SmallWorld(FOUR_TERMS, scene=keepers_of_two_leaders()), depth_max=CASES["counts older terms"].steps
    )
    assert found.violation is None
    assert found.states > 1000


def test_the_way_is_told_in_lines() -> None:
    world, found = search(CASES["votes twice"])
    assert found.violation is not None
    lines = list(tell(world, found.violation))
    assert len(lines) == found.depth + 2
    assert "starts: greets keepers" in lines[1]
    assert "vote in term 1? → given" in lines[-2]
    assert "invariant 2" in lines[-1]
