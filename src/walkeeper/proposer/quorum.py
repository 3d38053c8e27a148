"""Whose word counts, and when enough have spoken.

Two ways of counting.  Without generations every keeper the writer was told of is a voter, known by its place in
that list.  With a membership configuration the voters are its node ids, and while it is joint both sets must agree.

Source: Neon's walproposer (GetCommittedMset, VotesCollected); Raft, sections 3.4 and 6, for joint configurations.
Does not know who has said what: that is ``proposer.proposer``.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from walkeeper.ids import NodeId
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import NO_GENERATION, Configuration, majority

Voter = int
"""A keeper's place in the writer's list, or its node id: see ``Quorum.by_node_id``."""


@dataclass(frozen=True, slots=True)
class Quorum:
    """Sets of voters; a decision needs a majority of each."""

    sets: tuple[frozenset[Voter], ...]
    by_node_id: bool = False

    @classmethod
    def of_keepers(cls, count: int) -> "Quorum":
        """Every one of ``count`` keepers has a vote."""
        return cls((frozenset(range(count)),))

    @classmethod
    def of(cls, configuration: Configuration, keepers: int) -> "Quorum":
        """The members of ``configuration``, or all ``keepers`` while generations are not in use."""
        if configuration.generation == NO_GENERATION:
            return cls.of_keepers(keepers)
        sets = (frozenset[Voter](member.id for member in members) for members in configuration.sets())
        return cls(tuple(sets), by_node_id=True)

    def voter(self, place: int, node_id: NodeId) -> Voter:
        """What a keeper is called here: its ``place`` in the writer's list, or its node id."""
        return node_id if self.by_node_id else place

    def agree(self, said_yes: Collection[Voter]) -> bool:
        """Whether those who ``said_yes`` are a majority of every set."""
        return all(len(voters.intersection(said_yes)) >= majority(len(voters)) for voters in self.sets)

    @property
    def needed(self) -> int:
        """How many of a set have to agree, of the one that needs most."""
        return max(majority(len(voters)) for voters in self.sets)

    def is_everybody(self, voters: Collection[Voter]) -> bool:
        """Whether nobody is missing among ``voters``."""
        return all(each.issubset(voters) for each in self.sets)

    def vouches(self, whole: Collection[Voter]) -> bool:
        """Whether everything that was ever committed is with one of these, if they have all that they ever acknowledged.

        Of a joint configuration the old members decide: nothing was committed without a majority of them.
        """
        members = self.sets[0]
        return len(members.intersection(whole)) >= majority(len(members))

    def agreed_lsn(self, lsns: Mapping[Voter, Lsn]) -> Lsn:
        """The highest position that a majority of every set has reached; who is not in ``lsns`` has nothing."""
        return min(
            _reached_by_majority([lsns.get(voter, INVALID_LSN) for voter in voters]) for voters in self.sets
        )


def _reached_by_majority(lsns: list[Lsn]) -> Lsn:
    return sorted(lsns, reverse=True)[majority(len(lsns)) - 1]
