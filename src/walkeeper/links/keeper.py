"""Connections to one keeper: where it is, what it knows of a timeline, and the streams it opens.

Source: Neon's safekeeper protocol (START_WAL_PUSH, START_REPLICATION with a term, IDENTIFY_SYSTEM).
"""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

from walkeeper.errors import Malformed, ServerError
from walkeeper.formats.commands import (
    INCOMPLETE,
    STANDING,
    WHOLE,
    StartWalPush,
    encode_start_recovery,
    encode_start_wal_push,
)
from walkeeper.formats.sizes import parse_size
from walkeeper.formats.startup import encode_options
from walkeeper.ids import TenantTimelineId, TimelineNumber
from walkeeper.links.address import Address, parse_address
from walkeeper.links.conninfo import ConnectionInfo
from walkeeper.links.postgres import Connection, connect
from walkeeper.links.wal_stream import WalStream
from walkeeper.lsn import Lsn, parse_lsn
from walkeeper.messages import ServerInfo
from walkeeper.proposer.proposer import KEEPERS_MAX
from walkeeper.terms import Term

DEFAULT_PORT: Final = 5454
"""Where Neon's safekeepers listen, and ours."""

PROTOCOL_VERSION: Final = 3

_NOT_FOUND: Final = "was not found"
"""How a keeper says that it has no such timeline.  Neon's has no SQLSTATE of its own for it."""


def parse_keepers(text: str) -> tuple[Address, ...]:
    """``a:5454,b,[::1]:5455`` -> addresses.  Raises ValueError, also for too many and for one that is listed twice."""
    found = tuple(parse_address(each, DEFAULT_PORT) for each in text.split(","))
    if len(found) > KEEPERS_MAX:
        raise ValueError(f"at most {KEEPERS_MAX} keepers form a quorum, got {len(found)}")
    twice = next((each for each in found if found.count(each) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} is listed twice: a quorum counts each keeper once")
    if any(each.port == 0 for each in found):
        raise ValueError(f"nobody can connect to port 0: {text!r}")
    return found


def connect_keeper(
    address: Address, ttid: TenantTimelineId, application_name: str
) -> AbstractAsyncContextManager[Connection]:
    """A connection for ``ttid``.  Raises as ``connect`` does."""
    info = ConnectionInfo(
        address.host,
        address.port,
        user="walkeeper",
        dbname="replication",
        application_name=application_name,
        options=encode_options(ttid),
    )
    return connect(info, f"keeper {address}")


_NOT_UNDERSTOOD: Final = ("42601", "XX000")
"""The SQLSTATEs of a question that a keeper does not know: ours before it did, and Neon's."""


@dataclass(frozen=True, slots=True)
class KeptTimeline:
    """What a keeper has of a timeline.  ``end_lsn`` is 0 while it has no WAL; ``tli`` is PostgreSQL's timeline id."""

    system_id: int
    tli: TimelineNumber
    end_lsn: Lsn


async def identify(connection: Connection) -> KeptTimeline | None:
    """What the keeper has of the connection's timeline, None if it never heard of it.  Raises ServerError."""
    try:
        rows = await connection.query("IDENTIFY_SYSTEM")
    except ServerError as error:
        if _NOT_FOUND in error.message:
            return None
        raise
    try:
        ((system_id, tli, end_lsn, _),) = rows
        return KeptTimeline(int(system_id or 0), TimelineNumber(int(tli or 0)), parse_lsn(end_lsn or "0/0"))
    except ValueError as error:
        raise Malformed(f"{connection.name}: IDENTIFY_SYSTEM answered {rows}") from error


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

    Raises ServerError from a keeper that does not answer SHOW, as Neon's.
    """
    ((version,),) = await connection.query("SHOW server_version_num")
    ((segment,),) = await connection.query("SHOW wal_segment_size")
    return ServerInfo(int(version or 0), 0, parse_size(segment or ""))


async def start_push(connection: Connection) -> None:
    """Begin to propose.  A timeline that does not exist is created.  Raises ServerError."""
    await connection.start_copy(
        encode_start_wal_push(StartWalPush(PROTOCOL_VERSION, allow_timeline_creation=True))
    )


async def start_recovery(connection: Connection, begin_lsn: Lsn, term: Term) -> WalStream:
    """WAL from ``begin_lsn`` on, committed or not, for the leader of ``term``.  Raises ServerError."""
    await connection.start_copy(encode_start_recovery(begin_lsn, term))
    return WalStream(connection, begin_lsn)
