"""A proposer with one keeper, which remembers what it was promised.

Purpose: put a keeper under load, and say afterwards which bytes it owes.  Every term writes other bytes, and a new
leader may continue anywhere between the last promise and the end of the keeper's WAL, as the winner of a real
election may; so a keeper that forgets, invents or mixes up terms is found out.

Rules: blocking; the WAL is what PostgreSQL would write; all choices come from a seed.
Not here: connections (keeper_client.py), reading disks (stored_wal.py).
"""

from collections.abc import Iterator
from random import Random
from typing import Final

from keeper_client import Client, Ended, Refused
from walkeeper.ids import TenantTimelineId
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import NO_CONFIGURATION, NO_GENERATION
from walkeeper.messages import (
    APPEND_BYTES_MAX,
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

SWITCH_CHANCE: Final = 0.05


class Branch:
    """The WAL of one term, from where it starts."""

    def __init__(self, start_lsn: Lsn, prev: Lsn, server: ServerInfo) -> None:
        self.generator = WalGenerator(
            start_lsn,
            pg_major=server.pg_major,
            wal_seg_size=server.wal_seg_size,
            system_id=server.system_id,
            prev=prev,
        )
        self._wal = b""

    @property
    def end_lsn(self) -> Lsn:
        return self.generator.lsn

    def grow(self, random: Random) -> None:
        """Write more records; now and then PostgreSQL switches to a new segment."""
        aim = self.end_lsn + GROWTH_BYTES
        while self.end_lsn < aim:
            self.generator.record(random.randbytes(random.randrange(RECORD_BYTES_MAX)))
        if random.random() < SWITCH_CHANCE:
            self.generator.switch()
        self._wal = self.generator.wal

    def between(self, begin_lsn: Lsn, end_lsn: Lsn) -> bytes:
        start = self.generator.start
        return self._wal[begin_lsn - start : end_lsn - start]

    def record_ends(self) -> Iterator[Lsn]:
        return (record.end for record in self.generator.records)

    def start_of_record_that_ends_at(self, lsn: Lsn) -> Lsn:
        (start,) = [record.start for record in self.generator.records if record.end == lsn]
        return start


class Writer:
    """The proposer of one timeline, term after term.

    `promised_lsn`: WAL of `promised_history` below it was acknowledged, and nobody may ever lose it.
    """

    def __init__(
        self,
        ttid: TenantTimelineId,
        *,
        start_lsn: Lsn,
        seed: int,
        pg_major: int = 15,
        segment_bytes: int = 1 << 20,
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
        self._branches: dict[Term, Branch] = {}

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
        newest = self._branches[vote.term_history.last_term]
        return self.random.choice([least, *(end for end in newest.record_ends() if least < end <= end_lsn)])

    def lead(self, client: Client, vote: VoteResponse, start_lsn: Lsn) -> None:
        """Announce that our WAL follows that of the vote's history from `start_lsn` on."""
        before = vote.term_history.up_to(start_lsn)
        self.history = before.with_term(self.term, start_lsn)
        prev = self._last_record_before(before, start_lsn)
        self._branches[self.term] = Branch(start_lsn, prev, self.server)
        self.sent_lsn = start_lsn
        client.say(ProposerElected(NO_GENERATION, self.term, start_lsn, self.history))

    def _last_record_before(self, history: TermHistory, lsn: Lsn) -> Lsn:
        """Where the record begins that ends at `lsn`, in the WAL of `history`."""
        terms = [entry.term for entry in history.entries if entry.lsn < lsn]
        return self._branches[terms[-1]].start_of_record_that_ends_at(lsn) if terms else INVALID_LSN

    # ---- appends

    def append(self, client: Client, length: int) -> None:
        """Send the next `length` bytes, wherever that cuts records; answers are not waited for."""
        branch, end_lsn = self._branches[self.term], Lsn(self.sent_lsn + length)
        while branch.end_lsn < end_lsn:
            branch.grow(self.random)
        while self.sent_lsn < end_lsn:
            request_end_lsn = min(end_lsn, Lsn(self.sent_lsn + APPEND_BYTES_MAX))
            client.say(self._request(request_end_lsn, branch.between(self.sent_lsn, request_end_lsn)))
            self.sent_lsn = request_end_lsn

    def heartbeat(self, client: Client) -> None:
        """An append without WAL."""
        client.say(self._request(self.sent_lsn, b""))

    def _request(self, end_lsn: Lsn, wal: bytes) -> AppendRequest:
        committed = self.promised_lsn if self.promised_lsn >= self.history.last_start else INVALID_LSN
        return AppendRequest(NO_GENERATION, self.term, self.sent_lsn, end_lsn, committed, self.start_lsn, wal)

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
        expected = self._branches[self.term].generator.record_end_at(self.sent_lsn)
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
        bounds = [*(entry.lsn for entry in history.entries), end_lsn]
        pieces = [
            self._branches[entry.term].between(max(entry.lsn, begin_lsn), min(bound, end_lsn))
            for entry, bound in zip(history.entries, bounds[1:], strict=True)
            if max(entry.lsn, begin_lsn) < min(bound, end_lsn)
        ]
        return b"".join(pieces)
