"""What a keeper has promised before its power was lost, and whether what is left of its disk keeps that.

Promises are heard at the keeper's end of its connections, so also those count that nobody received.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from keeping import SEGMENT, SERVER, START, TTID
from tortured import KEEPER, Keeper, Writer
from walkeeper.acceptor.state import AcceptorState
from walkeeper.errors import TimelineUnavailable
from walkeeper.formats.frames import FrameParser
from walkeeper.formats.proposer import parse_acceptor_message
from walkeeper.formats.segments import next_segment_start, segment_offset
from walkeeper.formats.xlog import first_segment_headers
from walkeeper.ids import FIRST_TLI
from walkeeper.links.keeper import PROTOCOL_VERSION
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.messages import (
    AcceptorGreeting,
    AcceptorMessage,
    AppendRequest,
    AppendResponse,
    ProposerElected,
    ProposerMessage,
    VoteRequest,
    VoteResponse,
)
from walkeeper.storage.disk import Disk
from walkeeper.storage.reader import WalReader
from walkeeper.storage.recovery import CONTROL_FILE, INCOMPLETE, LEFTOVERS
from walkeeper.storage.spare import SPARE, SPARE_BEING_MADE
from walkeeper.storage.wal import Segment, segments_in
from walkeeper.terms import INITIAL_TERM, Term, TermHistory
from walkeeper.testing.machine import directory_of
from walkeeper.testing.network import MemoryLink

DIRECTORY = directory_of(TTID)


@dataclass
class Promises:
    """``leaders``: whose WAL it may have.  ``state``: what it knew of itself when it last spoke."""

    leaders: list[Writer]
    is_made: bool = False
    term: Term = INITIAL_TERM
    asked_term: Term = INITIAL_TERM
    voted: set[Term] = field(default_factory=set)
    flush_lsn: Lsn = INVALID_LSN
    commit_lsn: Lsn = INVALID_LSN
    told_commit: Lsn = INVALID_LSN
    state: AcceptorState | None = None

    def all(self) -> tuple[Hashable, ...]:
        """Everything that is held against a disk."""
        said = (self.is_made, self.term, frozenset(self.voted), self.flush_lsn, self.commit_lsn, self.state)
        return (*said, self.asked_term, self.told_commit)

    def copy(self) -> "Promises":
        return replace(self, leaders=list(self.leaders), voted=set(self.voted))

    # -- listening --------------------------------------------------------------------------------------------

    def listen_to(self, keeper: Keeper) -> None:
        """Hear everything that the keeper says from now on."""

        def connected(_client: MemoryLink, server: MemoryLink) -> None:
            if server.here.name == KEEPER.host:
                parser = FrameParser()
                server.overhear = lambda _link, data: self._overhear(keeper, parser, data)

        keeper.network.on_connect = connected

    def _overhear(self, keeper: Keeper, parser: FrameParser, data: bytes) -> None:
        if data == b"N":  # no TLS here
            return
        parser.feed(data)
        while (frame := parser.next_frame()) is not None:
            if frame.tag == b"d":
                self._hear(parse_acceptor_message(frame.body, PROTOCOL_VERSION))
                try:
                    self.state = keeper.timeline.require_state()
                except TimelineUnavailable:
                    pass

    def _hear(self, reply: AcceptorMessage) -> None:
        assert reply.term >= self.term  # invariant 1
        self.term, self.is_made = reply.term, True
        match reply:
            case VoteResponse(vote_given=True):
                assert reply.term not in self.voted  # invariant 2
                self.voted.add(reply.term)
                self.flush_lsn = reply.flush_lsn
            case AppendResponse() if reply.flush_lsn:
                self.flush_lsn = reply.flush_lsn
                self.commit_lsn = max(self.commit_lsn, reply.commit_lsn)
            case AcceptorGreeting() | VoteResponse() | AppendResponse():
                pass

    def hear_said(self, messages: Sequence[ProposerMessage]) -> None:
        """What a proposer says may make the keeper forget, and how far it may go without a word."""
        for message in messages:
            match message:
                case VoteRequest():
                    self.asked_term = max(self.asked_term, message.term)
                case ProposerElected():
                    self.asked_term = max(self.asked_term, message.term)
                    self.flush_lsn = min(self.flush_lsn, message.start_streaming_at)
                case AppendRequest():
                    self.told_commit = max(self.told_commit, message.commit_lsn)
                case _:
                    pass

    # -- what leaders have written ----------------------------------------------------------------------------

    def parts(self, history: TermHistory, end_lsn: Lsn) -> Iterator[tuple[Writer, Lsn, Lsn]]:
        """Who has written what of a log of that history, up to ``end_lsn``."""
        leaders = {leader.term: leader for leader in self.leaders}
        bounds = [*(entry.lsn for entry in history.entries[1:]), end_lsn]
        for entry, bound in zip(history.entries, bounds, strict=False):
            if entry.lsn < min(bound, end_lsn):
                yield leaders[entry.term], entry.lsn, min(bound, end_lsn)

    def wal(self, history: TermHistory, begin_lsn: Lsn, end_lsn: Lsn) -> bytes:
        """What a log of that history has in [begin_lsn, end_lsn), which begins at START at the earliest."""
        pieces = [
            leader.wal.between(max(begin, begin_lsn), end)
            for leader, begin, end in self.parts(history, end_lsn)
            if end > begin_lsn
        ]
        return b"".join(pieces)


def check_started(keeper: Keeper, promises: Promises) -> None:
    """A keeper that was started on what is left of its disk has what it had promised."""
    assert not keeper.timelines.shut()  # invariants 32 and 43
    assert keeper.timelines.all() or not promises.is_made
    if keeper.timelines.all():
        check_kept(keeper.disk, keeper.timeline.require_state(), promises)


def check_kept(disk: Disk, state: AcceptorState, promises: Promises) -> None:
    """What was read from a disk is what was promised, and nothing that was never said."""
    assert promises.term <= state.term <= max(promises.term, promises.asked_term)  # invariants 1 and 3
    assert state.wal.flush_lsn >= promises.flush_lsn  # invariants 7 and 30
    assert promises.commit_lsn <= state.kept.commit_lsn <= state.flush_lsn  # invariants 8, 9 and 16
    if promises.state is not None:
        check_not_behind(promises.state, state)
    if state.is_whole and not (promises.state and promises.state.is_whole):
        assert INVALID_LSN < promises.told_commit <= state.flush_lsn  # invariant 47
    check_wal(disk, promises, state)


def check_not_behind(before: AcceptorState, after: AcceptorState) -> None:
    """What a keeper knew of itself when it spoke was on its disk (invariant 22); later it may only have learnt more."""
    was, now = before.kept, after.kept
    assert after.is_whole or not before.is_whole  # invariant 47
    assert now.configuration.generation >= was.configuration.generation  # invariant 18
    assert now.timeline_start_lsn == was.timeline_start_lsn or not was.timeline_start_lsn  # invariant 12
    assert now.local_start_lsn == was.local_start_lsn or not was.local_start_lsn
    assert now.commit_lsn >= was.commit_lsn  # invariant 9
    assert now.peer_horizon_lsn >= was.peer_horizon_lsn
    assert now.term_history.last_term >= was.term_history.last_term


def check_wal(disk: Disk, promises: Promises, state: AcceptorState) -> None:
    assert not LEFTOVERS & set(disk.names(DIRECTORY))
    end_lsn, history = state.wal.flush_lsn, state.term_history
    written = promises.wal(history, START, end_lsn)
    ends = {record.end for leader, _, _ in promises.parts(history, end_lsn) for record in leader.wal.records}
    assert end_lsn in {INVALID_LSN, START, *ends}  # invariant 24
    assert read_wal(disk, end_lsn) == written  # invariant 25
    for segment in segments_in(disk, DIRECTORY, SEGMENT):
        if not segment.is_partial:
            check_complete(disk, segment, promises, history, end_lsn)


def check_complete(disk: Disk, segment: Segment, promises: Promises, history: TermHistory, end_lsn: Lsn) -> None:
    """A file without the suffix is whole and holds nothing but WAL up to its end (invariant 28)."""
    begin = Lsn(segment.segno * SEGMENT)
    content = read_file(disk, segment.path.name)
    assert len(content) == SEGMENT
    head = first_segment_headers(START, server=SERVER, tli=FIRST_TLI) if begin < START else b""
    logs = [(history, end_lsn), *((leader.history, leader.wal.lsn) for leader in promises.leaders)]
    possible = [
        promises.wal(log, max(begin, START), min(end, Lsn(begin + SEGMENT))) for log, end in logs if end > begin
    ]
    assert content in [(head + wal).ljust(SEGMENT, b"\0") for wal in possible]


def check_tidy(disk: Disk, lsn: Lsn) -> None:
    """Behind the end of the WAL there is nothing, and every name is what it should be (invariants 26 and 28)."""
    segments = segments_in(disk, DIRECTORY, SEGMENT)
    assert segments[-1].segno == lsn // SEGMENT
    offset = segment_offset(lsn, SEGMENT)
    assert read_file(disk, segments[-1].path.name)[offset:] == bytes(SEGMENT - offset)
    assert [segment.is_partial for segment in segments] == [False] * (len(segments) - 1) + [True]
    names = {CONTROL_FILE, *(segment.path.name for segment in segments)}
    assert set(disk.names(DIRECTORY)) - {INCOMPLETE, SPARE, SPARE_BEING_MADE} == names


def read_file(disk: Disk, name: str) -> bytes:
    with disk.open(DIRECTORY / name) as file:
        return file.pread(file.size(), 0)


def read_wal(disk: Disk, end_lsn: Lsn) -> bytes:
    """What a sender would read from START on."""
    reader, wal, lsn = WalReader(disk, DIRECTORY, SEGMENT), bytearray(), START
    while lsn < end_lsn:
        wal += reader.read(lsn, min(end_lsn, next_segment_start(lsn + 1, SEGMENT)) - lsn, FIRST_TLI)
        lsn = Lsn(START + len(wal))
    return bytes(wal)
