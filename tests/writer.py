"""A proposer with one keeper, which remembers what it was promised.

Purpose: put a keeper under load, and say afterwards which bytes it owes.  Every term writes other bytes, and a new
leader may continue anywhere between the last promise and the end of the keeper's WAL, as the winner of a real
election may; so a keeper that forgets, invents or mixes up terms is found out.

Rules: blocking; the WAL is what PostgreSQL would write; all choices come from a seed.
Not here: connections (keeper_client.py), reading disks (stored_wal.py).
"""

from random import Random
from typing import Final

from keeper_client import Client, Ended, Refused
from walkeeper.ids import TenantTimelineId
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import NO_CONFIGURATION, NO_GENERATION
from walkeeper.messages import (
    AcceptorGreeting,
    AppendRequest,
    AppendResponse,
    ProposerElected,
    ProposerGreeting,
    ServerInfo,
    VoteRequest,
    VoteResponse,
)
from walkeeper.terms import INITIAL_TERM, Term, TermHistory
from walkeeper.testing.wal import WalGenerator

SYSTEM_ID: Final = 7241562384010203040
GROWTH_BYTES: Final = 128 * 1024
"""How much WAL is made at a time."""

RECORD_BYTES_MAX: Final = 12_000
"""More than a page, so that records straddle pages, segments and appends."""


class Writer:
    """The proposer of one timeline, term after term.

    `promised_lsn`: WAL of `promised_history` below it was acknowledged, and nobody may ever lose it.
    """

    def __init__(
        self, ttid: TenantTimelineId, *, seed: int, pg_major: int = 15, segment_bytes: int = 1 << 20, start_lsn: Lsn
    ) -> None:
        self.ttid = ttid
        self.server = ServerInfo(pg_major * 10_000, SYSTEM_ID, segment_bytes)
        self.start_lsn = start_lsn
        self.random = Random(seed)
        self.term = INITIAL_TERM
        self.history = TermHistory()
        self.sent_lsn = INVALID_LSN
        self.promised_lsn = INVALID_LSN
        self.promised_history = TermHistory()
        self._branches: dict[Term, WalGenerator] = {}
        self._wal = b""  # the part of our branch that was made last
        self._wal_start = INVALID_LSN

    # ---- an election

    def win(self, client: Client) -> VoteResponse:
        """Greet and be voted for in a new term."""
        client.start_push(self.ttid)
        client.say(ProposerGreeting(self.ttid, NO_CONFIGURATION, self.server))
        greeting = client.hear()
        assert isinstance(greeting, AcceptorGreeting)
        self.term = Term(max(self.term, greeting.term) + 1)
        client.say(VoteRequest(NO_GENERATION, self.term))
        vote = client.hear()
        assert isinstance(vote, VoteResponse)
        assert vote.vote_given
        return vote

    def choose_start(self, vote: VoteResponse) -> Lsn:
        """Somewhere between the last promise and the keeper's end, where a record ends."""
        end_lsn = vote.flush_lsn or self.start_lsn
        if end_lsn == self.start_lsn or self.random.random() < 0.5:
            return end_lsn
        least = self.promised_lsn or self.start_lsn
        newest = self._branches[vote.term_history.last_term].records
        return self.random.choice([least, *(record.end for record in newest if least < record.end <= end_lsn)])

    def lead(self, client: Client, vote: VoteResponse, start_lsn: Lsn) -> None:
        """Announce that our WAL follows that of the vote's history from `start_lsn` on."""
        before = vote.term_history.up_to(start_lsn)
        self.history = before.with_term(self.term, start_lsn)
        self._branches[self.term] = WalGenerator(
            start_lsn,
            pg_major=self.server.pg_major,
            wal_seg_size=self.server.wal_seg_size,
            system_id=SYSTEM_ID,
            prev=self._last_record_before(before, start_lsn),
        )
        self.sent_lsn = self._wal_start = start_lsn
        self._wal = b""
        client.say(ProposerElected(NO_GENERATION, self.term, start_lsn, self.history))

    def _last_record_before(self, history: TermHistory, lsn: Lsn) -> Lsn:
        """Where the record begins that ends at `lsn`, in the WAL of `history`."""
        terms = [entry.term for entry in history.entries if entry.lsn < lsn]
        if not terms:
            return INVALID_LSN
        (begin,) = [record.start for record in self._branches[terms[-1]].records if record.end == lsn]
        return begin

    # ---- appends

    def append(self, client: Client, length: int) -> None:
        """Send the next `length` bytes, wherever that cuts records; answers are not waited for."""
        while length > len(self._wal) - (self.sent_lsn - self._wal_start):
            self._grow()
        at = self.sent_lsn - self._wal_start
        wal = self._wal[at : at + length]
        client.say(self._request(Lsn(self.sent_lsn + length), wal))
        self.sent_lsn = Lsn(self.sent_lsn + length)

    def append_up_to_a_record_end(self, client: Client) -> None:
        """Send what is made but not sent, so that the keeper can promise all of it."""
        self.append(client, len(self._wal) - (self.sent_lsn - self._wal_start))

    def heartbeat(self, client: Client) -> None:
        """An append without WAL."""
        client.say(self._request(self.sent_lsn, b""))

    def _request(self, end_lsn: Lsn, wal: bytes) -> AppendRequest:
        committed = self.promised_lsn if self.promised_lsn >= self.history.last_start else INVALID_LSN
        return AppendRequest(
            NO_GENERATION, self.term, self.sent_lsn, end_lsn, committed, self.start_lsn, wal
        )

    def _grow(self) -> None:
        branch = self._branches[self.term]
        rest, begin_lsn = self._wal[self.sent_lsn - self._wal_start :], branch.lsn
        while branch.lsn - begin_lsn < GROWTH_BYTES:
            branch.record(self.random.randbytes(self.random.randrange(RECORD_BYTES_MAX)))
        if self.random.random() < 0.05:
            branch.switch()
        self._wal, self._wal_start = rest + branch.wal_from(begin_lsn), self.sent_lsn

    # ---- promises

    def hear(self, client: Client) -> AppendResponse:
        """The next answer to an append, and the promise in it."""
        reply = client.hear()
        assert isinstance(reply, AppendResponse)
        assert reply.term == self.term
        if reply.flush_lsn > self.promised_lsn:
            self.promised_lsn, self.promised_history = reply.flush_lsn, self.history
        return reply

    def hear_all(self, client: Client) -> None:
        """Answers until everything that was sent up to its last record end is promised."""
        expected = self._branches[self.term].record_end_at(self.sent_lsn)
        while self.promised_lsn < expected:
            self.hear(client)

    def hear_last_words(self, client: Client) -> None:
        """Whatever the keeper had answered before the connection was lost."""
        try:
            while True:
                self.hear(client)
        except (Ended, Refused):
            return

    def wal_of(self, history: TermHistory, begin_lsn: Lsn, end_lsn: Lsn) -> bytes:
        """What a log of that history holds in [begin_lsn, end_lsn)."""
        ends = [entry.lsn for entry in history.entries[1:]] + [end_lsn]
        pieces = [
            self._branches[entry.term].wal_between(max(entry.lsn, begin_lsn), min(end, end_lsn))
            for entry, end in zip(history.entries, ends, strict=True)
            if max(entry.lsn, begin_lsn) < min(end, end_lsn)
        ]
        return b"".join(pieces)
