"""The scenes and the random worlds of lost disks notice when one rule about them is not kept."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from sabotage.defect import defect
from unit.proposer import test_wipes as scenes
from unit.proposer.wiped_world import World, live
from walkeeper.lsn import Lsn
from walkeeper.messages import AppendRun, VoteResponse
from walkeeper.proposer.actions import Action
from walkeeper.proposer.follower import NEVER, Follower, Phase
from walkeeper.proposer.proposer import Outgoing, Proposer

Scene = Callable[[World], None]

WORLDS = 100


@defect
class TakesEverybodyForWhole(Proposer):
    """Believes of every keeper that it has never lost its disk."""

    def connected(self, place: int, is_whole: bool | None) -> None:
        super().connected(place, True)


@defect
class AsksNobodyWhetherItIsWhole(Proposer):
    """Whoever was told of a leader counts as whole."""

    def connected(self, place: int, is_whole: bool | None) -> None:
        super().connected(place, None)


@defect
class NeedsNoConfirmation(Proposer):
    """Wins with votes of which nobody knows whether they are still remembered."""

    def _settle(self, now: float) -> list[Action]:
        for follower in self.followers:
            follower.confirmed_after = NEVER if follower.vote is None else self._votes
        return list(super()._settle(now))


@defect
class WinsWithAnyMajority(Proposer):
    """Counts keepers that lost their disks like all others."""

    def _campaign_if_enough_greeted(self) -> None:
        greeted = [place for place, each in enumerate(self.followers) if each.phase is Phase.WAITING]
        if self._quorum.agree(self._voters_at(greeted)):
            self._campaign()

    def _settle(self, now: float) -> list[Action]:
        bound = [place for place, each in enumerate(self.followers) if each.confirmed_after == self._votes]
        if self._quorum.agree(self._voters_at(bound)):
            for follower in self.followers:
                follower.is_doubted = False
        return list(super()._settle(now))


@defect
class TrustsWhoeverComesLater(Proposer):
    """Doubts no keeper that comes after the election."""

    def _take_vote(self, follower: Follower, vote: VoteResponse) -> None:
        super()._take_vote(follower, vote)
        follower.is_doubted &= not self.has_won


@defect
class TellsItsCommitToWhomItDoubts(Proposer):
    """Makes a keeper whole by which it may itself be deposed."""

    def next_message(self, place: int, now: float, until: Lsn | None = None) -> Outgoing | None:
        message = super().next_message(place, now, until)
        return replace(message, commit_lsn=self.commit_lsn) if isinstance(message, AppendRun) else message


@pytest.mark.parametrize(
    ("broken", "scene"),
    [
        (TakesEverybodyForWhole, scenes.test_keepers_without_anything_do_not_elect_among_their_like),
        (TakesEverybodyForWhole, scenes.test_a_wiped_keeper_that_an_operator_made_again_is_not_whole),
        (
            AsksNobodyWhetherItIsWhole,
            scenes.test_a_wiped_keeper_that_was_told_of_a_leader_and_one_that_lags_elect_nobody,
        ),
        (NeedsNoConfirmation, scenes.test_a_vote_that_was_forgotten_before_the_others_came_elects_nobody),
        (WinsWithAnyMajority, scenes.test_keepers_without_anything_do_not_elect_among_their_like),
        (TrustsWhoeverComesLater, scenes.test_a_deposed_leader_is_not_acknowledged_by_a_wiped_keeper),
        (TellsItsCommitToWhomItDoubts, scenes.test_a_deposed_leader_makes_no_wiped_keeper_whole),
    ],
)
def test_a_writer_that_breaks_a_rule_about_lost_disks_is_caught(broken: type[Proposer], scene: Scene) -> None:
    with pytest.raises(AssertionError, match="invariant"):
        scene(World(proposer=broken))


@pytest.mark.parametrize("broken", [TakesEverybodyForWhole, WinsWithAnyMajority])
def test_random_worlds_find_what_a_writer_that_trusts_wiped_keepers_loses(broken: type[Proposer]) -> None:
    with pytest.raises(AssertionError, match="invariant"):
        live_often(broken)


def live_often(proposer: type[Proposer]) -> None:
    for seed in range(WORLDS):
        live(World(proposer=proposer), Random(seed), writers=2, lost_max=1)
