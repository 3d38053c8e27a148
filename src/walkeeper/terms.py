"""Terms and term histories: the logical clock of the consensus, and who wrote which part of the WAL.

A term is an unsigned 64-bit number that only grows; term 0 is where everybody starts and nobody is ever
elected in it.  A term history lists where each leader's WAL begins, oldest first.

Source: Neon's term history (Raft's log terms, kept as a list of switch points instead of one per record).
Does not decide anything: votes are ``acceptor``, campaigns are ``proposer``.
"""

from dataclasses import dataclass
from itertools import takewhile
from typing import Final, NamedTuple, NewType

from walkeeper.lsn import INVALID_LSN, Lsn, format_lsn

Term = NewType("Term", int)

INITIAL_TERM: Final = Term(0)

TERM_MAX: Final = Term(2**63)
"""No keeper votes in a higher one: whatever was voted in, campaigns without number have room above it."""


class TermLsn(NamedTuple):
    """A position and the term that wrote there.  Compares by term first, then by LSN."""

    term: Term
    lsn: Lsn

    def __str__(self) -> str:
        return f"{self.term}:{format_lsn(self.lsn)}"


@dataclass(frozen=True, slots=True)
class TermHistory:
    """Where each term starts, oldest first.

    Terms strictly increase and LSNs never decrease (invariant 14); a history that does not is refused with
    ValueError.  Several terms may start at the same LSN: a leader that wrote nothing leaves such an entry.
    """

    entries: tuple[TermLsn, ...] = ()

    def __post_init__(self) -> None:
        for earlier, later in zip(self.entries, self.entries[1:], strict=False):
            if later.term <= earlier.term or later.lsn < earlier.lsn:
                raise ValueError(f"a term history must grow, got {earlier} before {later}")

    @classmethod
    def of(cls, *pairs: tuple[int, int]) -> "TermHistory":
        """``TermHistory.of((1, 0x10), (2, 0x20))``."""
        return cls(tuple(TermLsn(Term(term), Lsn(lsn)) for term, lsn in pairs))

    def __str__(self) -> str:
        return "[" + ", ".join(map(str, self.entries)) + "]"

    def up_to(self, lsn: Lsn) -> "TermHistory":
        """The prefix whose terms start at or below ``lsn``.

        The comparison is inclusive: a leader elected exactly at the end of the WAL counts as having written
        nothing there, so that a keeper that lacks nothing takes over its term at once, and no other does (invariant 15).
        Equal last terms then mean that one log is a prefix of the other (invariant 21).
        """
        if self.last_start <= lsn:  # by far the most often
            return self
        return TermHistory(tuple(takewhile(lambda entry: entry.lsn <= lsn, self.entries)))

    @property
    def last_term(self) -> Term:
        """The term of the last entry, 0 if there is none."""
        return self.entries[-1].term if self.entries else INITIAL_TERM

    @property
    def last_start(self) -> Lsn:
        """Where the last term starts, 0 if there is no entry."""
        return self.entries[-1].lsn if self.entries else INVALID_LSN

    def last_log_term(self, flush_lsn: Lsn) -> Term:
        """The term of the last WAL below ``flush_lsn``: the *epoch* of a log that ends there."""
        return self.up_to(flush_lsn).last_term

    def with_term(self, term: Term, start: Lsn) -> "TermHistory":
        """This history and one more leader.  Raises ValueError when that would not grow."""
        return TermHistory((*self.entries, TermLsn(term, start)))


def highest_common_point(leader: TermHistory, own: TermHistory, own_end: Lsn) -> TermLsn | None:
    """Where a log that ends at ``own_end`` stops agreeing with the leader's (None: they share no term).

    ``own`` must already be cut with ``up_to(own_end)``.  Both the leader (to decide where to stream from) and
    the keeper (to check it) compute this.  Raises ValueError if one term starts at two different LSNs, which
    cannot happen while elections are safe.
    """
    common = 0
    for theirs, ours in zip(leader.entries, own.entries, strict=False):
        if theirs.term != ours.term:
            break
        if theirs.lsn != ours.lsn:
            raise ValueError(
                f"term {ours.term} starts at {format_lsn(ours.lsn)} here and {format_lsn(theirs.lsn)} there"
            )
        common += 1
    if common == 0:
        return None
    term = own.entries[common - 1].term
    if common == len(leader.entries):
        return TermLsn(term, own_end)
    own_end_of_term = own.entries[common].lsn if common < len(own.entries) else own_end
    return TermLsn(term, min(leader.entries[common].lsn, own_end_of_term))
