"""The acceptor's rules, one sentence each.  Its disk is a list of what it was asked to keep."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from struct import pack

import pytest

from walkeeper.acceptor.acceptor import Acceptor, new_acceptor
from walkeeper.acceptor.administration import AdminRequest, Checkpoint
from walkeeper.acceptor.effects import (
    BecomeWhole,
    Effect,
    InitializeFirstSegment,
    KeepControlFile,
    SyncWal,
    TruncateWal,
    WriteWal,
)
from walkeeper.acceptor.state import new_control_file
from walkeeper.errors import (
    DiskFull,
    HistoryConflict,
    InvalidTimeline,
    Malformed,
    NotElected,
    NotMember,
    PartlyKept,
    TruncatesCommitted,
    TruncationPending,
    WalGap,
    WalRewrite,
    WrongDivergence,
    WrongGeneration,
    WrongServer,
)
from walkeeper.formats.control_file import ControlFile
from walkeeper.ids import NO_TLI, NodeId, TenantId, TenantTimelineId, TimelineId, TimelineNumber
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import NO_CONFIGURATION, NO_GENERATION, Configuration, Generation, Member
from walkeeper.messages import (
    AcceptorGreeting,
    AcceptorMessage,
    AppendResponse,
    AppendRun,
    Batch,
    ProposerElected,
    ProposerGreeting,
    ServerInfo,
    VoteRequest,
    VoteResponse,
)
from walkeeper.terms import Term, TermHistory

SEGMENT = 1 << 20
START = Lsn(0x12FC760)
"""In mid-page, where Neon's first record usually is."""
RECORD = 32

TTID = TenantTimelineId(TenantId(b"t" * 16), TimelineId(b"l" * 16))
SERVER = ServerInfo(150005, 77, SEGMENT)
NODE = NodeId(3)


def lsn(records: int) -> Lsn:
    return Lsn(START + records * RECORD)


def wal(records: int) -> bytes:
    return pack("<IIQBB2xI8x", RECORD, 0, 0, 0, 10, 0) * records


@dataclass
class Disk:
    """Remembers effects in order; fails before the one it is told to."""

    performed: list[Effect] = field(default_factory=list)
    full_at: int | None = None

    def perform(self, effect: Effect) -> None:
        if len(self.performed) == self.full_at:
            raise DiskFull("no space")
        self.performed.append(effect)


class Keeper:
    """An acceptor and what it has kept."""

    def __init__(self, control_file: ControlFile | None = None, *, is_whole: bool = True) -> None:
        kept = control_file or new_control_file(TTID, SERVER, (0, 0), configuration=NO_CONFIGURATION)
        self.acceptor = new_acceptor(NODE, kept, kept.commit_lsn, NO_TLI, is_whole=is_whole)

    def say(self, message: Batch | AdminRequest) -> tuple[AcceptorMessage | None, Sequence[Effect]]:
        intent = self.acceptor.decide(message)
        kept = intent.keep(Disk())
        self.acceptor = kept.acceptor
        return kept.reply, intent.effects

    def vote(self, term: int) -> VoteResponse:
        reply, _ = self.say(VoteRequest(NO_GENERATION, Term(term)))
        assert isinstance(reply, VoteResponse)
        return reply

    def elect(self, term: int, start: Lsn = START, history: TermHistory | None = None) -> Sequence[Effect]:
        history = history or TermHistory.of((term, start))
        return self.say(ProposerElected(NO_GENERATION, Term(term), start, history))[1]

    def append(
        self,
        begin: Lsn,
        records: int = 0,
        *,
        term: int = 1,
        commit: Lsn = INVALID_LSN,
        truncate: Lsn = INVALID_LSN,
    ) -> AppendResponse:
        reply, _ = self.say(run(begin, records, term=term, commit=commit, truncate=truncate))
        assert isinstance(reply, AppendResponse)
        return reply

    def restart(self) -> None:
        state = self.acceptor.state
        self.acceptor = new_acceptor(NODE, state.kept, state.wal.flush_lsn, state.wal.tli, is_whole=state.is_whole)


def run(
    begin: Lsn, records: int = 0, *, term: int = 1, commit: Lsn = INVALID_LSN, truncate: Lsn = INVALID_LSN
) -> AppendRun:
    slices = (wal(records),) if records else ()
    return AppendRun(NO_GENERATION, Term(term), begin, Lsn(begin + records * RECORD), commit, truncate, slices)


def greeting(
    configuration: Configuration = NO_CONFIGURATION, server: ServerInfo = SERVER, ttid: TenantTimelineId = TTID
) -> ProposerGreeting:
    return ProposerGreeting(ttid, configuration, server)


def members(generation: int, *ids: int) -> Configuration:
    return Configuration(Generation(generation), tuple(Member(NodeId(i), f"k{i}", 5454) for i in ids))


@pytest.fixture
def keeper() -> Keeper:
    """Elected a leader of term 1 at START, no WAL yet."""
    keeper = Keeper()
    keeper.vote(1)
    keeper.elect(1)
    return keeper


def refuses(acceptor: Acceptor, message: Batch | AdminRequest, error: type[Exception]) -> None:
    before = acceptor.state
    with pytest.raises(error):
        acceptor.decide(message)
    assert acceptor.state == before


# -- greeting -----------------------------------------------------------------------------------------------


def test_a_greeting_is_answered_with_node_configuration_and_term() -> None:
    reply, effects = Keeper().say(greeting())
    assert reply == AcceptorGreeting(NODE, NO_CONFIGURATION, Term(0))
    assert not effects


@pytest.mark.parametrize(
    "wrong",
    [
        greeting(server=replace(SERVER, pg_version=160001)),
        greeting(server=replace(SERVER, pg_version=0)),
        greeting(server=replace(SERVER, pg_version=990000)),
        greeting(ttid=TenantTimelineId(TenantId(b"x" * 16), TTID.timeline_id)),
        greeting(ttid=TenantTimelineId(TTID.tenant_id, TimelineId(b"x" * 16))),
        greeting(server=replace(SERVER, wal_seg_size=16 << 20)),
    ],
)
def test_the_writer_must_be_the_server_this_wal_is_of(wrong: ProposerGreeting) -> None:
    refuses(Keeper().acceptor, wrong, WrongServer)


def test_a_system_id_that_was_unknown_is_kept_before_the_reply() -> None:
    control_file = new_control_file(TTID, replace(SERVER, system_id=0), (0, 0), configuration=NO_CONFIGURATION)
    keeper = Keeper(control_file)
    _, effects = keeper.say(greeting())
    assert effects == (KeepControlFile(keeper.acceptor.state.kept),)
    assert keeper.acceptor.state.kept.server == SERVER


def test_wal_that_is_here_is_of_the_server_that_it_says(keeper: Keeper) -> None:
    foreign = greeting(server=replace(SERVER, system_id=SERVER.system_id + 1))
    refuses(keeper.acceptor, foreign, WrongServer)


@pytest.mark.parametrize("term", [2**63 + 1, 2**64 - 1])
def test_a_term_without_room_above_it_is_refused(keeper: Keeper, term: int) -> None:
    """One such vote, and nobody could ever campaign again."""
    refuses(keeper.acceptor, VoteRequest(NO_GENERATION, Term(term)), Malformed)
    elected = ProposerElected(NO_GENERATION, Term(term), START, TermHistory.of((term, START)))
    refuses(keeper.acceptor, elected, Malformed)


def test_an_unknown_system_id_is_no_news(keeper: Keeper) -> None:
    _, effects = keeper.say(greeting(server=replace(SERVER, system_id=0)))
    assert not effects
    assert keeper.acceptor.state.kept.server == SERVER


def test_a_higher_generation_is_kept_and_answered() -> None:
    """Invariant 18."""
    keeper = Keeper()
    reply, effects = keeper.say(greeting(members(5, 1, 2, 3)))
    assert reply == AcceptorGreeting(NODE, members(5, 1, 2, 3), Term(0))
    assert effects == (KeepControlFile(keeper.acceptor.state.kept),)


def test_a_lower_or_equal_generation_is_ignored() -> None:
    keeper = Keeper()
    keeper.say(greeting(members(5, 1, 2, 3)))
    for stale in (members(4, 3), members(5, 3, 4), NO_CONFIGURATION):
        reply, effects = keeper.say(greeting(stale))
        assert reply == AcceptorGreeting(NODE, members(5, 1, 2, 3), Term(0))
        assert not effects


def test_a_configuration_without_this_keeper_is_refused() -> None:
    """Invariant 19."""
    refuses(Keeper().acceptor, greeting(members(5, 1, 2)), NotMember)


# -- vote ---------------------------------------------------------------------------------------------------


def test_a_vote_is_given_once_per_term() -> None:
    keeper = Keeper()
    assert keeper.vote(7).vote_given
    assert not keeper.vote(7).vote_given
    assert not keeper.vote(6).vote_given
    assert keeper.vote(8).vote_given


def test_a_vote_is_kept_before_it_can_be_spoken() -> None:
    keeper = Keeper()
    intent = keeper.acceptor.decide(VoteRequest(NO_GENERATION, Term(4)))
    (effect,) = intent.effects
    assert isinstance(effect, KeepControlFile)
    assert effect.control_file.term == 4
    with pytest.raises(DiskFull):
        intent.keep(Disk(full_at=0))
    assert keeper.acceptor.state.term == 0


def test_a_refused_vote_keeps_nothing_and_tells_the_term() -> None:
    """Invariant 17."""
    keeper = Keeper()
    keeper.vote(7)
    reply, effects = keeper.say(VoteRequest(NO_GENERATION, Term(3)))
    assert isinstance(reply, VoteResponse)
    assert (reply.term, reply.vote_given, list(effects)) == (7, False, [])


def test_a_vote_is_given_whatever_the_log_says(keeper: Keeper) -> None:
    keeper.append(START, 3)
    assert keeper.vote(2).vote_given


def test_a_vote_reports_the_end_of_the_last_whole_record_and_the_history_up_to_it(keeper: Keeper) -> None:
    torn = wal(2)[: RECORD + 8]
    keeper.say(AppendRun(NO_GENERATION, Term(1), START, Lsn(START + len(torn)), Lsn(0), Lsn(0), (torn,)))
    reply = keeper.vote(2)
    assert reply.flush_lsn == lsn(1)
    assert reply.term_history == TermHistory.of((1, START))


def test_another_generation_gets_no_vote_no_election_and_no_append(keeper: Keeper) -> None:
    keeper.say(greeting(members(5, 3)))
    refuses(keeper.acceptor, VoteRequest(Generation(4), Term(9)), WrongGeneration)
    refuses(keeper.acceptor, VoteRequest(Generation(6), Term(9)), WrongGeneration)
    elected = ProposerElected(NO_GENERATION, Term(1), START, TermHistory.of((1, START)))
    refuses(keeper.acceptor, elected, WrongGeneration)
    refuses(keeper.acceptor, run(START, 1), WrongGeneration)


# -- elected ------------------------------------------------------------------------------------------------


def test_a_first_leader_settles_where_the_timeline_starts() -> None:
    """Invariant 12."""
    keeper = Keeper()
    keeper.vote(1)
    effects = keeper.elect(1)
    assert [type(effect) for effect in effects] == [InitializeFirstSegment, TruncateWal, KeepControlFile]
    kept = keeper.acceptor.state.kept
    assert kept.timeline_start_lsn == kept.local_start_lsn == kept.peer_horizon_lsn == START
    assert kept.commit_lsn == kept.backup_lsn == kept.remote_consistent_lsn == START
    assert kept.term_history == TermHistory.of((1, START))


def test_term_truncation_and_history_are_kept_in_this_order() -> None:
    """Hazards T5 and C5: what a crash between two of them leaves is as after a vote, or a history cut by its WAL."""
    keeper = Keeper()
    effects = keeper.elect(4, START, TermHistory.of((4, START)))
    terms = [e.control_file.term for e in effects if isinstance(e, KeepControlFile)]
    histories = [e.control_file.term_history for e in effects if isinstance(e, KeepControlFile)]
    assert [type(e) for e in effects] == [
        KeepControlFile,
        InitializeFirstSegment,
        TruncateWal,
        KeepControlFile,
    ]
    assert terms == [4, 4]
    assert histories == [TermHistory(), TermHistory.of((4, START))]


def test_wal_that_starts_with_a_segment_needs_no_made_up_headers() -> None:
    keeper = Keeper()
    start = Lsn(0x1300000)
    effects = keeper.elect(1, start)
    assert TruncateWal(start, NO_TLI) in effects
    assert not any(isinstance(effect, InitializeFirstSegment) for effect in effects)


def test_a_timeline_made_by_an_operator_gets_its_first_headers_too() -> None:
    control_file = new_control_file(
        TTID, SERVER, (0, 0), configuration=NO_CONFIGURATION, start_lsn=START, commit_lsn=START
    )
    keeper = Keeper(control_file)
    effects = keeper.elect(1, START, TermHistory.of((0, START), (1, START)))
    assert InitializeFirstSegment(START, TimelineNumber(1)) in effects


def test_a_leader_of_a_lower_term_is_ignored(keeper: Keeper) -> None:
    """Invariants 5 and 17."""
    keeper.vote(5)
    before = keeper.acceptor.state
    assert not keeper.elect(4)
    assert keeper.acceptor.state == before


def test_a_leader_must_stream_from_where_the_logs_part(keeper: Keeper) -> None:
    """Invariant 11."""
    keeper.append(START, 4)
    keeper.vote(2)
    history = TermHistory.of((1, START), (2, lsn(2)))
    refuses(keeper.acceptor, ProposerElected(NO_GENERATION, Term(2), lsn(3), history), WrongDivergence)
    effects = keeper.elect(2, lsn(2), history)
    assert TruncateWal(lsn(2), TimelineNumber(1)) in effects
    assert keeper.acceptor.state.flush_lsn == lsn(2)


def test_a_leader_that_shares_no_term_starts_at_its_own_beginning(keeper: Keeper) -> None:
    keeper.append(START, 4)
    keeper.vote(3)
    keeper.elect(3, START, TermHistory.of((2, START), (3, lsn(9))))
    assert keeper.acceptor.state.flush_lsn == START


def test_committed_wal_is_never_truncated(keeper: Keeper) -> None:
    """Invariant 10."""
    keeper.append(START, 4, commit=lsn(4))
    keeper.vote(2)
    elected = ProposerElected(NO_GENERATION, Term(2), lsn(2), TermHistory.of((1, START), (2, lsn(2))))
    refuses(keeper.acceptor, elected, TruncatesCommitted)


@pytest.mark.parametrize("history", [TermHistory(), TermHistory.of((1, 0))])
def test_a_history_that_starts_nowhere_is_malformed(history: TermHistory) -> None:
    refuses(Keeper().acceptor, ProposerElected(NO_GENERATION, Term(1), Lsn(0), history), Malformed)


def test_one_term_with_two_starts_is_refused(keeper: Keeper) -> None:
    history = TermHistory.of((1, START + 8), (2, lsn(5)))
    refuses(keeper.acceptor, ProposerElected(NO_GENERATION, Term(2), lsn(5), history), HistoryConflict)


def test_a_leader_that_comes_back_keeps_what_is_there(keeper: Keeper) -> None:
    keeper.append(START, 4)
    history = TermHistory.of((1, START))
    assert not keeper.elect(1, lsn(4), history)
    keeper.restart()
    assert TruncateWal(lsn(4), TimelineNumber(1)) in keeper.elect(1, lsn(4), history)
    assert keeper.append(lsn(4), 1).flush_lsn == lsn(5)


def test_the_log_counts_as_the_leaders_only_from_its_start_on(keeper: Keeper) -> None:
    keeper.append(START, 2)
    keeper.vote(2)
    keeper.elect(2, lsn(2), TermHistory.of((1, START), (2, lsn(4))))
    assert keeper.acceptor.state.last_log_term == 1
    keeper.append(lsn(2), 1, term=2)
    assert keeper.acceptor.state.last_log_term == 1
    keeper.append(lsn(3), 1, term=2)
    assert keeper.acceptor.state.last_log_term == 2


# -- append -------------------------------------------------------------------------------------------------


def test_wal_is_written_and_synced_before_it_is_reported(keeper: Keeper) -> None:
    """Invariants 22 and 23."""
    reply, effects = keeper.say(run(START, 2))
    assert [type(effect) for effect in effects] == [WriteWal, SyncWal]
    assert isinstance(reply, AppendResponse)
    assert reply.flush_lsn == lsn(2)


def test_a_record_is_reported_when_it_is_whole(keeper: Keeper) -> None:
    data = wal(1)
    first, second = data[:20], data[20:]
    middle = Lsn(START + 20)
    reply, _ = keeper.say(AppendRun(NO_GENERATION, Term(1), START, middle, Lsn(0), Lsn(0), (first,)))
    assert isinstance(reply, AppendResponse)
    assert reply.flush_lsn == START
    reply, _ = keeper.say(AppendRun(NO_GENERATION, Term(1), middle, lsn(1), Lsn(0), Lsn(0), (second,)))
    assert isinstance(reply, AppendResponse)
    assert reply.flush_lsn == lsn(1)


def test_an_append_of_a_lower_term_hears_the_term_and_nothing_else(keeper: Keeper) -> None:
    keeper.vote(5)
    before = keeper.acceptor.state
    assert keeper.append(START, 1) == AppendResponse(NO_GENERATION, Term(5))
    assert keeper.acceptor.state == before


def test_an_append_before_the_election_is_refused(keeper: Keeper) -> None:
    refuses(keeper.acceptor, run(START, 1, term=2), NotElected)


def test_rewriting_and_skipping_are_refused_even_when_empty(keeper: Keeper) -> None:
    """Invariant 6."""
    keeper.append(START, 2)
    for records in (0, 1):
        refuses(keeper.acceptor, run(lsn(1), records), WalRewrite)
        refuses(keeper.acceptor, run(lsn(3), records), WalGap)


def test_what_is_no_wal_is_refused_before_it_is_written(keeper: Keeper) -> None:
    """Invariant 25: what is on disk could have come from a leader."""
    garbage = AppendRun(NO_GENERATION, Term(1), START, lsn(1), Lsn(0), Lsn(0), (bytes(RECORD),))
    refuses(keeper.acceptor, garbage, Malformed)


def test_nothing_is_written_after_a_restart_until_the_leader_has_said_where(keeper: Keeper) -> None:
    """Invariant 27."""
    keeper.append(START, 2)
    keeper.restart()
    refuses(keeper.acceptor, run(lsn(2), 1), TruncationPending)
    assert keeper.append(lsn(2)).flush_lsn == lsn(2)


def test_a_commit_is_never_beyond_what_is_here(keeper: Keeper) -> None:
    keeper.append(START, 2, commit=lsn(9))
    assert keeper.acceptor.state.ahead.commit_lsn == lsn(2)


def test_a_commit_of_zero_and_an_older_one_are_no_news(keeper: Keeper) -> None:
    keeper.append(START, 4, commit=lsn(3))
    keeper.append(lsn(4), commit=INVALID_LSN)
    keeper.append(lsn(4), commit=lsn(1))
    assert keeper.acceptor.state.ahead.commit_lsn == lsn(3)


def test_a_keeper_is_whole_when_it_has_everything_up_to_its_leaders_commit() -> None:
    keeper = Keeper(is_whole=False)
    keeper.vote(1)
    keeper.elect(1)
    keeper.append(START, 2)
    keeper.append(lsn(2), 1, commit=lsn(4))
    states = [keeper.acceptor.state]
    _, effects = keeper.say(run(lsn(3), 1, commit=lsn(4)))
    states.append(keeper.acceptor.state)
    assert [state.is_whole for state in states] == [False, True]
    assert [type(effect) for effect in effects] == [WriteWal, SyncWal, BecomeWhole]
    _, effects = keeper.say(run(lsn(4), commit=lsn(4)))
    assert effects == []


def test_a_leader_that_names_no_commit_makes_nobody_whole() -> None:
    keeper = Keeper(is_whole=False)
    keeper.vote(1)
    keeper.elect(1)
    keeper.append(START, 2)
    assert not keeper.acceptor.state.is_whole


def test_replies_carry_the_commit_that_is_on_disk(keeper: Keeper) -> None:
    assert keeper.append(START, 4, commit=lsn(3)).commit_lsn == START
    keeper.say(Checkpoint())
    assert keeper.append(lsn(4)).commit_lsn == lsn(3)


def test_a_commit_that_reaches_the_leaders_start_is_kept_at_once(keeper: Keeper) -> None:
    keeper.append(START, 4)
    keeper.vote(2)
    keeper.elect(2, lsn(4), TermHistory.of((1, START), (2, lsn(4))))
    assert keeper.append(lsn(4), term=2, commit=lsn(4)).commit_lsn == lsn(4)
    assert keeper.append(lsn(4), 2, term=2, commit=lsn(6)).commit_lsn == lsn(4)


def test_the_horizon_only_rises(keeper: Keeper) -> None:
    keeper.append(START, 4, commit=lsn(3), truncate=lsn(2))
    keeper.append(lsn(4), truncate=lsn(1))
    assert keeper.acceptor.state.ahead.peer_horizon_lsn == lsn(2)
    assert keeper.vote(2).truncate_lsn == lsn(2)


def test_the_horizon_never_is_beyond_what_is_committed(keeper: Keeper) -> None:
    keeper.append(START, 4, commit=lsn(3), truncate=lsn(4))
    assert keeper.acceptor.state.ahead.peer_horizon_lsn == lsn(3)


def test_wal_of_another_postgresql_timeline_is_refused() -> None:
    keeper = Keeper()
    start = Lsn(0x1300000)
    keeper.vote(1)
    keeper.elect(1, start)
    first = pack("<HHIQI4xQII", 0xD110, 2, 1, start, 0, 77, SEGMENT, 8192) + wal((8192 - 40) // RECORD)
    first += pack("<IIQBB2xI", 24, 0, 0, 0, 10, 0)  # fills the page
    assert len(first) == 8192
    page = Lsn(start + 8192)
    _, effects = keeper.say(AppendRun(NO_GENERATION, Term(1), start, page, Lsn(0), Lsn(0), (first,)))
    assert effects[0] == WriteWal(start, (first,), TimelineNumber(1))
    second = pack("<HHIQI4x", 0xD110, 0, 2, page, 0) + wal(1)
    end = Lsn(page + len(second))
    refuses(keeper.acceptor, AppendRun(NO_GENERATION, Term(1), page, end, Lsn(0), Lsn(0), (second,)), Malformed)


def test_wal_that_does_not_say_its_postgresql_timeline_is_refused() -> None:
    keeper = Keeper()
    start = Lsn(0x1300000)
    keeper.vote(1)
    keeper.elect(1, start)
    short = AppendRun(NO_GENERATION, Term(1), start, Lsn(start + 20), Lsn(0), Lsn(0), (bytes(20),))
    refuses(keeper.acceptor, short, Malformed)


# -- checkpoints, envelopes, creation -----------------------------------------------------------------------


def test_a_checkpoint_saves_what_has_run_ahead_and_is_free_when_nothing_has(keeper: Keeper) -> None:
    keeper.append(START, 4, commit=lsn(3), truncate=lsn(2))
    assert keeper.acceptor.state.is_ahead
    _, effects = keeper.say(Checkpoint())
    assert effects == (KeepControlFile(keeper.acceptor.state.kept),)
    kept = keeper.acceptor.state.kept
    assert (kept.commit_lsn, kept.peer_horizon_lsn) == (lsn(3), lsn(2))
    assert not keeper.say(Checkpoint())[1]


def test_whatever_is_saved_takes_along_what_has_run_ahead(keeper: Keeper) -> None:
    keeper.append(START, 4, commit=lsn(3))
    keeper.vote(2)
    assert keeper.acceptor.state.kept.commit_lsn == lsn(3)


def test_a_full_disk_at_the_first_step_has_changed_nothing_and_later_it_has(keeper: Keeper) -> None:
    keeper.append(START, 4)
    keeper.vote(2)
    intent = keeper.acceptor.decide(
        ProposerElected(NO_GENERATION, Term(3), lsn(4), TermHistory.of((1, START), (3, lsn(4))))
    )
    assert len(intent.effects) > 1
    with pytest.raises(DiskFull):
        intent.keep(Disk(full_at=0))
    for step in range(1, len(intent.effects)):
        with pytest.raises(PartlyKept):
            intent.keep(Disk(full_at=step))


@pytest.mark.parametrize(
    ("server", "start", "commit"),
    [
        (replace(SERVER, pg_version=0), 0, 0),
        (replace(SERVER, pg_version=130002), 0, 0),
        (replace(SERVER, wal_seg_size=0), 0, 0),
        (replace(SERVER, wal_seg_size=3 << 20), 0, 0),
        (replace(SERVER, wal_seg_size=2 << 30), 0, 0),
        (SERVER, START + 8, START),
        (SERVER, START, START + 8),
        (SERVER, 0, START),
        (SERVER, START, 0),
        (SERVER, START + 4, START + 4),
        (SERVER, 5 * SEGMENT + 24, 5 * SEGMENT + 24),
        (SERVER, 5 * SEGMENT + 8192 + 16, 5 * SEGMENT + 8192 + 16),
    ],
)
def test_a_timeline_that_cannot_be_kept_is_not_created(server: ServerInfo, start: int, commit: int) -> None:
    with pytest.raises(InvalidTimeline):
        new_control_file(
            TTID, server, (0, 0), configuration=NO_CONFIGURATION, start_lsn=Lsn(start), commit_lsn=Lsn(commit)
        )


@pytest.mark.parametrize(
    "start", [0, START, 5 * SEGMENT, 5 * SEGMENT + 40, 5 * SEGMENT + 8192, 5 * SEGMENT + 8192 + 24]
)
def test_a_timeline_may_be_created_wherever_a_record_can_begin(start: int) -> None:
    begin = Lsn(start)
    kept = new_control_file(
        TTID, SERVER, (0, 0), configuration=NO_CONFIGURATION, start_lsn=begin, commit_lsn=begin
    )
    assert (kept.timeline_start_lsn, kept.local_start_lsn, kept.commit_lsn) == (begin, begin, begin)
    assert Keeper(kept).acceptor.state.flush_lsn == begin
