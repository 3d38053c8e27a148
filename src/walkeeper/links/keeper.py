"""Connections to one keeper: where it is, what it knows of a timeline, and the streams it opens.

Source: Neon's safekeeper protocol (START_WAL_PUSH, START_REPLICATION with a term, IDENTIFY_SYSTEM).
"""

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

from walkeeper.errors import (
    AccessDenied,
    ConfigError,
    Malformed,
    MustUseTls,
    NotEncrypted,
    PeerError,
    ServerError,
    Unreachable,
)
from walkeeper.formats.commands import (
    INCOMPLETE,
    NODE_ID,
    STANDING,
    WHOLE,
    StartWalPush,
    encode_start_recovery,
    encode_start_wal_push,
)
from walkeeper.formats.segments import parse_segment_size
from walkeeper.formats.sizes import parse_unsigned
from walkeeper.formats.startup import encode_options
from walkeeper.ids import NodeId, TenantTimelineId, TimelineNumber
from walkeeper.links.address import Address
from walkeeper.links.conninfo import ConnectionInfo
from walkeeper.links.keeper_tls import with_keeper_tls
from walkeeper.links.login import LoginRefused, PasswordMissing
from walkeeper.links.postgres import Connection, Row, connect
from walkeeper.links.token import read_token
from walkeeper.links.wal_stream import WalStream
from walkeeper.lsn import Lsn, parse_lsn
from walkeeper.messages import ServerInfo
from walkeeper.terms import Term

PROTOCOL_VERSION: Final = 3

_UNDEFINED_OBJECT: Final = "42704"
_NOT_FOUND: Final = "was not found"
"""How a keeper says that it has no such timeline.  Neon's has no SQLSTATE of its own for it, but these words."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What can be done about a keeper that is of no help.

    ``is_unseen``: it is we who are not let in, or speak to somebody else; the keeper may be well.
    """

    remedy: str
    is_unseen: bool = False


ABSENT: Final = Advice("start it, or look at its address, its network and its log")
FINAL: Final = Advice("put right what it says: it will say the same again")
FAILED: Final = Advice("its log says more")
TOKEN: Final = Advice("give a token that is good there: --auth-token-path", is_unseen=True)
TRUST: Final = Advice(
    "give the certificate of its authority: --keeper-sslrootcert; with verify-full its own has to name this address",
    is_unseen=True,
)
CERTIFICATE: Final = Advice(
    "give one that it trusts, and its key: --keeper-sslcert, --keeper-sslkey", is_unseen=True
)
FILES: Final = Advice(
    "put right --keeper-sslmode, --keeper-sslrootcert, --keeper-sslcert or --keeper-sslkey", is_unseen=True
)
ENCRYPT: Final = Advice("--keeper-sslmode require, or one that verifies", is_unseen=True)
PORT: Final = Advice("give the address of a keeper's --listen-pg", is_unseen=True)

_ALERTS: Final = {
    "CERTIFICATE_REQUIRED": "it asks for a certificate: --keeper-sslcert",
    "ALERT_UNKNOWN_CA": "it does not trust our certificate: --keeper-sslcert",
}
"""What OpenSSL calls the goodbye of a keeper that wants to know who we are; and what we call it."""

_LOGIN_SQLSTATES: Final = ("28P01", "28000", "42501")


class KeptOut(Unreachable):
    """TLS or our token do not come about as the keeper, or whoever started us, wants it: another attempt may do better."""

    def __init__(self, server: str, why: str, advice: Advice) -> None:
        super().__init__(server, why)
        self.advice = advice


def advise(error: Exception) -> Advice:
    """What to do about ``error``, which came of asking a keeper."""
    match error:
        case KeptOut():
            return error.advice
        case PasswordMissing():
            return TOKEN
        case LoginRefused() if error.said.sqlstate in _LOGIN_SQLSTATES:
            return TOKEN
        case ServerError() if AccessDenied.said in error.message:
            return TOKEN
        case ServerError() if str(MustUseTls()) in error.message:
            return ENCRYPT
        case PeerError():
            return PORT
        case ConfigError():
            return FINAL
        case ServerError():
            return FAILED
        case _:
            return ABSENT


@asynccontextmanager
async def connect_keeper(
    address: Address, ttid: TenantTimelineId | None, application_name: str
) -> AsyncIterator[Connection]:
    """A connection for ``ttid``; None: for what is asked of the keeper itself.

    Raises as ``connect`` does, but KeptOut, which is Unreachable, while there is no token to be read or no TLS.

    Certificates are exchanged meanwhile, here and there, and one keeper's must not end what others could go on with.
    """
    name = f"keeper {address}"
    try:
        token = read_token()
    except ConfigError as error:  # there was one at the start: somebody is about to replace it
        raise KeptOut(name, str(error), TOKEN) from error
    info = ConnectionInfo(
        address.host,
        address.port,
        user="walkeeper",
        password=token,
        dbname="replication",
        application_name=application_name,
        options="" if ttid is None else encode_options(ttid),
    )
    async with AsyncExitStack() as stack:
        with _told_as_a_keepers(name):  # but not what comes of the block, be it of another keeper
            connection = await stack.enter_async_context(connect(with_keeper_tls(info), name))
        yield connection


@contextmanager
def _told_as_a_keepers(name: str) -> Iterator[None]:
    """Have what keeps us out be told in the words of the options for keepers, not of libpq."""
    try:
        yield
    except NotEncrypted as error:
        advice = TRUST if isinstance(error.__cause__, ssl.SSLCertVerificationError) else FILES
        raise KeptOut(name, str(error).removeprefix(name).lstrip(": "), advice) from error
    except PasswordMissing as error:
        raise PasswordMissing(f"{name} asks for a token: --auth-token-path") from error
    except LoginRefused as error:
        if error.said.sqlstate not in _LOGIN_SQLSTATES:
            raise
        raise LoginRefused(error.said, "check the token (--auth-token-path)") from error
    except Unreachable as error:
        why = next((why for alert, why in _ALERTS.items() if alert in error.why), "")
        if not why:
            raise
        raise KeptOut(name, why, CERTIFICATE) from error


_NOT_UNDERSTOOD: Final = ("42601", "XX000")
"""The SQLSTATEs of a question that a keeper does not know: ours before it did, and Neon's."""


@dataclass(frozen=True, slots=True)
class KeptTimeline:
    """What a keeper has of a timeline.  ``end_lsn`` is 0 while it has no WAL; ``tli`` is PostgreSQL's timeline id."""

    system_id: int
    tli: TimelineNumber
    end_lsn: Lsn


async def identify(connection: Connection) -> KeptTimeline | None:
    """What the keeper has of the connection's timeline, None if it never heard of it.

    Raises ServerError, and Malformed for an answer that means nothing.
    """
    try:
        return await connection.ask("IDENTIFY_SYSTEM", _read_kept_timeline)
    except ServerError as error:
        if error.sqlstate == _UNDEFINED_OBJECT or _NOT_FOUND in error.message:
            return None
        raise


def _read_kept_timeline(row: Row) -> KeptTimeline:
    return KeptTimeline(*read_system(row))


def read_system(row: Row) -> tuple[int, TimelineNumber, Lsn]:
    """The answer to IDENTIFY_SYSTEM: system identifier, PostgreSQL's timeline id, and where the WAL ends.

    Raises ValueError or Malformed.
    """
    system_id, tli, end_lsn, _ = row
    number = TimelineNumber(parse_unsigned(tli or "0", 32))
    return parse_unsigned(system_id or "0", 64), number, parse_lsn(end_lsn or "0/0")


async def ask_node_id(connection: Connection) -> NodeId | None:
    """Which keeper it is, None if it does not know the question, as Neon's.  Raises Malformed."""
    try:
        return await connection.show(NODE_ID, lambda text: NodeId(parse_unsigned(text, 64)))
    except ServerError:
        return None


async def ask_version(connection: Connection) -> int:
    """server_version_num.  Raises as ``Connection.show`` does."""
    return await connection.show("server_version_num", lambda text: parse_unsigned(text, 32))


async def ask_standing(connection: Connection, kept: KeptTimeline | None) -> bool | None:
    """Whether the keeper, of which ``identify`` says ``kept``, is whole; None if it does not know the question.

    A timeline that does not exist is about to be made.  Raises ServerError and Malformed.
    """
    if kept is None:
        return False
    try:
        rows = await connection.query(f"SHOW {STANDING}")
    except ServerError as error:
        if error.sqlstate in _NOT_UNDERSTOOD:
            return None
        raise
    if rows not in ([(WHOLE,)], [(INCOMPLETE,)]):
        raise Malformed(f"{connection.name}: SHOW {STANDING} answered {rows}")
    return rows == [(WHOLE,)]


async def ask_server(connection: Connection) -> ServerInfo:
    """The server whose WAL the keeper has for the connection's timeline, without its system id.

    Raises ServerError from a keeper that does not answer SHOW, as Neon's, and Malformed.
    """
    version = await ask_version(connection)
    return ServerInfo(version, 0, await connection.show("wal_segment_size", parse_segment_size))


async def start_push(connection: Connection) -> None:
    """Begin to propose.  A timeline that does not exist is created.  Raises ServerError."""
    await connection.start_copy(
        encode_start_wal_push(StartWalPush(PROTOCOL_VERSION, allow_timeline_creation=True))
    )


async def start_recovery(connection: Connection, begin_lsn: Lsn, term: Term) -> WalStream:
    """WAL from ``begin_lsn`` on, committed or not, for the leader of ``term``.  Raises ServerError."""
    await connection.start_copy(encode_start_recovery(begin_lsn, term))
    return WalStream(connection, begin_lsn)
