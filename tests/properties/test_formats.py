"""The wire formats against generated input: round trips, any split of the bytes, and garbage."""

import itertools
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from fuzz.wire import run_fields
from walkeeper.formats.backend import (
    BackendMessage,
    Column,
    CommandComplete,
    CopyBothResponse,
    DataRow,
    ErrorResponse,
    RowDescription,
    parse_backend_message,
)
from walkeeper.formats.frames import FrameParser, encode_frame
from walkeeper.formats.frontend import CopyData, Query
from walkeeper.formats.proposer import (
    coalesce,
    encode_acceptor_message,
    encode_proposer_message,
    parse_acceptor_message,
    parse_proposer_message,
)
from walkeeper.formats.replication import (
    StandbyStatusUpdate,
    encode_standby_message,
    parse_standby_message,
)
from walkeeper.formats.session import WELCOME, ServerSession
from walkeeper.formats.startup import StartupMessage, parse_startup_packet
from walkeeper.ids import NodeId, TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import NO_CONFIGURATION, NO_GENERATION, Configuration, Generation, Member
from walkeeper.messages import (
    AcceptorGreeting,
    AcceptorMessage,
    AppendRequest,
    AppendResponse,
    AppendRun,
    HotStandbyFeedback,
    PageserverFeedback,
    ProposerElected,
    ProposerGreeting,
    ProposerMessage,
    ServerInfo,
    VoteRequest,
    VoteResponse,
    join_runs,
)
from walkeeper.terms import Term, TermHistory, TermLsn

u8, u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))
i64 = st.integers(-(2**63), 2**63 - 1)
terms, lsns = u64.map(Term), u64.map(Lsn)
ids = st.binary(min_size=16, max_size=16)
texts = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)
versions = st.sampled_from([2, 3])


def grown(starts: dict[int, int]) -> TermHistory:
    pairs = zip(sorted(starts), sorted(starts.values()), strict=True)
    return TermHistory(tuple(TermLsn(Term(term), Lsn(lsn)) for term, lsn in pairs))


histories = st.dictionaries(u64, u64, max_size=4).map(grown)
leaders_histories = st.dictionaries(u64, u64, min_size=1, max_size=4).map(grown)
members = st.lists(
    st.builds(Member, u64.map(NodeId), texts, u16), unique_by=lambda one: one.id, min_size=1, max_size=3
).map(tuple)
configurations = st.just(NO_CONFIGURATION) | st.builds(
    Configuration, st.integers(1, 2**32 - 1).map(Generation), members, st.none() | members
)
ttids = st.builds(TenantTimelineId, ids.map(TenantId), ids.map(TimelineId))
servers = st.builds(ServerInfo, u32, u64, u32)
full_xids = u64.map(lambda value: value if value & 0xFFFF_FFFF > 2 else 0)
hot_standby = st.builds(HotStandbyFeedback, i64, full_xids, full_xids)
pageserver = st.builds(PageserverFeedback, u64, lsns, lsns, lsns, i64, u32, st.booleans())


def append_request(
    generation: Generation, term: Term, begin: int, commit: Lsn, truncate: Lsn, wal: bytes
) -> AppendRequest:
    return AppendRequest(generation, term, Lsn(begin), Lsn(begin + len(wal)), commit, truncate, wal)


def proposer_messages_of(version: int) -> st.SearchStrategy[tuple[int, ProposerMessage]]:
    generations = GENERATIONS[version]
    greetings = {
        2: st.builds(ProposerGreeting, ttids, st.just(NO_CONFIGURATION), servers, ids),
        3: st.builds(ProposerGreeting, ttids, configurations, servers),
    }
    return st.tuples(
        st.just(version),
        st.one_of(
            greetings[version],
            st.builds(VoteRequest, generations, terms),
            st.builds(ProposerElected, generations, terms, lsns, leaders_histories),
            st.builds(
                append_request, generations, terms, st.integers(0, 2**63), lsns, lsns, st.binary(max_size=100)
            ),
        ),
    )


def acceptor_messages_of(version: int) -> st.SearchStrategy[tuple[int, AcceptorMessage]]:
    generations = GENERATIONS[version]
    configured = {2: st.just(NO_CONFIGURATION), 3: configurations}[version]
    starts = {2: lsns, 3: st.just(INVALID_LSN)}[version]
    return st.tuples(
        st.just(version),
        st.one_of(
            st.builds(AcceptorGreeting, u64.map(NodeId), configured, terms),
            st.builds(VoteResponse, generations, terms, st.booleans(), lsns, lsns, histories, starts),
            st.builds(AppendResponse, generations, terms, lsns, lsns, hot_standby, st.none() | pageserver),
        ),
    )


GENERATIONS = {2: st.just(NO_GENERATION), 3: u32.map(Generation)}
proposer_messages = proposer_messages_of(2) | proposer_messages_of(3)
acceptor_messages = acceptor_messages_of(2) | acceptor_messages_of(3)


@given(proposer_messages)
def test_proposer_messages_survive_the_wire(drawn: tuple[int, ProposerMessage]) -> None:
    version, message = drawn
    assert parse_proposer_message(encode_proposer_message(message, version), version) == message


@given(acceptor_messages)
def test_acceptor_messages_survive_the_wire(drawn: tuple[int, AcceptorMessage]) -> None:
    version, message = drawn
    assert parse_acceptor_message(encode_acceptor_message(message, version), version) == message


@given(hot_standby | pageserver | st.builds(StandbyStatusUpdate, lsns, lsns, lsns, i64, st.booleans()))
def test_standby_messages_survive_the_wire(
    message: HotStandbyFeedback | PageserverFeedback | StandbyStatusUpdate,
) -> None:
    assert parse_standby_message(memoryview(encode_standby_message(message))) == message


backend_messages = st.one_of(
    st.builds(DataRow, st.lists(st.none() | st.binary(max_size=20), max_size=4).map(tuple)),
    st.builds(
        RowDescription,
        st.lists(st.builds(Column, texts, u32, st.integers(-2, 32767)), max_size=4).map(tuple),
    ),
    st.builds(CommandComplete, texts),
    st.builds(
        ErrorResponse,
        texts,
        texts,
        texts,
        st.dictionaries(st.sampled_from("VDHPpqWstcdnFLR"), texts).map(lambda more: tuple(more.items())),
    ),
)


@given(backend_messages)
def test_server_messages_survive_the_wire(message: BackendMessage) -> None:
    parser = FrameParser()
    parser.feed(message.encode())
    frame = parser.next_frame()
    assert frame is not None
    assert parse_backend_message(frame) == message


@given(st.dictionaries(texts, texts, max_size=5))
def test_startup_messages_survive_the_wire(parameters: dict[str, str]) -> None:
    message = StartupMessage(parameters)
    assert parse_startup_packet(message.encode()[4:]) == message


# -- runs -----------------------------------------------------------------------------------------------------


@st.composite
def append_streams(draw: st.DrawFn) -> list[AppendRequest]:
    """Appends that mostly continue each other, with gaps, overlaps and changes of term now and then."""
    at, term, stream = 1000, 1, []
    for _ in range(draw(st.integers(0, 12))):
        if draw(st.integers(0, 3)) == 0:
            at += draw(st.integers(-3, 3))
            term += draw(st.integers(0, 1))
        wal = draw(st.binary(max_size=5))
        positions = Lsn(at), Lsn(at + len(wal)), Lsn(draw(u8)), Lsn(draw(u8))
        stream.append(AppendRequest(NO_GENERATION, Term(term), *positions, wal))
        at += len(wal)
    return stream


def runs_one_by_one(stream: Sequence[AppendRequest]) -> list[AppendRun]:
    """What ``coalesce`` should give, from the vocabulary alone."""
    groups: list[list[AppendRun]] = []
    for run in map(AppendRun.of, stream):
        if groups and groups[-1][-1].is_continued_by(run):
            groups[-1].append(run)
        else:
            groups.append([run])
    return [join_runs(group) for group in groups]


@given(append_streams(), versions)
def test_runs_are_the_appends_joined_where_each_continues_the_one_before(
    stream: list[AppendRequest], version: int
) -> None:
    payloads = [memoryview(encode_proposer_message(request, version)) for request in stream]
    found = list(coalesce(payloads, version))
    expected = runs_one_by_one(stream)
    assert all(isinstance(run, AppendRun) for run in found)
    assert [run_fields(run) for run in found if isinstance(run, AppendRun)] == list(map(run_fields, expected))


# -- any split of the bytes -----------------------------------------------------------------------------------


def split(stream: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[begin:end] for begin, end in itertools.pairwise(edges)]


frame_lists = st.lists(
    st.tuples(st.sampled_from([b"d", b"d", b"d", b"c", b"Z"]), st.binary(max_size=30)), max_size=12
)
cut_lists = st.lists(st.integers(0, 1000), max_size=20)


@given(frame_lists, cut_lists)
def test_any_split_of_the_bytes_gives_the_same_frames(frames: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    stream = b"".join(encode_frame(tag, body) for tag, body in frames)
    parser, found = FrameParser(), []
    for buffer in split(stream, cuts):
        parser.feed(buffer)
        while (frame := parser.next_frame()) is not None:
            found.append((frame.tag, bytes(frame.body)))
    assert found == frames
    assert parser.is_between_frames


@given(frame_lists, cut_lists)
def test_payloads_taken_many_at_a_time_are_the_same_frames(
    frames: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(encode_frame(tag, body) for tag, body in frames)
    parser, found = FrameParser(), []
    for buffer in split(stream, cuts):
        parser.feed(buffer)
        while True:
            if payloads := parser.copy_payloads():
                found += [(b"d", bytes(payload)) for payload in payloads]
            elif (frame := parser.next_frame()) is not None:
                found.append((frame.tag, bytes(frame.body)))
            else:
                break
    assert found == frames


@given(cut_lists)
def test_any_split_of_the_bytes_gives_the_same_session(cuts: list[int]) -> None:
    startup = StartupMessage({"user": "u"})
    said = (startup, Query("START_WAL_PUSH"), CopyData(b"one"), CopyData(b"two"))
    stream = b"".join(message.encode() for message in said)
    session = ServerSession()
    heard: list[object] = []
    for buffer in filter(None, split(stream, cuts)):
        session.feed(buffer)
        while (event := session.next_event()) is not None:
            heard.append(event)
            if isinstance(event, StartupMessage):
                session.send(*WELCOME)
            elif isinstance(event, Query):
                session.send(CopyBothResponse())
    assert heard == list(said)
