"""Disks are lost, a minority of them at any time, and keepers come back without memory: nothing committed is lost.

The scenes are those that once went wrong; ``tests/sabotage`` shows that each rule is needed.  The random worlds are
more of them when WALKEEPER_WORLDS says so.
"""

import os
from random import Random

import pytest

from unit.proposer.wiped_world import START, World, Writer, live
from walkeeper.proposer.proposer import Stage

WORLDS = int(os.environ.get("WALKEEPER_WORLDS", "30"))
A, B, C, D, E = range(5)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def five() -> World:
    return World(5)


def lead(world: World, *places: int) -> Writer:
    """A first leader, elected by all; then it writes with these, and goes on until they are whole."""
    writer = Writer(world, hesitates=True)
    everywhere = range(len(world.keepers))
    writer.talk(*everywhere)
    writer.disconnect(*(place for place in everywhere if place not in places))
    writer.lead()
    for _ in range(3):
        writer.write()
        writer.talk(*places)
    assert all(world.keepers[place].is_whole for place in places)
    assert writer.committed_bytes == len(writer.log)
    return writer


def reconnect(writer: Writer, *places: int) -> None:
    writer.disconnect(*places)
    writer.connect(*places)


@pytest.mark.parametrize(
    ("keepers", "lost_max", "writers"), [(3, 1, 1), (3, 1, 2), (3, 1, 3), (4, 1, 2), (5, 2, 1), (5, 2, 2)]
)
def test_rival_writers_lose_nothing_with_the_disks_of_a_minority(
    keepers: int, lost_max: int, writers: int
) -> None:
    """Invariants 35, 37, 39, 48 and 49."""
    commits = 0
    for seed in range(WORLDS):
        world = World(keepers)
        live(world, Random(seed), writers=writers, lost_max=lost_max)
        commits += len(world.committed)
    assert commits > WORLDS


def test_a_wiped_keeper_that_was_told_of_a_leader_and_one_that_lags_elect_nobody(world: World) -> None:
    writer = lead(world, A, B, C)
    writer.write(3)
    writer.talk(A, B)
    world.wipe(B)
    reconnect(writer, B)
    while not world.keepers[B].acceptor.state.term_history.entries:
        writer.send(B, until=START)
        writer.deliver(B)
    rival = Writer(world)
    rival.talk(B, C)
    assert rival.stage() is Stage.COLLECTING
    rival.talk(A, B, C)
    assert rival.stage() is Stage.LEADING


def test_a_candidate_that_cannot_win_leaves_the_leader_alone(world: World) -> None:
    leader = lead(world, A, B, C)
    world.wipe(C)
    rival = Writer(world)
    rival.talk(B, C)
    assert rival.stage() is Stage.COLLECTING
    leader.write()
    leader.talk(A, B)
    assert leader.committed_bytes == len(leader.log)
    rival.talk(A, B, C)
    assert rival.stage() is Stage.LEADING


def test_keepers_without_anything_do_not_elect_among_their_like(world: World) -> None:
    """Invariant 48."""
    lead(world, A, B)
    world.wipe(B)
    rival = Writer(world)
    rival.talk(B, C)
    assert rival.stage() is Stage.COLLECTING


def test_a_vote_from_before_the_election_does_not_make_a_wiped_keeper_trusted(five: World) -> None:
    """D and E forget that they elected the rival, and complete an older campaign, with B, which is new."""
    lead(five, A, C, D, E)
    writer = Writer(five)
    for place in (A, B, C):
        writer.send(place)
        writer.deliver(place)
    for place in (A, B, C):
        writer.send(place)
        writer.deliver(place)
    rival = Writer(five)
    rival.talk(C, D, E)
    rival.write()
    rival.talk(C, D, E)
    five.wipe(D, E)
    writer.talk(D, E, A, B)
    writer.write(2)
    writer.talk(A, B, D, E)
    assert writer.stage() is not Stage.LEADING or not writer.committed_bytes


def test_a_vote_that_was_forgotten_before_the_others_came_elects_nobody(world: World) -> None:
    """And nobody notices: the connection on which it was given is not known to be dead."""
    writer = lead(world, A, B, C)
    rival = Writer(world)
    for place in (A, B):
        rival.send(place)
        rival.deliver(place)
    rival.send(B)
    rival.deliver(B)
    world.wipe(B)
    reconnect(writer, B)
    writer.write()
    writer.talk(A, B, C)
    writer.write()
    writer.talk(B, C)
    assert writer.committed_bytes == len(writer.log)
    rival.send(A)
    rival.deliver(A)
    assert rival.stage() is Stage.CAMPAIGNING
    rival.talk(A, B)
    assert rival.log.startswith(writer.log), "elected with the vote that B, which is whole again, has given anew"


def test_a_deposed_leader_is_not_acknowledged_by_a_wiped_keeper(world: World) -> None:
    """Invariant 49."""
    deposed = lead(world, A, B, C)
    writer = Writer(world)
    writer.talk(B, C)
    world.wipe(B)
    reconnect(deposed, B)
    committed_bytes = deposed.committed_bytes
    deposed.write()
    deposed.talk(A, B)
    assert deposed.committed_bytes == committed_bytes


def test_a_deposed_leader_makes_no_wiped_keeper_whole(world: World) -> None:
    """Or it would be elected with it again."""
    deposed = lead(world, A, B, C)
    writer = Writer(world)
    writer.talk(B, C)
    writer.write()
    writer.talk(B, C)
    world.wipe(B)
    reconnect(deposed, B)
    deposed.talk(B, A)
    successor = Writer(world)
    successor.talk(A, B)
    assert successor.stage() is Stage.COLLECTING
    assert not world.keepers[B].is_whole


def test_a_first_leader_is_not_elected_by_a_keeper_that_forgot_another(world: World) -> None:
    writer = Writer(world)
    for place in (A, B):
        writer.send(place)
        writer.deliver(place)
    writer.talk(A)
    rival = lead(world, A, B, C)
    rival.write()
    rival.talk(B, C)
    world.wipe(B)
    reconnect(writer, B)
    writer.talk(A, B)
    assert writer.stage() is not Stage.LEADING


def test_a_blink_before_the_leader_leads_leaves_no_doubt_for_ever(world: World) -> None:
    writer = Writer(world, hesitates=True)
    writer.talk(A, B, C)
    reconnect(writer, A)
    writer.talk(A)
    writer.lead()
    writer.talk(A, B, C)
    assert not any(follower.is_doubted for follower in writer.proposer.followers)
    writer.write()
    writer.talk(A, B)
    assert writer.committed_bytes == len(writer.log)


def test_a_new_keeper_and_a_wiped_one_are_trusted_when_all_three_are_there(world: World) -> None:
    writer = lead(world, A, B)
    world.wipe(B)
    reconnect(writer, B)
    writer.write()
    writer.talk(A, B)
    assert writer.committed_bytes < len(writer.log)
    writer.talk(A, B, C)
    assert writer.committed_bytes == len(writer.log)
    assert all(keeper.is_whole for keeper in world.keepers)


def test_a_wiped_keeper_that_an_operator_made_again_is_not_whole(world: World) -> None:
    writer = lead(world, A, B, C)
    writer.write(3)
    writer.talk(A, B)
    world.wipe(B)
    world.keepers[B].make(start_lsn=START)
    rival = Writer(world)
    rival.talk(B, C)
    assert rival.stage() is Stage.COLLECTING


def test_a_wiped_keeper_becomes_whole_without_any_new_wal(world: World) -> None:
    writer = lead(world, A, B, C)
    world.wipe(B)
    reconnect(writer, B)
    writer.talk(A, B, C)
    assert world.keepers[B].is_whole
    assert bytes(world.keepers[B].wal) == writer.log


def test_a_wiped_keeper_is_trusted_by_a_leader_that_it_helped_to_make_complete(world: World) -> None:
    lead(world, A, B, C)
    world.wipe(B)
    writer = Writer(world)
    writer.talk(B, A, C)
    assert not writer.proposer.followers[B].is_doubted
    writer.write()
    writer.talk(A, B)
    assert writer.committed_bytes == len(writer.log)
