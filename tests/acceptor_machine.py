"""One acceptor over a real store on a disk that crashes, against a model that only remembers what was promised.

Hypothesis invents the story: votes, leaders that truncate, appends cut anywhere, checkpoints, operators, power cuts in the
middle of any of them.  The model is what the proposers were told; the checks are the invariants of
docs/guarantees.md, by number.  Subclasses in tests/sabotage replace one part by a broken one and must be caught.
"""

from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from crash_points import read_stored
from walkeeper.acceptor.acceptor import Acceptor, Intent, Kept, new_acceptor
from walkeeper.acceptor.administration import AdminRequest, BumpTerm, Checkpoint
from walkeeper.acceptor.state import new_control_file
from walkeeper.formats.segments import next_segment_start
from walkeeper.ids import NodeId, TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import NO_CONFIGURATION, NO_GENERATION
from walkeeper.messages import (
    AcceptorMessage,
    AppendResponse,
    AppendRun,
    Batch,
    ProposerElected,
    ServerInfo,
    VoteRequest,
    VoteResponse,
)
from walkeeper.storage.store import TimelineStore, write_new_timeline
from walkeeper.terms import Term
from walkeeper.testing.memory_disk import MemoryDisk, PowerCut
from walkeeper.testing.wal import WalGenerator

SEGMENT = 1 << 20
START = Lsn(3 * SEGMENT + 0x2760)
DIRECTORY = Path("/timeline")
TTID = TenantTimelineId(TenantId(b"t" * 16), TimelineId(b"l" * 16))
SERVER = ServerInfo(pg_version=150005, system_id=77, wal_seg_size=SEGMENT)


class AcceptorMachine(RuleBasedStateMachine):
    """``log`` is every byte a leader of the accepted histories has sent from START on.

    ``starts``, ``ends`` and ``writers`` (terms) are those of its records.
    """

    def __init__(self) -> None:
        super().__init__()
        self.disk = self.new_disk()
        self.disk.mkdir(DIRECTORY)
        write_new_timeline(
            self.disk, DIRECTORY, new_control_file(TTID, SERVER, (0, 0), configuration=NO_CONFIGURATION)
        )
        self.disk.syncfs(DIRECTORY)
        self.log = b""
        self.ends: list[Lsn] = []
        self.starts: list[Lsn] = []
        self.writers: list[Term] = []
        self.voted: set[int] = set()
        self.spoken_term = Term(0)
        self.asked_term = Term(0)
        self.promised = INVALID_LSN
        self.promised_commit = INVALID_LSN
        self.told_commit = INVALID_LSN
        self.leader: WalGenerator | None = None
        self.leader_term = Term(0)
        self.sent_lsn = START
        self.next_cut: tuple[int, bool] | None = None
        self.boot()

    # -- what sabotage replaces -------------------------------------------------------------------------------

    def new_disk(self) -> MemoryDisk:
        return MemoryDisk()

    def keep(self, intent: Intent) -> Kept:
        return intent.keep(self.store)

    # -- the world --------------------------------------------------------------------------------------------

    def boot(self) -> None:
        self.store = TimelineStore(self.disk, DIRECTORY)
        recovered = self.store.recover()
        self.acceptor: Acceptor = new_acceptor(
            NodeId(1), recovered.control_file, recovered.end_lsn, recovered.tli, is_whole=recovered.is_whole
        )

    def say(self, request: Batch | AdminRequest, seed: int) -> AcceptorMessage | None:
        """Decide and keep; a power cut on the way is survived, and nobody hears a reply."""
        if self.next_cut:
            self.disk.cut_power(self.disk.operations + self.next_cut[0], after=self.next_cut[1])
        try:
            kept = self.keep(self.acceptor.decide(request))
        except PowerCut:
            self.crash(seed)
            return None
        finally:
            self.next_cut = None
            self.disk.cut_power(NEVER, after=False)
        self.acceptor = kept.acceptor
        if kept.reply is not None:
            assert kept.reply.term >= self.spoken_term  # invariant 1
            self.spoken_term = kept.reply.term
        return kept.reply

    @rule(seed=st.integers(0, 9))
    def crash(self, seed: int) -> None:
        was_whole = self.acceptor.state.is_whole
        self.disk.crash(seed)
        self.boot()
        self.leader = None
        state = self.acceptor.state
        assert state.is_whole or not was_whole
        if state.is_whole and not was_whole:  # invariant 47
            assert 0 < self.told_commit <= state.flush_lsn
        assert self.spoken_term <= state.term <= max(self.asked_term, self.spoken_term)  # invariants 1 and 3
        assert state.flush_lsn >= self.promised  # invariants 7 and 30
        assert state.kept.commit_lsn >= self.promised_commit  # invariant 9
        assert state.wal.flush_lsn in (INVALID_LSN, START, *self.ends)  # invariant 24
        assert state.wal.awaits_truncation  # invariant 27
        self.forget_beyond(state.flush_lsn)

    def forget_beyond(self, lsn: Lsn) -> None:
        kept = sum(end <= lsn for end in self.ends)
        self.starts, self.ends, self.writers = self.starts[:kept], self.ends[:kept], self.writers[:kept]
        self.log = self.log[: max(0, lsn - START)]

    @rule(operations=st.integers(0, 12), after=st.booleans())
    def power_will_be_cut(self, operations: int, after: bool) -> None:
        """In the middle of what is said next."""
        self.next_cut = operations, after

    # -- what proposers say -----------------------------------------------------------------------------------

    @rule(ahead=st.integers(-1, 2), seed=st.integers(0, 9))
    def ask_for_vote(self, ahead: int, seed: int) -> None:
        before = self.acceptor.state
        term = Term(max(0, before.term + ahead))
        self.asked_term = max(self.asked_term, term)
        reply = self.say(VoteRequest(NO_GENERATION, term), seed)
        if not isinstance(reply, VoteResponse):
            return
        assert reply.vote_given == (term > before.term)  # invariant 4
        assert not (reply.vote_given and term in self.voted)  # invariant 2
        assert reply.vote_given or self.acceptor.state == before  # invariant 17
        if reply.vote_given:
            self.voted.add(term)
            self.leader = None
        assert reply.term_history == self.acceptor.state.kept.term_history.up_to(reply.flush_lsn)  # invariant 13
        self.promised = reply.flush_lsn

    @precondition(lambda self: self.acceptor.state.term > self.acceptor.state.kept.term_history.last_term)
    @rule(back=st.integers(0, 3), seed=st.integers(0, 9))
    def win_election(self, back: int, seed: int) -> None:
        """The leader of the newest term takes back up to ``back`` records that are not known to be committed."""
        state = self.acceptor.state
        reachable = [end for end in (START, *self.ends) if state.ahead.commit_lsn <= end <= state.flush_lsn]
        start = reachable[-1 - min(back, len(reachable) - 1)] if reachable else START
        history = state.kept.term_history.up_to(start).with_term(state.term, start)
        self.promised = min(self.promised, start)
        self.be_told(ProposerElected(NO_GENERATION, state.term, start, history), seed)

    @precondition(lambda self: self.leader is None and self.acceptor.state.term == self.leader_term > 0)
    @rule(seed=st.integers(0, 9))
    def reconnect(self, seed: int) -> None:
        """The same leader after a crash of the keeper: it goes on where the keeper's WAL ends."""
        state = self.acceptor.state
        if state.kept.term_history.last_term == state.term:
            self.be_told(
                ProposerElected(NO_GENERATION, state.term, state.flush_lsn, state.kept.term_history), seed
            )

    def be_told(self, elected: ProposerElected, seed: int) -> None:
        cuts = self.disk.cuts
        self.say(elected, seed)
        if self.disk.cuts != cuts:
            return
        start = elected.start_streaming_at
        assert self.acceptor.state.flush_lsn == start
        self.forget_beyond(start)
        prev = self.starts[-1] if self.starts else INVALID_LSN
        self.leader = WalGenerator(start, pg_major=15, wal_seg_size=SEGMENT, prev=prev)
        self.leader_term, self.sent_lsn = elected.term, start

    @precondition(lambda self: self.leader is not None)
    @rule(
        sizes=st.lists(st.sampled_from([10, 300, 9000, 400_000]), max_size=3),
        short=st.integers(0, 60),
        commit=st.integers(0, 4),
        switch=st.booleans(),
        seed=st.integers(0, 9),
    )
    def append(self, sizes: list[int], short: int, commit: int, switch: bool, seed: int) -> None:
        """Some records, all but the last ``short`` bytes of them, with a commit_lsn ``commit`` records back."""
        assert self.leader is not None
        for size in sizes:
            self.leader.record(bytes([self.leader_term % 251 + 1]) * size)
        if switch and sizes:
            self.leader.switch()
        end = max(self.sent_lsn, Lsn(self.leader.lsn - short))
        wal = self.leader.wal[self.sent_lsn - self.leader.start : end - self.leader.start]
        known = [record.end for record in self.leader.records]
        self.remember(wal)
        commit_lsn = ([INVALID_LSN] * 5 + known)[-1 - commit]
        slices = [piece for piece in (wal[:100], wal[100:]) if piece]
        begin, self.sent_lsn = self.sent_lsn, end
        run = AppendRun(NO_GENERATION, self.leader_term, begin, end, commit_lsn, INVALID_LSN, slices)
        before = self.acceptor.state
        self.told_commit = commit_lsn
        reply = self.say(run, seed)
        if not isinstance(reply, AppendResponse):
            return
        state = self.acceptor.state
        assert reply.flush_lsn == max(state.wal.flush_lsn, state.kept.timeline_start_lsn)
        assert reply.flush_lsn >= self.promised
        assert reply.commit_lsn == state.kept.commit_lsn >= self.promised_commit  # invariants 9 and 16
        assert state.ahead.commit_lsn >= before.ahead.commit_lsn
        assert state.is_whole == (before.is_whole or 0 < commit_lsn <= state.flush_lsn)  # invariant 47
        self.promised, self.promised_commit = reply.flush_lsn, reply.commit_lsn

    def remember(self, wal: bytes) -> None:
        assert self.leader is not None
        self.log = self.log[: self.sent_lsn - START].ljust(self.sent_lsn - START, b"\0") + wal
        for record in self.leader.records:
            if record.end not in self.ends:
                self.starts.append(record.start)
                self.writers.append(self.leader_term)
                self.ends.append(record.end)

    @precondition(lambda self: self.leader is not None)
    @rule(seed=st.integers(0, 9))
    def stale_leader_appends(self, seed: int) -> None:
        """Invariants 5 and 17: it hears the term, and nothing changes."""
        before = self.acceptor.state
        stale = AppendRun(
            NO_GENERATION, Term(before.term - 1), START, Lsn(START + 8), LSN_FAR, LSN_FAR, [b"x" * 8]
        )
        reply = self.say(stale, seed)
        assert reply == AppendResponse(NO_GENERATION, before.term)
        assert self.acceptor.state == before

    @rule(seed=st.integers(0, 9))
    def checkpoint(self, seed: int) -> None:
        self.say(Checkpoint(), seed)

    @rule(ahead=st.integers(-1, 2), seed=st.integers(0, 9))
    def bump_term(self, ahead: int, seed: int) -> None:
        """What an operator was told is kept like a vote (invariants 1 and 3)."""
        before = self.acceptor.state.term
        term = Term(max(0, before + ahead))
        self.asked_term = max(self.asked_term, term)
        is_told = self.next_cut is None
        self.say(BumpTerm(term), seed)
        if is_told:
            assert self.acceptor.state.term == max(before, term)
            self.spoken_term = self.acceptor.state.term
        if self.acceptor.state.term > self.leader_term:
            self.leader = None

    # -- what always holds ------------------------------------------------------------------------------------

    @invariant()
    def positions_are_in_order(self) -> None:
        state = self.acceptor.state
        assert state.kept.commit_lsn <= state.ahead.commit_lsn <= state.flush_lsn  # invariant 8
        assert state.last_log_term <= state.term  # invariant 13
        wal = state.wal  # invariant 23: an XLOG_SWITCH, and padding, end before their last bytes are there
        assert wal.flush_lsn <= wal.write_lsn + 7 or wal.flush_lsn == next_segment_start(wal.write_lsn, SEGMENT)

    @invariant()
    def every_record_is_its_writers(self) -> None:
        """Invariants 15, 21 and 36: the history names for each record the term that wrote it."""
        state = self.acceptor.state
        for start, end, writer in zip(self.starts, self.ends, self.writers, strict=True):
            if end <= state.wal.flush_lsn:
                assert state.term_history.up_to(start).last_term == writer

    @invariant()
    def what_was_reported_can_be_read_and_is_what_was_sent(self) -> None:
        """Invariant 25."""
        lsn, found = START, bytearray()
        end = min(self.acceptor.state.wal.flush_lsn, Lsn(START + len(self.log)))
        while lsn < end:
            piece = read_stored(self.store, lsn, min(end, next_segment_start(lsn + 1, SEGMENT)) - lsn)
            found += piece
            lsn = Lsn(lsn + len(piece))
        assert bytes(found) == self.log[: len(found)]


LSN_FAR = Lsn(1 << 60)
NEVER = -1
