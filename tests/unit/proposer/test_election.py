"""Who is the donor, where the new term starts, where a keeper's log diverges."""

import pytest

from walkeeper.errors import Malformed
from walkeeper.lsn import Lsn
from walkeeper.membership import NO_GENERATION
from walkeeper.messages import VoteResponse
from walkeeper.proposer.election import divergence_point, settle
from walkeeper.terms import Term, TermHistory

TERM = Term(9)


def vote(flush: int, *history: tuple[int, int], truncate: int = 0) -> VoteResponse:
    return VoteResponse(NO_GENERATION, TERM, True, Lsn(flush), Lsn(truncate), TermHistory.of(*history))


def test_the_donor_has_the_newest_term_even_if_another_has_more_wal() -> None:
    election = settle(TERM, {0: vote(90, (1, 10)), 1: vote(50, (1, 10), (2, 40))}, is_vouched_for=True)
    assert (election.donor, election.start_lsn) == (1, 50)
    assert election.history == TermHistory.of((1, 10), (2, 40))


def test_within_the_newest_term_the_donor_has_the_most_wal() -> None:
    assert settle(TERM, {0: vote(50, (1, 10)), 2: vote(60, (1, 10))}, is_vouched_for=True).donor == 2


def test_equal_votes_make_the_first_keeper_the_donor() -> None:
    assert settle(TERM, {2: vote(50, (1, 10)), 1: vote(50, (1, 10))}, is_vouched_for=True).donor == 1


def test_a_term_that_starts_beyond_the_wal_gives_no_precedence() -> None:
    """A keeper adopts a leader's history before it has the leader's WAL."""
    election = settle(TERM, {0: vote(30, (1, 10), (5, 70)), 1: vote(50, (1, 10), (2, 40))}, is_vouched_for=True)
    assert election.donor == 1


def test_nobody_with_wal_leaves_the_start_open() -> None:
    election = settle(TERM, {0: vote(0), 1: vote(0)}, is_vouched_for=True)
    assert election.is_first
    assert election.history == TermHistory()


def test_truncate_lsn_begins_at_the_highest_that_a_voter_remembers() -> None:
    assert (
        settle(
            TERM, {0: vote(50, (1, 10), truncate=20), 1: vote(50, (1, 10), truncate=30)}, is_vouched_for=True
        ).truncate_lsn
        == 30
    )


def test_truncate_lsn_never_begins_beyond_the_wal_that_is_continued() -> None:
    """One keeper with a wrong horizon would hand it to all of them."""
    votes = {0: vote(50, (1, 10), truncate=2**63), 1: vote(40, (1, 10), truncate=30)}
    assert settle(TERM, votes, is_vouched_for=True).truncate_lsn == 50


LEADER = TermHistory.of((1, 10), (2, 40), (9, 60))


@pytest.mark.parametrize(
    ("own", "start"),
    [
        (vote(0), 10),
        (vote(50, (3, 5)), 10),
        (vote(60, (1, 10), (2, 40)), 60),
        (vote(55, (1, 10), (2, 40)), 55),
        (vote(90, (1, 10), (2, 40)), 60),
        (vote(50, (1, 10)), 40),
        (vote(30, (1, 10)), 30),
        (vote(70, (1, 10), (3, 20)), 20),
        (vote(80, (1, 10), (2, 40), (9, 60)), 80),
    ],
    ids=[
        "an empty keeper starts at the first entry",
        "a keeper that shares no term starts at the first entry",
        "a keeper that has everything starts at the term's start",
        "a keeper that lags starts at its own end",
        "a keeper with uncommitted WAL beyond the term's start loses it",
        "a keeper with too much of an earlier term loses it",
        "a keeper that lags by a term starts at its own end",
        "a keeper with a term the leader lacks loses that term",
        "a keeper that reconnects within our term loses nothing",
    ],
)
def test_a_keeper_starts_where_its_log_diverges(own: VoteResponse, start: int) -> None:
    assert divergence_point(LEADER, own) == start


def test_one_term_with_two_starts_is_a_broken_keeper() -> None:
    with pytest.raises(Malformed):
        divergence_point(LEADER, vote(50, (1, 11)))
