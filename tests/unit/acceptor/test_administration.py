"""What operators may ask of an acceptor: nothing that takes back what it has promised."""

from dataclasses import replace

import pytest

from unit.acceptor.test_acceptor import NODE, RECORD, SEGMENT, START, Keeper, keeper, lsn, members, refuses, run
from walkeeper.acceptor.acceptor import Acceptor
from walkeeper.acceptor.administration import (
    AdminRequest,
    BumpTerm,
    HearOfPeer,
    PatchControlFile,
    SwitchMembership,
    require_no_member,
    require_not_newer,
)
from walkeeper.acceptor.effects import KeepControlFile
from walkeeper.errors import (
    Malformed,
    NotMember,
    NotPatched,
    StaleConfiguration,
    StaleExclusion,
    StillMember,
    WrongGeneration,
)
from walkeeper.formats.control_file import ControlFile
from walkeeper.ids import NodeId
from walkeeper.lsn import LSN_MAX, Lsn
from walkeeper.membership import NO_CONFIGURATION
from walkeeper.messages import AppendResponse
from walkeeper.terms import TERM_MAX, Term, TermHistory

__all__ = ["keeper"]


def keeps(keeper: Keeper, request: AdminRequest) -> ControlFile | None:
    """What is kept before the request is done."""
    _, effects = keeper.say(request)
    if not effects:
        return None
    assert effects == (KeepControlFile(keeper.acceptor.state.kept),)
    return keeper.acceptor.state.kept


# -- membership -----------------------------------------------------------------------------------------------


def test_a_newer_configuration_is_kept_and_the_same_one_is_no_news(keeper: Keeper) -> None:
    kept = keeps(keeper, SwitchMembership(members(4, 3, 5)))
    assert kept is not None and kept.configuration == members(4, 3, 5)
    assert keeps(keeper, SwitchMembership(members(4, 3, 6))) is None
    assert keeper.acceptor.state.kept.configuration == members(4, 3, 5)


def test_an_older_configuration_and_one_without_this_keeper_change_nothing(keeper: Keeper) -> None:
    """Invariants 18 and 19."""
    keeps(keeper, SwitchMembership(members(4, 3, 5)))
    refuses(keeper.acceptor, SwitchMembership(members(3, 3)), StaleConfiguration)
    refuses(keeper.acceptor, SwitchMembership(members(5, 5)), NotMember)
    refuses(keeper.acceptor, SwitchMembership(NO_CONFIGURATION), NotMember)


def test_a_writer_of_the_old_configuration_is_refused(keeper: Keeper) -> None:
    keeps(keeper, SwitchMembership(members(4, 3)))
    refuses(keeper.acceptor, run(START, 1), WrongGeneration)


def test_whoever_excludes_a_keeper_must_mean_it_and_know_the_newest_configuration() -> None:
    require_no_member(NODE, members(4, 5))
    require_not_newer(members(4, 3), members(4, 5))
    for configuration in (members(4, 3, 5), NO_CONFIGURATION):
        with pytest.raises(StillMember):
            require_no_member(NODE, configuration)
    with pytest.raises(StaleExclusion):
        require_not_newer(members(5, 3), members(4, 5))


# -- terms ----------------------------------------------------------------------------------------------------


def test_a_term_only_grows(keeper: Keeper) -> None:
    """Invariant 1."""
    for request, term in ((BumpTerm(), 2), (BumpTerm(Term(9)), 9), (BumpTerm(), 10)):
        kept = keeps(keeper, request)
        assert kept is not None and kept.term == term
    assert keeps(keeper, BumpTerm(Term(10))) is None
    assert keeps(keeper, BumpTerm(Term(3))) is None
    assert keeper.acceptor.state.term == 10


def test_a_leader_of_before_is_refused_and_nobody_was_voted_for(keeper: Keeper) -> None:
    keeps(keeper, BumpTerm())
    reply, _ = keeper.say(run(START, 1))
    assert isinstance(reply, AppendResponse) and (reply.term, reply.flush_lsn) == (2, 0)
    assert not keeper.vote(2).vote_given
    assert keeper.vote(3).vote_given


def test_a_term_without_room_above_it_is_not_gone_to(keeper: Keeper) -> None:
    refuses(keeper.acceptor, BumpTerm(Term(TERM_MAX + 1)), Malformed)
    keeps(keeper, BumpTerm(TERM_MAX))
    refuses(keeper.acceptor, BumpTerm(), Malformed)


# -- what peers say -------------------------------------------------------------------------------------------


def test_a_commit_of_a_peer_counts_if_it_has_the_same_log_and_all_of_ours(keeper: Keeper) -> None:
    """Invariants 8 and 20."""
    keeper.append(START, 4)
    for term, commit in ((2, 9), (0, 9), (1, 3)):
        keeper.say(HearOfPeer(Term(term), lsn(commit)))
        assert keeper.acceptor.state.ahead.commit_lsn == START
    kept = keeps(keeper, HearOfPeer(Term(1), lsn(9)))
    assert kept is None  # it has reached the start of the term before
    assert keeper.acceptor.state.ahead.commit_lsn == lsn(4)


def test_a_commit_that_reaches_the_start_of_the_term_is_saved_at_once() -> None:
    keeper = Keeper()
    keeper.vote(1)
    keeper.elect(1)
    keeper.append(START, 4)
    keeper.vote(2)
    keeper.elect(2, lsn(4), TermHistory.of((1, START), (2, lsn(4))))
    kept = keeps(keeper, HearOfPeer(Term(2), lsn(4)))
    assert kept is not None and kept.commit_lsn == lsn(4)


def test_other_positions_only_grow_and_are_saved_when_they_are_a_segment_ahead(keeper: Keeper) -> None:
    near, far = Lsn(START + RECORD), Lsn(START + SEGMENT + RECORD)
    state = keeper.acceptor.state  # as if that much were committed
    keeper.acceptor = Acceptor(NODE, replace(state, ahead=replace(state.ahead, commit_lsn=far)))
    assert keeps(keeper, HearOfPeer(backup_lsn=near, peer_horizon_lsn=near)) is None
    assert keeps(keeper, HearOfPeer(backup_lsn=START)) is None
    assert keeper.acceptor.state.ahead.backup_lsn == near
    kept = keeps(keeper, HearOfPeer(remote_consistent_lsn=far))
    assert kept is not None
    assert (kept.backup_lsn, kept.peer_horizon_lsn, kept.remote_consistent_lsn) == (near, near, far)


def test_no_peer_moves_a_position_beyond_what_is_committed_here(keeper: Keeper) -> None:
    """A horizon is handed on by votes and by every append, and never comes back."""
    keeper.append(START, 4, commit=lsn(3))
    keeps(keeper, HearOfPeer(backup_lsn=LSN_MAX, peer_horizon_lsn=LSN_MAX, remote_consistent_lsn=LSN_MAX))
    ahead = keeper.acceptor.state.ahead
    assert (ahead.backup_lsn, ahead.peer_horizon_lsn, ahead.remote_consistent_lsn) == (lsn(3), lsn(3), lsn(3))


# -- surgery --------------------------------------------------------------------------------------------------


def patch(**changes: object) -> PatchControlFile:
    return PatchControlFile(lambda control_file: replace(control_file, **changes))  # type: ignore[arg-type]


def test_what_is_patched_is_kept_with_what_has_run_ahead(keeper: Keeper) -> None:
    keeper.append(START, 4, commit=lsn(3))
    kept = keeps(keeper, patch(backup_lsn=lsn(2), term=Term(7), configuration=members(2, 3)))
    assert kept is not None
    assert (kept.backup_lsn, kept.term, kept.commit_lsn) == (lsn(2), 7, lsn(3))
    assert keeper.acceptor.state.ahead.backup_lsn == lsn(2)
    assert keeps(keeper, patch()) is None


@pytest.mark.parametrize("name", ["backup_lsn", "peer_horizon_lsn", "remote_consistent_lsn"])
def test_positions_that_others_remove_wal_by_are_patched_forward_only(keeper: Keeper, name: str) -> None:
    keeper.append(START, 4, commit=lsn(3))
    keeps(keeper, patch(**{name: lsn(2)}))
    for position in (lsn(1), lsn(4)):
        with pytest.raises(NotPatched):
            keeps(keeper, patch(**{name: position}))
    assert getattr(keeper.acceptor.state.ahead, name) == lsn(2)


@pytest.mark.parametrize(
    "changes",
    [
        {"commit_lsn": lsn(1)},
        {"timeline_start_lsn": lsn(0) + 8},
        {"local_start_lsn": lsn(1)},
        {"term_history": TermHistory()},
        {"evicted_at": lsn(3)},
        {"term": Term(0)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_says_which_wal_is_here_or_was_promised_is_not_patched(
    keeper: Keeper, changes: dict[str, object]
) -> None:
    keeper.append(START, 4)
    refuses(keeper.acceptor, patch(**changes), NotPatched)


def test_a_patch_adopts_no_configuration_that_could_not_be_switched_to(keeper: Keeper) -> None:
    keeps(keeper, SwitchMembership(members(4, 3)))
    refuses(keeper.acceptor, patch(configuration=members(4, 3, 5)), StaleConfiguration)
    refuses(keeper.acceptor, patch(configuration=NO_CONFIGURATION), StaleConfiguration)
    refuses(keeper.acceptor, patch(configuration=members(5, int(NodeId(5)))), NotMember)
    refuses(keeper.acceptor, patch(term=Term(TERM_MAX + 1)), Malformed)
