"""Configurations: who is in, and how many make a quorum."""

import pytest

from walkeeper.ids import NodeId
from walkeeper.membership import NO_CONFIGURATION, Configuration, Generation, Member, majority


def member(number: int) -> Member:
    return Member(NodeId(number), f"keeper-{number}", 5454)


def test_a_majority_is_more_than_half() -> None:
    assert [majority(size) for size in range(1, 8)] == [1, 2, 2, 3, 3, 4, 4]


def test_a_joint_configuration_contains_both_sets() -> None:
    joint = Configuration(Generation(3), (member(1), member(2)), (member(3),))
    assert all(NodeId(number) in joint for number in (1, 2, 3))
    assert NodeId(4) not in joint
    assert [len(members) for members in joint.sets()] == [2, 1]


def test_no_configuration_contains_nobody() -> None:
    assert NodeId(1) not in NO_CONFIGURATION


def test_a_node_listed_twice_is_refused() -> None:
    with pytest.raises(ValueError):
        Configuration(Generation(1), (member(1), member(1)))
    with pytest.raises(ValueError):
        Configuration(Generation(1), (member(1),), (member(2), member(2)))


def test_a_generation_without_members_is_refused() -> None:
    with pytest.raises(ValueError):
        Configuration(Generation(1))
