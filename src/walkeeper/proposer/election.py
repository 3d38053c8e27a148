"""What follows from the votes: whose WAL is continued, where the new term starts, where each keeper diverges.

Source: Neon's walproposer (HandleElectedProposer, SendProposerElected).  Functions of votes only: when there are
enough of them is ``proposer.quorum``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from walkeeper.errors import Malformed
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.messages import VoteResponse
from walkeeper.terms import Term, TermHistory, highest_common_point


@dataclass(frozen=True, slots=True)
class Election:
    """A campaign won in ``term``.

    ``donor`` is the place of the voter whose WAL is continued, ``start_lsn`` the end of its WAL and
    ``history`` its term history.  ``start_lsn`` is 0 when nobody has any WAL; the winner then chooses.

    ``is_vouched_for``: whether a majority of whole members was among the voters.  If not, everybody has voted, but too many
    of them may have forgotten what they had acknowledged beyond ``start_lsn``.
    """

    term: Term
    donor: int
    start_lsn: Lsn
    history: TermHistory
    truncate_lsn: Lsn
    is_vouched_for: bool

    @property
    def is_first(self) -> bool:
        """Whether no keeper of the quorum has ever had a leader with WAL."""
        return self.start_lsn == INVALID_LSN


def settle(term: Term, votes: Mapping[int, VoteResponse], *, is_vouched_for: bool) -> Election:
    """The outcome of a campaign from the votes of its quorum, by the voters' places.

    The donor is the greatest (last_log_term, flush_lsn): whatever an earlier leader had committed is on a
    majority, hence on one of these voters, hence on the donor (invariants 37 and 39).  Ties go to the first
    in the list, so that equal votes always give the same donor.
    """
    donor = max(sorted(votes), key=lambda place: _log_end(votes[place]))
    vote = votes[donor]
    history = vote.term_history.up_to(vote.flush_lsn)
    truncate_lsn = max(each.truncate_lsn for each in votes.values())
    return Election(term, donor, vote.flush_lsn, history, min(truncate_lsn, vote.flush_lsn), is_vouched_for)


def _log_end(vote: VoteResponse) -> tuple[Term, Lsn]:
    return vote.term_history.last_log_term(vote.flush_lsn), vote.flush_lsn


def divergence_point(history: TermHistory, vote: VoteResponse) -> Lsn:
    """Where a keeper that answered ``vote`` has to start receiving the leader's WAL (invariant 11).

    ``history`` is the leader's, complete with its own term.  A keeper that shares no term with it starts at
    its very first entry.  Raises Malformed when the same term starts at two different positions, which only
    a broken keeper can claim (invariant 35).
    """
    try:
        common = highest_common_point(history, vote.term_history.up_to(vote.flush_lsn), vote.flush_lsn)
    except ValueError as error:
        raise Malformed(f"term history of a vote: {error}") from error
    return history.entries[0].lsn if common is None else common.lsn
