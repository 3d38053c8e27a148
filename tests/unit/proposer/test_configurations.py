"""Membership configurations: where a writer has them from, and whom it needs then."""

from dataclasses import replace

from unit.proposer.model_keeper import FIRST_LSN
from unit.proposer.table import GREETING, Table
from walkeeper.ids import NodeId
from walkeeper.lsn import Lsn
from walkeeper.membership import Configuration, Generation, Member
from walkeeper.messages import AcceptorGreeting, ProposerGreeting, VoteRequest
from walkeeper.proposer.actions import CommitAdvanced, Reconfigured
from walkeeper.proposer.proposer import Proposer
from walkeeper.terms import Term

CONFIGURATION = Configuration(
    Generation(3),
    tuple(Member(NodeId(each), f"k{each}", 5454) for each in (1, 2, 3)),
    tuple(Member(NodeId(each), f"k{each}", 5454) for each in (3, 4, 5)),
)


def test_a_configuration_learnt_from_a_keeper_decides_who_must_agree() -> None:
    table = Table(keepers=5)
    for keeper in table.keepers:
        keeper.configuration = CONFIGURATION
    assert table.connect(0, 1, 2) == []
    assert table.proposer.next_message(0, 0.0) is None  # a majority of {1,2,3}, none yet of {3,4,5}
    table.connect(3)
    assert table.proposer.next_message(0, 0.0) == VoteRequest(Generation(3), Term(1))


def test_a_configuration_learnt_from_a_keeper_is_told_to_those_that_are_greeted_later() -> None:
    table = Table(keepers=5)
    table.keepers[0].configuration = CONFIGURATION
    table.connect(0)
    table.proposer.connected(1, is_whole=True)
    greeting = table.proposer.next_message(1, 0.0)
    assert isinstance(greeting, ProposerGreeting)
    assert greeting.configuration == CONFIGURATION


def test_a_configuration_that_the_writer_brings_decides_who_must_agree() -> None:
    proposer = Proposer(["a", "b", "c", "d"], replace(GREETING, configuration=CONFIGURATION))
    for place, node in enumerate((1, 2, 4, 5)):
        proposer.connected(place, is_whole=True)
        assert isinstance(proposer.next_message(place, 0.0), ProposerGreeting)
        assert proposer.next_message(0, 0.0) is None  # all four are a majority of {1,2,3} and of {3,4,5}
        proposer.received(place, AcceptorGreeting(NodeId(node), CONFIGURATION, Term(0)), 0.0)
    assert proposer.next_message(0, 0.0) == VoteRequest(Generation(3), Term(1))


def test_a_joint_configuration_commits_only_what_both_majorities_have() -> None:
    table = Table(keepers=5)
    for keeper in table.keepers:
        keeper.configuration = CONFIGURATION
    table.elect(0, 1, 2, 3, 4)
    table.write(8)
    assert table.talk(0, 1, 2) == []
    assert table.talk(3)[-1] == CommitAdvanced(Lsn(FIRST_LSN + 8))


def test_a_newer_configuration_ends_an_election_under_the_older_one() -> None:
    table = Table()
    table.elect(0, 1)
    table.keepers[2].configuration = CONFIGURATION
    assert table.connect(2) == [Reconfigured("k2", Generation(3))]


def test_a_configuration_that_changes_while_we_lead_ends_our_leadership() -> None:
    table = Table()
    table.elect(0, 1)
    table.talk(0, 1)
    table.keepers[0].configuration = CONFIGURATION
    table.write(8)
    assert table.talk(0) == [Reconfigured("k0", Generation(3))]
