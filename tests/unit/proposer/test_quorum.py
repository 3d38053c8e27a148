"""When enough keepers agree, and on what position."""

from hypothesis import given
from hypothesis import strategies as st

from walkeeper.ids import NodeId
from walkeeper.lsn import Lsn
from walkeeper.membership import NO_CONFIGURATION, Configuration, Generation, Member, majority
from walkeeper.proposer.quorum import Quorum


def members(*ids: int) -> tuple[Member, ...]:
    return tuple(Member(NodeId(each), f"keeper{each}", 5454) for each in ids)


JOINT = Quorum.of(Configuration(Generation(5), members(1, 2, 3), members(3, 4, 5)), keepers=5)


def test_two_of_three_keepers_agree_and_one_does_not() -> None:
    quorum = Quorum.of_keepers(3)
    assert quorum.agree({0, 2})
    assert not quorum.agree({1})


def test_two_of_four_keepers_are_no_majority() -> None:
    assert not Quorum.of_keepers(4).agree({0, 1})


def test_without_generations_every_keeper_listed_is_a_voter_by_its_place() -> None:
    quorum = Quorum.of(NO_CONFIGURATION, keepers=3)
    assert quorum == Quorum.of_keepers(3)
    assert quorum.voter(2, NodeId(77)) == 2


def test_with_a_configuration_the_voters_are_its_node_ids() -> None:
    quorum = Quorum.of(Configuration(Generation(1), members(7, 8, 9)), keepers=3)
    assert quorum.voter(0, NodeId(8)) == 8
    assert quorum.agree({7, 9})
    assert not quorum.agree({0, 1, 2})


def test_a_joint_configuration_needs_a_majority_of_both_sets() -> None:
    assert JOINT.agree({2, 3, 4})
    assert not JOINT.agree({1, 2})
    assert not JOINT.agree({4, 5})


def test_a_joint_configuration_agrees_on_the_lower_of_its_two_positions() -> None:
    old_is_ahead = {1: Lsn(90), 2: Lsn(80), 3: Lsn(10), 4: Lsn(20), 5: Lsn(0)}
    assert JOINT.agreed_lsn(old_is_ahead) == 10


def test_a_keeper_that_has_said_nothing_counts_as_having_nothing() -> None:
    assert Quorum.of_keepers(3).agreed_lsn({0: Lsn(50)}) == 0
    assert Quorum.of_keepers(3).agreed_lsn({0: Lsn(50), 2: Lsn(40)}) == 40


@given(st.lists(st.integers(0, 2**64 - 1).map(Lsn), min_size=1, max_size=9))
def test_the_agreed_position_is_the_highest_one_that_a_majority_has_reached(lsns: list[Lsn]) -> None:
    agreed = Quorum.of_keepers(len(lsns)).agreed_lsn(dict(enumerate(lsns)))
    assert sum(lsn >= agreed for lsn in lsns) >= majority(len(lsns))
    assert sum(lsn > agreed for lsn in lsns) < majority(len(lsns))


def test_old_members_vouch_for_what_is_committed_new_ones_do_not() -> None:
    assert JOINT.vouches({1, 2})
    assert not JOINT.vouches({1, 4, 5})
    assert not JOINT.vouches({3, 4, 5})
