"""Fuzz targets: what servers answer to a client of ours, what operators write, and what HTTP clients ask for."""

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import trio

from fuzz.target import Target
from fuzz.wire import authentication_seeds, pieces
from walkeeper.control.catching_up import what_is_known
from walkeeper.control.models import CreateTimelineJson, configuration_of, parse_json
from walkeeper.control.neighbours import Neighbour
from walkeeper.control.patches import PatchJson
from walkeeper.control.positions import read_positions
from walkeeper.daemon.leave import what_is_missing
from walkeeper.errors import ConfigError, Malformed, PeerError, ServerError, Unreachable
from walkeeper.formats.authentication import AuthenticationSaslContinue
from walkeeper.formats.backend import (
    BackendMessage,
    Column,
    CommandComplete,
    CopyBothResponse,
    DataRow,
    ErrorResponse,
    ReadyForQuery,
    RowDescription,
    parse_backend_message,
)
from walkeeper.formats.control_file import ControlFile, encode_control_file, parse_control_file
from walkeeper.formats.frames import FrameParser, encode_frame
from walkeeper.formats.frontend import CopyData
from walkeeper.formats.proposer import encode_proposer_message
from walkeeper.formats.replication import PrimaryKeepalive, encode_keepalive, encode_xlog_data_head
from walkeeper.formats.segments import is_legal_segment_size
from walkeeper.formats.session import WELCOME
from walkeeper.formats.startup import StartupMessage
from walkeeper.ids import NodeId, TenantId, TenantTimelineId, TimelineId, TimelineNumber
from walkeeper.links.address import HttpAddress, parse_keepers
from walkeeper.links.conninfo import ConnectionInfo, parse_conninfo
from walkeeper.links.keeper import PROTOCOL_VERSION, ask_server, ask_standing, identify
from walkeeper.links.link import FLOOD_BYTES_MAX
from walkeeper.links.login import Login
from walkeeper.links.passfile import _search
from walkeeper.links.postgres import Connection
from walkeeper.links.primary import Primary, examine, find_flaws, first_lsn_to_keep, flaw_of_standby_names
from walkeeper.links.wal_stream import WalStream
from walkeeper.lsn import Lsn, parse_lsn
from walkeeper.membership import NO_CONFIGURATION, Configuration, Generation, Member
from walkeeper.messages import ProposerGreeting, ServerInfo, Slice
from walkeeper.sidecar.slot import Slot
from walkeeper.terms import Term, TermHistory
from walkeeper.tools.status import _ask_keeper

SERVER = ServerInfo(170002, 7241562384010203040, 16 << 20)
SERVER_ERRORS = (PeerError, ServerError, Unreachable, ConfigError)


class SaidBefore:
    """A link whose peer has said all that it will say, and hears nothing."""

    pending_bytes = received_bytes = sent_bytes = 0

    def __init__(self, said: Iterator[bytes]) -> None:
        self._said = said

    def try_receive(self, bytes_max: int = FLOOD_BYTES_MAX) -> bytes | None:
        return next(self._said, b"")

    async def receive(self, bytes_max: int = FLOOD_BYTES_MAX) -> bytes:
        return next(self._said, b"")

    def send_soon(self, *pieces: Slice) -> None:
        pass

    async def wait_sent(self) -> None:
        pass

    def give_up_after(self, seconds: float) -> None:
        pass

    async def send_eof(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


class Silence:
    """A log that nobody reads."""

    def info(self, event: str, **fields: object) -> None:
        pass

    def warning(self, event: str, **fields: object) -> None:
        pass

    def error(self, event: str, **fields: object) -> None:
        pass


def hearing(ask: Callable[[Connection], Awaitable[object]], *, logged_in: bool = True) -> Callable[[bytes], None]:
    """A target: a client that asks a server, which has already said what it will."""

    def feed(data: bytes) -> None:
        trio.run(_hear, ask, data, logged_in)

    return feed


async def _hear(ask: Callable[[Connection], Awaitable[object]], data: bytes, logged_in: bool) -> None:
    welcome = [b"".join(reply.encode() for reply in WELCOME)] if logged_in else []
    connection = Connection("server", SaidBefore(iter([*welcome, *pieces(data)])))
    if logged_in:
        await connection.log_in(ConnectionInfo("server"), {})
    await ask(connection)


# -- what is asked --------------------------------------------------------------------------------------------


async def log_in(connection: Connection) -> None:
    await connection.log_in(ConnectionInfo("server", password="secret"), {"replication": "true"})


async def ask_primary(connection: Connection) -> None:
    primary = await examine(connection)
    greet(primary.server)
    await find_flaws(connection, "walkeeper")
    await Slot(connection, ConnectionInfo("server"), "walkeeper", 17, unsafe=False).check()


def greet(server: ServerInfo) -> None:
    """What a server says of itself must be such that keepers can be told of it."""
    ttid = TenantTimelineId.of_system(server.system_id)
    encode_proposer_message(ProposerGreeting(ttid, NO_CONFIGURATION, server), PROTOCOL_VERSION)
    assert is_legal_segment_size(server.wal_seg_size)


async def ask_history(connection: Connection) -> None:
    await first_lsn_to_keep(connection, Primary(SERVER, TimelineNumber(3), Lsn(1 << 40)), Lsn(0), Lsn(1 << 40))


async def ask_keeper(connection: Connection) -> None:
    kept = await identify(connection)
    await ask_standing(connection, kept)
    server = await ask_server(connection)
    greet(server if kept is None else replace(server, system_id=kept.system_id))


async def ask_status(connection: Connection) -> None:
    told = await _ask_keeper(connection)
    parse_lsn(told.flush_lsn)
    parse_lsn(told.commit_lsn)


async def stream(connection: Connection) -> None:
    """WAL is contiguous, or not at all; a server that is done says so."""
    await connection.start_copy("START_REPLICATION 0/8")
    source = WalStream(connection, Lsn(8))
    with suppress(Unreachable):  # so it ends
        while True:
            begun = source.next_lsn
            delivery = await source.receive()
            assert delivery.begin_lsn == begun
            assert source.next_lsn == begun + sum(map(len, delivery.slices))


def answer(*values: str | None) -> bytes:
    """One row in answer to a query."""
    messages = (RowDescription((Column("a"),) * len(values)), DataRow.of(*values), CommandComplete("SELECT 1"))
    return b"".join(message.encode() for message in (*messages, ReadyForQuery()))


def refusal(sqlstate: str, message: str) -> bytes:
    return ErrorResponse(message, sqlstate).encode() + ReadyForQuery().encode()


def in_pieces(*said: bytes) -> list[bytes]:
    return [bytes([size]) + each for size in (0, 60) for each in said]


SYSTEM = answer("7241562384010203040", "1", "0/16B3748", None)
STATUS = '{"flush_lsn":"0/2","commit_lsn":"0/1","node_id":1,"term":2,"is_whole":true,"receivers":[],"senders":[]}'


def primary_seeds() -> list[bytes]:
    examined = answer("170002") + SYSTEM + answer("16MB")
    settings = answer("on") + answer('FIRST 1 ("walkeeper", other)')
    return in_pieces(
        examined + settings + answer("physical", "0/1000000", "1"), examined + answer("off") + answer("*")
    )


def keeper_seeds() -> list[bytes]:
    server = answer("170002") + answer("16MB")
    return in_pieces(SYSTEM + answer("whole") + server, refusal("42704", "was not found") + server)


def status_seeds() -> list[bytes]:
    return in_pieces(answer(STATUS), refusal("42601", "unsupported") + answer("0/2", "0/1"))


def history_seeds() -> list[bytes]:
    return in_pieces(answer("00000003.history", "1\t0/3000000\tno reason\n\n2\t0/5000000\tpromoted\n"))


def stream_seeds() -> list[bytes]:
    wal = CopyData(encode_xlog_data_head(Lsn(8), Lsn(16), 0) + b"12345678").encode()
    alive = CopyData(encode_keepalive(PrimaryKeepalive(Lsn(16), 0, reply_requested=True))).encode()
    return in_pieces(CopyBothResponse().encode() + wal + alive + CommandComplete("COPY").encode())


def login_seeds() -> list[bytes]:
    requests = [encode_frame(b"R", body) for body in authentication_seeds()]
    welcome = b"".join(reply.encode() for reply in WELCOME)
    return in_pieces(
        *(request + welcome for request in requests), requests[2] + requests[4], refusal("28P01", "no")
    )


# -- proofs ---------------------------------------------------------------------------------------------------

NONCE = b"<nonce>"
"""Stands for the nonce of the client, which is another each time."""

ITERATIONS_DIGITS_MAX = 5
"""More are slow, as they are meant to be; that there is a limit is a test of its own."""


def feed_login(data: bytes) -> None:
    """A password, a user and what a server asks for, each in one frame."""
    password, user, said = [*data.split(b"\n", 2), b"", b""][:3]
    info = ConnectionInfo(
        "server", user=user.decode(errors="replace") or "u", password=password.decode(errors="surrogateescape")
    )
    login, nonce = Login(info, None), b""
    for request in requests_in(said):
        if isinstance(request, AuthenticationSaslContinue):
            if len(request.data.rpartition(b"i=")[2]) > ITERATIONS_DIGITS_MAX:
                return
            reply = login.answer(AuthenticationSaslContinue(request.data.replace(NONCE, nonce)))
        else:
            reply = login.answer(request)
        if reply is not None:
            nonce = reply.data.rpartition(b"r=")[2]


def requests_in(said: bytes) -> Iterator[BackendMessage]:
    parser = FrameParser()
    parser.feed(said)
    while (frame := parser.next_frame()) is not None:
        yield parse_backend_message(frame)


def proof_seeds() -> list[bytes]:
    sasl, first = authentication_seeds()[4], b"r=" + NONCE + b"server,s=c2FsdHNhbHRzYWx0,i=4096"
    exchange = [sasl, (11).to_bytes(4, "big") + first, (12).to_bytes(4, "big") + b"v=" + b"A" * 43 + b"="]
    scram = b"".join(encode_frame(b"R", body) for body in exchange)
    others = [encode_frame(b"R", body) for body in authentication_seeds()]
    return [b"secret\nu\n" + said for said in (scram, *others)]


# -- what operators write -------------------------------------------------------------------------------------


def feed_conninfo(data: bytes) -> None:
    """Whatever was accepted can be sent, and looked up in a file system."""
    info = parse_conninfo(data.decode(errors="surrogateescape"), {"HOME": "/nowhere"}, login="login")
    StartupMessage({"user": info.user, "database": info.dbname, "options": info.options}).encode()
    assert 0 < info.port < 65536
    assert 0 < info.connect_timeout_seconds < float("inf")
    assert info.passfile is None or not os.path.isdir(info.passfile)


def feed_passfile(data: bytes) -> None:
    """The first line says who connects; the password is in the others."""
    who, _, text = data.decode(errors="surrogateescape").partition("\n")
    found = _search(text, tuple([*who.split(":"), "", "", ""][:4]))
    assert found is None or all(character in text for character in found)


def feed_keepers(data: bytes) -> None:
    """ValueError is the contract."""
    try:
        found = parse_keepers(data.decode(errors="surrogateescape"))
    except ValueError:
        return
    assert parse_keepers(",".join(map(str, found))) == found


def feed_setting(data: bytes) -> None:
    """The value of synchronous_standby_names."""
    flaw_of_standby_names(data.decode(errors="replace"), "walkeeper")


CONNINFO = (
    b"host=db port=5433 user=keeper dbname='a b' password='it\\'s' sslmode=require connect_timeout=3",
    b"postgresql://keeper:s%3Acret@[::1]:5433/app?sslmode=verify-full&passfile=x",
    b"postgres://%2Fvar%2Frun/app",
)
PASSFILE = (b"db:5432:replication:u\n# comment\ndb:*:replication:u:se\\:cret\n", b"a\\:b:1:c:d\n*:*:*:*:x")


# -- HTTP -----------------------------------------------------------------------------------------------------


def feed_create(data: bytes) -> None:
    wanted = parse_json(data, CreateTimelineJson)
    configuration_of(wanted.mconf)
    parse_lsn(wanted.start_lsn)
    parse_lsn(wanted.commit_lsn or "0/0")
    assert str(wanted.ttid.tenant_id) == wanted.tenant_id.lower()
    assert wanted.server.wal_seg_size >= 0


CREATE = b"""{"tenant_id":"0123456789abcdef0123456789abcdef","timeline_id":"0123456789abcdef0123456789abcdef",
"mconf":{"generation":1,"members":[{"id":1,"host":"a","pg_port":5454}],"new_members":null},
"pg_version":170002,"start_lsn":"0/16B3748","system_id":7,"wal_seg_size":16777216,"commit_lsn":"0/0"}"""


def feed_patch(data: bytes) -> None:
    """What a patch makes of a control file can be written, and read again."""
    control_file = parse_json(data, PatchJson).apply(PATCHED)
    if control_file.configuration.generation:  # else not all of it is in the file
        assert parse_control_file(encode_control_file(control_file)) == control_file


PATCHED = ControlFile(
    TenantTimelineId(TenantId(bytes(16)), TimelineId(bytes(range(16)))),
    ServerInfo(170002, 7, 1 << 24),
    configuration=Configuration(Generation(1), (Member(NodeId(1), "a", 5454),)),
    term=Term(2),
    term_history=TermHistory.of((1, 0x1000028), (2, 0x1000100)),
    commit_lsn=Lsn(0x1000100),
)
PATCH = (
    b"""{"updates":{"mconf":{"generation":2,"members":[{"id":1,"host":"a","pg_port":1}],"new_members":[]},
"backup_lsn":"0/1000100","proposer_uuid":"0123456789abcdef0123456789abcdef","eviction_state":{"Offloaded":"0/1000100"},
"partial_backup":{"segments":[{"status":"Uploaded","name":"x","commit_lsn":"0/1","flush_lsn":"0/2","term":1}]},
"creation_ts":{"secs_since_epoch":1,"nanos_since_epoch":2}},"apply_fields":["mconf","backup_lsn","proposer_uuid",
"eviction_state","partial_backup","creation_ts"]}""",
    b"""{"updates":{"acceptor_state":{"term":7,"term_history":[{"term":1,"lsn":"0/1"},{"term":7,"lsn":"0/2"}]},
"server":{"pg_version":170002,"system_id":7,"wal_seg_size":16777216}},"apply_fields":["acceptor_state","server"]}""",
)


def feed_positions(data: bytes) -> None:
    """What another keeper tells can be added up."""
    trio.run(_add_up, data)


async def _add_up(data: bytes) -> None:
    said = await read_positions(data)
    other = Neighbour(HttpAddress("k2", 7676), said, "", said.timelines)
    assert len(await what_is_known([other])) <= len(said.timelines)
    assert len(what_is_missing([other], 1)) <= 200


POSITIONS = b"""{"id":2,"instance":"x","state":"leaving","is_ready":false,"is_caught_up":true,"takes_wal":true,"timelines":[
{"tenant_id":"0123456789abcdef0123456789abcdef","timeline_id":"0123456789abcdef0123456789abcdef","start_lsn":"0/16B3748",
"flush_lsn":"0/16B3750","commit_lsn":"0/16B3750","commit_term":1,"is_whole":true,"generation":1,"members":[1,2,3]}]}"""

TARGETS = (
    Target("login", hearing(log_in, logged_in=False), SERVER_ERRORS, login_seeds),
    Target("primary", hearing(ask_primary), SERVER_ERRORS, primary_seeds),
    Target("history", hearing(ask_history), SERVER_ERRORS, history_seeds),
    Target("keeper", hearing(ask_keeper), SERVER_ERRORS, keeper_seeds),
    Target("status", hearing(ask_status), SERVER_ERRORS, status_seeds),
    Target("stream", hearing(stream), SERVER_ERRORS, stream_seeds),
    Target("proof", feed_login, (PeerError, ConfigError), proof_seeds),
    Target("conninfo", feed_conninfo, (ConfigError,), lambda: CONNINFO),
    Target("passfile", feed_passfile, (), lambda: PASSFILE),
    Target("keepers", feed_keepers, (), lambda: [b"a:5454,b,[::1]:5455", b"a,a", b"127.0.0.1:0"]),
    Target("standby-names", feed_setting, (), lambda: [b'ANY 1 ("a""b", walkeeper)', b"*"]),
    Target("create", feed_create, (Malformed,), lambda: [CREATE]),
    Target("positions", feed_positions, (Malformed,), lambda: [POSITIONS]),
    Target("patch", feed_patch, (Malformed,), lambda: PATCH),
)
