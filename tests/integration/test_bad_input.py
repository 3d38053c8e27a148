"""Bad input from the network: the peer hears a code, it is counted and told in the log, and nothing else has changed.

One keeper with one timeline serves all tests of this file; each test ends with a look at whether it still does.
"""

import json
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from struct import pack
from typing import Any
from urllib.request import urlopen

import pytest

import postgres
from keeper_client import Client, Refused, connect
from programs import ANSWER_SECONDS, Keeper
from stored_wal import StoredTimeline
from walkeeper.formats.backend import CopyBothResponse, ErrorResponse
from walkeeper.formats.frames import FRAME_BYTES_MAX, encode_frame
from walkeeper.formats.frontend import CopyFail, Query
from walkeeper.formats.proposer import encode_proposer_message
from walkeeper.formats.startup import StartupMessage
from walkeeper.ids import NodeId, TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import INVALID_LSN, Lsn, format_lsn
from walkeeper.membership import NO_CONFIGURATION, NO_GENERATION, Configuration, Generation, Member
from walkeeper.messages import (
    APPEND_BYTES_MAX,
    AppendRequest,
    AppendResponse,
    ProposerElected,
    ProposerGreeting,
    ProposerMessage,
    VoteRequest,
    VoteResponse,
)
from walkeeper.terms import Term, TermHistory
from writer import Writer

PROTOCOL_VIOLATION = "08P01"
SYNTAX_ERROR = "42601"
UNDEFINED_OBJECT = "42704"
UNDEFINED_FILE = "58P01"
NOT_IN_PREREQUISITE_STATE = "55000"
SUCCESSFUL_COMPLETION = "00000"
FEATURE_NOT_SUPPORTED = "0A000"

MIB = 1 << 20
GROWTH_BYTES_MAX = 24 * MIB
"""How much a keeper may grow under a flood: its inbox may pin 16 MiB, and Python's allocator keeps some more."""

FLOOD_BYTES = 64 * MIB
DEAF_BYTES = 4096  # of answers that the kernel keeps for whoever does not read them

IDLE_STRANGERS = 200

TTID = TenantTimelineId(TenantId(b"\xaa" * 16), TimelineId(b"\xbb" * 16))
NOBODYS = TenantTimelineId(TenantId(b"\xaa" * 16), TimelineId(b"\xcc" * 16))
START = Lsn(0x0300_0000)


@dataclass(slots=True)
class Scene:
    """The keeper, its timeline, and the writer that wrote it."""

    keeper: Keeper
    writer: Writer

    @property
    def stored(self) -> StoredTimeline:
        return StoredTimeline.of(self.keeper.data, TTID, MIB)

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.keeper.log.splitlines()]

    def refusals(self) -> float:
        """How many requests it has refused so far."""
        with urlopen(f"http://127.0.0.1:{self.keeper.http_port}/metrics", timeout=ANSWER_SECONDS) as answer:
            text = answer.read().decode()
        return sum(
            float(value) for value in re.findall(r"^walkeeper_refusals_total\{.*\} (.*)$", text, re.MULTILINE)
        )

    def client(self) -> Client:
        return Client(self.keeper.pg_port)

    def resident_bytes(self) -> int:
        (line,) = [
            line
            for line in Path(f"/proc/{self.keeper.pid}/status").read_text().splitlines()
            if line.startswith("VmRSS:")
        ]
        return int(line.split()[1]) * 1024


@pytest.fixture(scope="module")
def served() -> Iterator[Scene]:
    """A keeper with a timeline in which one term has written."""
    with postgres.workspace() as directory:
        pg_port, http_port = postgres.free_ports(2)
        with Keeper.prepare(directory, 1, pg_port, http_port, "--log-format", "json") as keeper:
            keeper.start()
            keeper.wait_ready()
            scene = Scene(keeper, Writer(TTID, start_lsn=START, seed=7))
            with scene.client() as client:
                scene.writer.lead(client, scene.writer.win(client), START)
                scene.writer.append(client, 300_000)
                scene.writer.hear_all(client)
                scene.writer.heartbeat(client)  # says that all of it is committed
                scene.writer.hear(client)
            yield scene


@pytest.fixture
def scene(served: Scene) -> Iterator[Scene]:
    """The same, with the proof that a test has changed nothing and hurt nobody."""
    before = served.stored.control_bytes
    begin_lsn, end_lsn = START, served.writer.promised_lsn
    wal = served.stored.wal(begin_lsn, end_lsn + 1000)
    names = directory_names(served.keeper.data)
    yield served
    assert served.stored.control_bytes == before
    assert served.stored.wal(begin_lsn, end_lsn + 1000) == wal
    assert directory_names(served.keeper.data) == names
    with served.client() as client:
        client.start_up(TTID)
        ((flush_lsn, _),) = client.query("TIMELINE_STATUS")
        assert flush_lsn == format_lsn(end_lsn)


def directory_names(data: Path) -> set[str]:
    return {str(path.relative_to(data)) for path in data.rglob("*")}


def complaints(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that say that something was wrong."""
    return [line for line in lines if line["level"] != "info"]


@contextmanager
def one_complaint(scene: Scene) -> Iterator[None]:
    """The block makes the keeper complain once: counted, and told in a line without a traceback unless there were many."""
    before, refusals = len(scene.log_lines()), scene.refusals()
    yield
    assert scene.refusals() == refusals + 1
    lines = complaints(scene.log_lines()[before:])
    assert len(lines) <= 1
    for line in lines:
        assert line["level"] == "warning"
        assert line["error"]
        assert "exception" not in line


@contextmanager
def no_complaint_in_the_log(scene: Scene) -> Iterator[None]:
    """The block is nothing that anybody has to know."""
    before = len(scene.log_lines())
    yield
    assert complaints(scene.log_lines()[before:]) == []


def assert_refused_and_closed(client: Client, sqlstate: str) -> None:
    """The last thing that is said is an error with this code."""
    last = client.last_words()[-1]
    assert isinstance(last, ErrorResponse)
    assert last.sqlstate == sqlstate
    assert last.message


# ---------------------------------------------------------------------------------------------- before startup

STARTUP_3_0 = pack(">I", 0x30000)


def startup_packet(body: bytes) -> bytes:
    return pack(">I", 4 + len(body)) + body


def startup_with_options(options: str) -> bytes:
    return StartupMessage({"user": "test", "options": options}).encode()


STRANGE_BEGINNINGS = {
    "garbage": b"GET / HTTP/1.1\r\nHost: keeper\r\n\r\n",
    "a startup packet that is too long": pack(">I", 10_001) + STARTUP_3_0,
    "a startup packet that claims two gigabytes": pack(">I", 0x7FFFFFFF) + STARTUP_3_0,
    "a startup packet that is too short": pack(">I", 4),
    "an unknown request code": startup_packet(pack(">HH", 1234, 9999)),
    "parameters without an end": startup_packet(STARTUP_3_0 + b"user\0test"),
    "parameters that are not text": startup_packet(STARTUP_3_0 + b"user\0\xff\xfe\0\0"),
    "a tenant id that is not hexadecimal": startup_with_options(f"-c tenant_id={'x' * 32} timeline_id={'1' * 32}"),
    "a timeline id that is too short": startup_with_options(f"-c tenant_id={'1' * 32} timeline_id={'1' * 31}"),
    "half a startup packet": StartupMessage({"user": "test"}).encode()[:-5],
}


@pytest.mark.parametrize("beginning", STRANGE_BEGINNINGS.values(), ids=STRANGE_BEGINNINGS)
def test_a_stranger_that_begins_wrongly_is_told_so_and_sent_away(beginning: bytes, scene: Scene) -> None:
    with one_complaint(scene), scene.client() as client:
        client.send(beginning)
        client.end()
        assert_refused_and_closed(client, PROTOCOL_VIOLATION)


def test_a_connection_that_ends_before_it_says_anything_is_no_news(scene: Scene) -> None:
    with no_complaint_in_the_log(scene), scene.client() as client:
        client.end()
        assert client.last_words() == []


def test_strangers_that_say_nothing_keep_nobody_out(scene: Scene) -> None:
    before = scene.resident_bytes()
    with ExitStack() as stack:
        for _ in range(IDLE_STRANGERS):
            stack.enter_context(connect(scene.keeper.pg_port))
        with scene.client() as client:
            client.start_up(TTID)
            assert client.query("TIMELINE_STATUS")
        assert scene.resident_bytes() - before < GROWTH_BYTES_MAX


# --------------------------------------------------------------------------------------------------- queries

BAD_COMMANDS = {
    "no command": ("", SYNTAX_ERROR),
    "an unknown command": ("DROP TABLE accounts", SYNTAX_ERROR),
    "a command with NULs and noise": ("\x01\x02\u20ac" * 1000, SYNTAX_ERROR),
    "an unknown setting": ("SHOW data_directory", SYNTAX_ERROR),
    "a push option without a value": ("START_WAL_PUSH (proto_version)", SYNTAX_ERROR),
    "a push version that is no number": ("START_WAL_PUSH (proto_version 'new')", SYNTAX_ERROR),
    "a push that may perhaps create": ("START_WAL_PUSH (allow_timeline_creation 'perhaps')", SYNTAX_ERROR),
    "a replication without a position": ("START_REPLICATION", SYNTAX_ERROR),
    "a replication from nowhere": ("START_REPLICATION PHYSICAL 0/123456789", SYNTAX_ERROR),
}


@pytest.mark.parametrize(("text", "sqlstate"), BAD_COMMANDS.values(), ids=BAD_COMMANDS)
def test_a_bad_command_is_refused_and_the_connection_goes_on(text: str, sqlstate: str, scene: Scene) -> None:
    with scene.client() as client:
        client.start_up(TTID)
        with one_complaint(scene), pytest.raises(Refused) as refused:
            client.query(text)
        assert refused.value.sqlstate == sqlstate
        assert client.query("TIMELINE_STATUS")


@pytest.mark.parametrize(
    "text", ["START_WAL_PUSH", "IDENTIFY_SYSTEM", "START_REPLICATION PHYSICAL 0/0", "TIMELINE_STATUS"]
)
def test_a_command_about_a_timeline_needs_ids(text: str, scene: Scene) -> None:
    with one_complaint(scene), scene.client() as client:
        client.start_up(None)
        with pytest.raises(Refused) as refused:
            client.query(text)
        assert refused.value.sqlstate == SYNTAX_ERROR


@pytest.mark.parametrize("text", ["IDENTIFY_SYSTEM", "START_REPLICATION PHYSICAL 0/3000000"])
def test_a_timeline_that_is_not_here_is_undefined(text: str, scene: Scene) -> None:
    with scene.client() as client:
        client.start_up(NOBODYS)
        with pytest.raises(Refused) as refused:
            client.query(text)
        assert refused.value.sqlstate == UNDEFINED_OBJECT


@pytest.mark.parametrize(
    "wanted", ["0/1000000", "0/3000000 TIMELINE 2"], ids=["from before the timeline", "of another timeline id"]
)
def test_wal_that_is_not_here_is_an_undefined_file(wanted: str, scene: Scene) -> None:
    with one_complaint(scene), scene.client() as client:
        client.start_up(TTID)
        client.send(Query(f"START_REPLICATION PHYSICAL {wanted}").encode())
        assert_refused_and_closed(client, UNDEFINED_FILE)


def test_an_extended_query_is_not_supported_and_the_connection_goes_on(scene: Scene) -> None:
    parse, sync = encode_frame(b"P", b"\0SELECT 1\0\0\0"), encode_frame(b"S", b"")
    with scene.client() as client:
        client.start_up(TTID)
        client.send(parse + sync)
        refusal = client.next_message()
        assert isinstance(refusal, ErrorResponse)
        assert refusal.sqlstate == FEATURE_NOT_SUPPORTED
        client.next_message()  # ReadyForQuery
        assert client.query("TIMELINE_STATUS")


BAD_FRAMES = {
    "a frame that claims two gigabytes": b"Q" + pack(">I", 0x7FFFFFFF) + b"SELECT",
    "a frame that claims less than its own length": b"Q" + pack(">I", 3),
    "a frame just above the limit": b"Q" + pack(">I", FRAME_BYTES_MAX) + b"SELECT",
    "an unknown kind of frame": encode_frame(b"\x00", b""),
    "a query without its end": encode_frame(b"Q", b"SELECT 1"),
    "a query that is not text": encode_frame(b"Q", b"\xff\xfe\0"),
    "data outside of a copy": encode_frame(b"d", b"data"),
    "half a query": b"Q" + pack(">I", 100) + b"SELECT",
}


@pytest.mark.parametrize("frame", BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_a_bad_frame_is_told_and_ends_the_connection(frame: bytes, scene: Scene) -> None:
    with one_complaint(scene), scene.client() as client:
        client.start_up(TTID)
        client.send(frame)
        client.end()
        assert_refused_and_closed(client, PROTOCOL_VIOLATION)


# ------------------------------------------------------------------------------------------------- proposers


def greeting(scene: Scene, **changes: Any) -> ProposerGreeting:
    return replace(ProposerGreeting(TTID, NO_CONFIGURATION, scene.writer.server), **changes)


def server(scene: Scene, **changes: int) -> Any:
    return replace(scene.writer.server, **changes)


def append(scene: Scene, *, distance: int = 0, wal: bytes = b"", **changes: Any) -> AppendRequest:
    """An append by the current leader, at this distance from the end of the keeper's WAL."""
    writer = scene.writer
    begin_lsn = Lsn(writer.sent_lsn + distance)
    end_lsn = Lsn(begin_lsn + len(wal))
    request = AppendRequest(NO_GENERATION, writer.term, begin_lsn, end_lsn, INVALID_LSN, INVALID_LSN, wal)
    return replace(request, **changes)


Words = Callable[[Scene], ProposerMessage | bytes]

WRONG_FIRST_WORDS: dict[str, tuple[Words, str]] = {
    "an append": (append, PROTOCOL_VIOLATION),
    "a vote": (lambda scene: VoteRequest(NO_GENERATION, Term(9)), PROTOCOL_VIOLATION),
    "a greeting that is cut off": (lambda scene: encoded(greeting(scene))[:-3], PROTOCOL_VIOLATION),
    "a greeting in protocol 2": (lambda scene: encode_proposer_message(greeting(scene), 2), PROTOCOL_VIOLATION),
    "noise": (lambda scene: bytes(range(256)), PROTOCOL_VIOLATION),
    "nothing": (lambda scene: b"", PROTOCOL_VIOLATION),
    "another major version": (
        lambda scene: greeting(scene, server=server(scene, pg_version=160000)),
        NOT_IN_PREREQUISITE_STATE,
    ),
    "another segment size": (
        lambda scene: greeting(scene, server=server(scene, wal_seg_size=2 * MIB)),
        NOT_IN_PREREQUISITE_STATE,
    ),
    "another timeline": (lambda scene: greeting(scene, ttid=NOBODYS), NOT_IN_PREREQUISITE_STATE),
    "a configuration without this keeper": (
        lambda scene: greeting(scene, configuration=Configuration(Generation(3), (Member(NodeId(9), "k", 1),))),
        NOT_IN_PREREQUISITE_STATE,
    ),
}


@pytest.mark.parametrize(("words", "sqlstate"), WRONG_FIRST_WORDS.values(), ids=WRONG_FIRST_WORDS)
def test_a_proposer_that_greets_wrongly_is_sent_away(words: Words, sqlstate: str, scene: Scene) -> None:
    with one_complaint(scene), scene.client() as client:
        client.start_push(TTID)
        say(client, words(scene))
        assert_refused_and_closed(client, sqlstate)


WRONG_WORDS: dict[str, tuple[Words, str]] = {
    "an unknown message": (lambda scene: b"zzzz", PROTOCOL_VIOLATION),
    "a vote that is cut off": (
        lambda scene: encoded(VoteRequest(NO_GENERATION, Term(1)))[:-1],
        PROTOCOL_VIOLATION,
    ),
    "a vote of another generation": (
        lambda scene: VoteRequest(Generation(7), Term(100)),
        NOT_IN_PREREQUISITE_STATE,
    ),
    "a leader that would truncate committed WAL": (
        lambda scene: ProposerElected(NO_GENERATION, Term(100), START, TermHistory.of((1, START), (100, START))),
        NOT_IN_PREREQUISITE_STATE,
    ),
    "a leader without a history": (
        lambda scene: ProposerElected(NO_GENERATION, Term(100), START, TermHistory()),
        PROTOCOL_VIOLATION,
    ),
    "a leader whose history goes back": (
        lambda scene: (
            encoded(ProposerElected(NO_GENERATION, Term(9), START, TermHistory.of((1, START))))[:-16]
            + pack(">QQ", 1, 0)
        ),
        PROTOCOL_VIOLATION,
    ),
    "an append of a term that was not announced": (
        lambda scene: append(scene, term=Term(100)),
        NOT_IN_PREREQUISITE_STATE,
    ),
    "an append behind a gap": (
        lambda scene: append(scene, distance=8, wal=bytes(100)),
        NOT_IN_PREREQUISITE_STATE,
    ),
    "an append over WAL that is here": (
        lambda scene: append(scene, distance=-8, wal=bytes(100)),
        NOT_IN_PREREQUISITE_STATE,
    ),
    "an append of noise": (lambda scene: append(scene, wal=b"\xa5" * 10_000), PROTOCOL_VIOLATION),
    "an append that is cut off": (
        lambda scene: encoded(append(scene, wal=bytes(100)))[:-1],
        PROTOCOL_VIOLATION,
    ),
    "an append that ends before it begins": (
        lambda scene: append(scene, end_lsn=START),
        PROTOCOL_VIOLATION,
    ),
    "an append that is too long": (
        lambda scene: append(scene, wal=bytes(APPEND_BYTES_MAX + 1)),
        PROTOCOL_VIOLATION,
    ),
}


@pytest.mark.parametrize(("words", "sqlstate"), WRONG_WORDS.values(), ids=WRONG_WORDS)
def test_a_proposer_that_says_something_wrong_is_sent_away(words: Words, sqlstate: str, scene: Scene) -> None:
    with one_complaint(scene), scene.client() as client:
        greeted(client, scene)
        say(client, words(scene))
        assert_refused_and_closed(client, sqlstate)


def greeted(client: Client, scene: Scene) -> None:
    client.start_push(TTID)
    client.say(greeting(scene))
    client.hear()


def say(client: Client, words: ProposerMessage | bytes) -> None:
    client.send(encode_frame(b"d", words if isinstance(words, bytes) else encoded(words)))


def encoded(message: ProposerMessage) -> bytes:
    return encode_proposer_message(message, 3)


WHOLE_BAD_FRAMES = {name: frame for name, frame in BAD_FRAMES.items() if name != "half a query"}


@pytest.mark.parametrize("frame", WHOLE_BAD_FRAMES.values(), ids=WHOLE_BAD_FRAMES)
def test_a_bad_frame_in_a_copy_is_told_and_ends_the_connection(frame: bytes, scene: Scene) -> None:
    with one_complaint(scene), scene.client() as client:
        greeted(client, scene)
        client.send(frame)
        assert_refused_and_closed(client, PROTOCOL_VIOLATION)


def test_of_a_stream_that_is_cut_off_inside_an_append_nothing_is_kept(scene: Scene) -> None:
    frame = encode_frame(b"d", encoded(append(scene, wal=bytes(5000))))
    with no_complaint_in_the_log(scene), scene.client() as client:
        greeted(client, scene)
        client.send(frame[:-1])
        client.end()
        assert client.last_words() == []


def test_a_proposer_that_fails_its_copy_hears_that_it_was_heard(scene: Scene) -> None:
    with no_complaint_in_the_log(scene), scene.client() as client:
        greeted(client, scene)
        client.send(CopyFail("had enough").encode())
        assert_refused_and_closed(client, SUCCESSFUL_COMPLETION)


def test_a_protocol_version_that_nobody_speaks_is_refused(scene: Scene) -> None:
    with one_complaint(scene), scene.client() as client:
        client.start_up(TTID)
        client.send(Query("START_WAL_PUSH (proto_version '9')").encode())
        say(client, greeting(scene))
        assert_refused_and_closed(client, PROTOCOL_VIOLATION)


def test_a_stale_writer_hears_the_newer_term_and_changes_nothing(scene: Scene) -> None:
    stale, current = Term(scene.writer.term - 1), scene.writer.term
    with no_complaint_in_the_log(scene), scene.client() as client:
        greeted(client, scene)
        client.say(VoteRequest(NO_GENERATION, current))
        vote = client.hear()
        assert isinstance(vote, VoteResponse)
        assert (vote.term, vote.vote_given) == (current, False)
        client.say(ProposerElected(NO_GENERATION, stale, START, TermHistory.of((stale, START))))
        client.say(append(scene, term=stale, wal=bytes(100)))
        assert client.hear() == AppendResponse(NO_GENERATION, current)


@pytest.mark.parametrize("changes", [{"wal_seg_size": 12345}, {"pg_version": 90624}, {"pg_version": 0}], ids=str)
def test_a_timeline_that_could_not_be_kept_is_not_made(changes: dict[str, int], scene: Scene) -> None:
    with one_complaint(scene), scene.client() as client:
        client.start_push(NOBODYS)
        say(client, greeting(scene, ttid=NOBODYS, server=server(scene, **changes)))
        assert_refused_and_closed(client, NOT_IN_PREREQUISITE_STATE)


def test_a_timeline_that_must_not_be_made_is_not_made(scene: Scene) -> None:
    with scene.client() as client:
        client.start_up(NOBODYS)
        client.send(Query("START_WAL_PUSH (proto_version '3', allow_timeline_creation 'false')").encode())
        say(client, greeting(scene, ttid=NOBODYS))
        assert [type(message) for message in client.last_words()] == [CopyBothResponse]


# ---------------------------------------------------------------------------------------------------- floods


@pytest.mark.parametrize("beginning", [b"GET / HTTP/1.1", b""], ids=["a stranger", "a client"])
def test_what_a_peer_sends_after_it_was_refused_is_not_kept(beginning: bytes, scene: Scene) -> None:
    before = scene.resident_bytes()
    with scene.client() as client:
        if not beginning:
            client.start_up(TTID)
        client.send(beginning or BAD_FRAMES["a frame that claims two gigabytes"])
        client.flood(bytes(FLOOD_BYTES))
        assert scene.resident_bytes() - before < GROWTH_BYTES_MAX


def test_a_proposer_that_does_not_listen_costs_little_memory_and_keeps_nobody_out(scene: Scene) -> None:
    before = scene.resident_bytes()
    vote = encode_frame(b"d", encoded(VoteRequest(NO_GENERATION, Term(0))))
    with Client(scene.keeper.pg_port, room_bytes=DEAF_BYTES) as client:
        greeted(client, scene)
        client.flood(vote * (FLOOD_BYTES // len(vote)))
        assert scene.resident_bytes() - before < GROWTH_BYTES_MAX
        with scene.client() as other:
            other.start_up(TTID)
            assert other.query("TIMELINE_STATUS")


# ------------------------------------------------------------------------------------------------------ HTTP

KNOWN = f"/v1/tenant/{TTID.tenant_id}/timeline/{TTID.timeline_id}"
TRICKS = {
    "a path that climbs": f"/v1/tenant/{'..%2f' * 8}etc/timeline/passwd",
    "ids of dots": "/v1/tenant/../timeline/..",
    "an id with a NUL": f"{KNOWN}%00",
    "an id that goes on": f"{KNOWN}%2f..",
    "an id of other digits": f"/v1/tenant/{'%D9%A1' * 32}/timeline/{TTID.timeline_id}",
    "an id that is no UTF-8": f"/v1/tenant/%ff%fe/timeline/{TTID.timeline_id}",
    "an endless path": "/v1/tenant/" + "a" * 12_000,
    "an empty id": "/v1/tenant//timeline/",
}


def ask_http(scene: Scene, head: str, body: bytes = b"") -> int:
    """The status of the answer."""
    with socket.create_connection(("127.0.0.1", scene.keeper.http_port), ANSWER_SECONDS) as sock:
        request = f"{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(request.encode() + body)
        with sock.makefile("rb") as answer:
            return int(answer.readline().split()[1])


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("path", TRICKS.values(), ids=TRICKS)
def test_a_path_that_is_no_timelines_leads_nowhere(path: str, method: str, scene: Scene) -> None:
    assert ask_http(scene, f"{method} {path}") in (400, 404)
    assert ask_http(scene, f"GET {KNOWN}") == 200


@pytest.mark.parametrize(
    "body", [b"{" * 1000, bytes(2 * MIB), b"[" * 900_000], ids=["no JSON", "too large", "deep"]
)
def test_a_body_that_is_none_is_refused(body: bytes, scene: Scene) -> None:
    before = scene.resident_bytes()
    assert ask_http(scene, "POST /v1/tenant/timeline", body) in (400, 413)
    assert scene.resident_bytes() - before < GROWTH_BYTES_MAX
