"""What really happened in a simulated cluster: all WAL that was ever written, and what of it was promised.

WAL belongs to the term that wrote it: each won election begins a branch, and a term history with an end names the bytes
of a whole log.  Checks here need no look at any keeper: they compare promises with each other (invariants 35, 37
and 39).

Does not know keepers, disks or networks.
"""

from collections.abc import Iterator

from walkeeper.lsn import INVALID_LSN, Lsn, format_lsn
from walkeeper.messages import ServerInfo
from walkeeper.proposer.election import Election
from walkeeper.terms import Term, TermHistory
from walkeeper.testing.wal import WalGenerator


class Violated(AssertionError):
    """A rule of docs/guarantees.md was broken; the text says which and how."""


def written(history: TermHistory, end_lsn: Lsn) -> TermHistory:
    """Who wrote what of a log that ends there: leaders that wrote nothing of it make no difference."""
    following = [*(entry.lsn for entry in history.entries[1:]), end_lsn]
    pairs = zip(history.entries, following, strict=False)
    return TermHistory(tuple(entry for entry, end in pairs if entry.lsn < min(end, end_lsn)))


class Truth:
    """The WAL of all terms, from ``start_lsn`` on, and the longest log that was ever acknowledged."""

    def __init__(self, start_lsn: Lsn, server: ServerInfo) -> None:
        self.start_lsn = start_lsn
        self.server = server
        self.commit_lsn = INVALID_LSN
        self.commits = 0
        """How many acknowledgements there were that said something new."""
        self.committed = TermHistory()
        self._branches: dict[Term, WalGenerator] = {}
        self._histories: dict[Term, TermHistory] = {}

    # -- writing --------------------------------------------------------------------------------------------

    def elected(self, election: Election) -> WalGenerator:
        """A writer has won, and is given the WAL that it may now write.

        Raises Violated when its term was won before, or it lacks what is committed.
        """
        begin_lsn = self.start_lsn if election.is_first else election.start_lsn
        if election.term in self._branches:
            raise Violated(f"35: term {election.term} is won a second time")
        self._require_committed(election, begin_lsn)
        before = election.history.up_to(begin_lsn)
        self._branches[election.term] = WalGenerator(
            begin_lsn,
            pg_major=self.server.pg_major,
            wal_seg_size=self.server.wal_seg_size,
            system_id=self.server.system_id,
            prev=self._start_of_record_before(before, begin_lsn),
        )
        self._histories[election.term] = before.with_term(election.term, begin_lsn)
        return self._branches[election.term]

    def _require_committed(self, election: Election, begin_lsn: Lsn) -> None:
        if self.commit_lsn == INVALID_LSN:
            return
        if begin_lsn < self.commit_lsn or written(election.history, self.commit_lsn) != self.committed:
            raise Violated(
                f"39: the leader of term {election.term} starts at {format_lsn(begin_lsn)} of {election.history}; committed is"
                f" {format_lsn(self.commit_lsn)} of {self.committed}"
            )

    def _start_of_record_before(self, history: TermHistory, lsn: Lsn) -> Lsn:
        for begin, _, branch in reversed(list(self._parts(history, self.start_lsn, lsn))):
            if begin < lsn:
                (start,) = [record.start for record in branch.records if record.end == lsn]
                return start
        return INVALID_LSN

    # -- reading --------------------------------------------------------------------------------------------

    def history_of(self, term: Term) -> TermHistory:
        """The log of the leader of ``term``, which has been elected."""
        return self._histories[term]

    def wal(self, history: TermHistory, begin_lsn: Lsn, end_lsn: Lsn) -> bytes:
        """What a log with that history has in [begin_lsn, end_lsn)."""
        return b"".join(
            branch.between(begin, end) for begin, end, branch in self._parts(history, begin_lsn, end_lsn)
        )

    def _parts(
        self, history: TermHistory, begin_lsn: Lsn, end_lsn: Lsn
    ) -> Iterator[tuple[Lsn, Lsn, WalGenerator]]:
        bounds = [*(entry.lsn for entry in history.entries[1:]), end_lsn]
        for entry, bound in zip(history.entries, bounds, strict=False):
            begin, end = max(entry.lsn, begin_lsn), min(bound, end_lsn)
            if begin < end:
                yield begin, end, self._branches[entry.term]

    # -- promising ------------------------------------------------------------------------------------------

    def acknowledged(self, term: Term, commit_lsn: Lsn) -> None:
        """The leader of ``term`` lets commits return.  Raises Violated when that contradicts what was promised."""
        history = written(self.history_of(term), commit_lsn)
        shorter = min(commit_lsn, self.commit_lsn)
        if written(history, shorter) != written(self.committed, shorter):
            raise Violated(
                f"37: the leader of term {term} commits {format_lsn(commit_lsn)} of {history}; committed was"
                f" {format_lsn(self.commit_lsn)} of {self.committed}"
            )
        if commit_lsn > self.commit_lsn:
            self.commit_lsn, self.committed = commit_lsn, history
            self.commits += 1

    def require_committed(self, begin_lsn: Lsn, wal: bytes, who: str) -> None:
        """Raises Violated when ``wal``, which ``who`` was given as committed, is not what was promised there."""
        end_lsn = Lsn(begin_lsn + len(wal))
        if end_lsn > self.commit_lsn:
            raise Violated(
                f"37: {who} was given WAL up to {format_lsn(end_lsn)}, committed is {format_lsn(self.commit_lsn)}"
            )
        if wal != self.wal(self.committed, begin_lsn, end_lsn):
            raise Violated(f"25: {who} was given other WAL than was written at {format_lsn(begin_lsn)}")
