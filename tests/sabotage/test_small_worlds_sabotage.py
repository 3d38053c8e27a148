"""Exploring small worlds finds what is wrong with keepers and writers that break one rule, and the way there.

``rule`` is what is asked for: the nearest rule that is broken, or one about the whole quorum that follows from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from walkeeper.acceptor.acceptor import Acceptor, Intent, Kept
from walkeeper.acceptor.effects import Effect, KeepControlFile, SyncWal, TruncateWal
from walkeeper.acceptor.state import AcceptorState
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import Configuration, majority
from walkeeper.messages import AcceptorMessage, AppendRun, ProposerElected, ProposerGreeting, VoteRequest, VoteResponse
from walkeeper.proposer.actions import Action, CommitAdvanced, Elected
from walkeeper.proposer.election import Election
from walkeeper.proposer.follower import Follower
from walkeeper.proposer.proposer import Pace, Proposer
from walkeeper.proposer.quorum import Quorum, Voter
from walkeeper.terms import INITIAL_TERM, Term
from walkeeper.testing.exploration.entries import START
from walkeeper.testing.exploration.keeper import Disk, Keeper, KeeperCode, Store
from walkeeper.testing.exploration.search import explore
from walkeeper.testing.exploration.world import Bounds, SmallWorld
from walkeeper.testing.exploration.writer import WriterCode

SMALL = Bounds(proposers=2, acceptors=3, terms=1, entries=1)
TWO_TERMS = Bounds(proposers=1, acceptors=3, terms=2, entries=2)

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
        return Intent(intent.effects, replace(intent._kept, acceptor=Acceptor(self.node_id, replace(state, ahead=ahead))))


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
    def agree(self, said_yes: Sequence[Voter]) -> bool:
        return all(len(voters.intersection(said_yes)) >= majority(len(voters)) - 1 for voters in self.sets)


class WinsWithoutAMajority(Proposer):
    def __init__(
        self, keepers: Sequence[str], greeting: ProposerGreeting, pace: Pace = Pace(), held_term: Term | None = None
    ) -> None:
        super().__init__(keepers, greeting, pace, held_term)
        self._quorum = OneLessThanAMajority(self._quorum.sets)


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
    def _win(self) -> Sequence[Action]:
        actions = super()._win()
        votes = {place: each.vote for place, each in enumerate(self.followers) if each.vote is not None}
        donor = min(votes, key=lambda place: votes[place].flush_lsn)
        vote = votes[donor]
        self.election = Election(self.term, donor, vote.flush_lsn, vote.term_history, INVALID_LSN)
        return [Elected(self.election), *actions[1:]]


class DivergesNowhere(Proposer):
    """Goes on where each keeper's WAL ends."""

    def _announce(self, follower: Follower) -> ProposerElected:
        assert follower.vote is not None
        end_lsn = min(follower.vote.flush_lsn, self.available_lsn)
        follower.start_streaming(end_lsn)
        return ProposerElected(self._configuration.generation, self.term, end_lsn, self.history)


class BeginsAnew(Proposer):
    """Has every keeper throw away everything."""

    def _announce(self, follower: Follower) -> ProposerElected:
        follower.start_streaming(START)
        return ProposerElected(self._configuration.generation, self.term, START, self.history)


@dataclass(frozen=True, slots=True)
class Broken:
    bounds: Bounds
    rule: str
    acceptor: type[Acceptor] = Acceptor
    keepers: type[KeeperCode] = KeeperCode
    proposer: type[Proposer] = Proposer


CASES = {
    "votes twice": Broken(SMALL, "2", VotesTwice),
    "votes twice, and two are elected": Broken(SMALL, "35", VotesTwice),
    "forgets its vote": Broken(replace(SMALL, faults=1), "1", keepers=ForgetsItsVote),
    "forgets its vote, and two are elected": Broken(replace(SMALL, faults=1), "35", keepers=ForgetsItsVote),
    "follows old leaders": Broken(replace(TWO_TERMS, proposers=2), "15", FollowsOldLeaders),
    "truncates what is committed": Broken(replace(TWO_TERMS, entries=1), "10", TruncatesWhereItIsTold, proposer=BeginsAnew),
    "diverges nowhere": Broken(TWO_TERMS, "15", TruncatesWhereItIsTold, proposer=DivergesNowhere),
    "diverges nowhere, and is refused": Broken(TWO_TERMS, "refusal", proposer=DivergesNowhere),
    "commits what it lacks": Broken(SMALL, "8", CommitsWhatItLacks),
    "history before truncation": Broken(replace(TWO_TERMS, faults=1), "15", keepers=HistoryBeforeTruncation),
    "does not sync": Broken(replace(SMALL, faults=1), "7", keepers=DoesNotSync),
    "wins without a majority": Broken(SMALL, "35", proposer=WinsWithoutAMajority),
    "commits what one has": Broken(TWO_TERMS, "39", proposer=CommitsWhatOneHas),
    "commits what one has, and it is gone": Broken(TWO_TERMS, "40", proposer=CommitsWhatOneHas),
    "continues the shortest log": Broken(TWO_TERMS, "39", proposer=ContinuesTheShortestLog),
    "counts older terms": Broken(replace(TWO_TERMS, terms=4), "39", proposer=CountsWalOfOlderTerms),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_broken_rule_is_found(case: Broken) -> None:
    world = SmallWorld(
        case.bounds,
        case.keepers(case.acceptor),
        WriterCode(case.bounds.acceptors, case.proposer),
        only={case.rule},
    )
    found = explore(world, states_max=1_000_000)
    assert found.violation is not None
    print(found.states, found.depth, *found.violation.faults)
