"""The primary: what has to be true of it before anything is asked of keepers.

Everything that an operator has to put right is a ConfigError of one line that says what and how.  All of it is asked
over one physical replication connection; an SQL connection is opened only where that cannot answer.

Does not know slots (``slot``) and does not stream.
Source: PostgreSQL, "Streaming Replication Protocol", "Replication" settings.
"""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

from walkeeper.errors import ConfigError, ServerError
from walkeeper.formats.segments import next_segment_start, parse_segment_size, segment_start
from walkeeper.formats.xlog import MAGICS
from walkeeper.ids import TimelineNumber
from walkeeper.links.conninfo import ConnectionInfo
from walkeeper.links.keeper import ask_version, read_system
from walkeeper.links.postgres import Connection, Row, connect
from walkeeper.lsn import INVALID_LSN, Lsn, format_lsn, parse_lsn
from walkeeper.messages import ServerInfo

_NO_WALSENDER_LEFT: Final = "53300"


@dataclass(frozen=True, slots=True)
class Primary:
    """What the primary said about itself.  ``flush_lsn`` is how far its own WAL is on disk."""

    server: ServerInfo
    tli: TimelineNumber
    flush_lsn: Lsn


@asynccontextmanager
async def connect_primary(info: ConnectionInfo, application_name: str) -> AsyncIterator[Connection]:
    """A physical replication connection.  Raises Unreachable, ServerError or ConfigError."""
    sender = replace(info, application_name=application_name)
    try:
        async with connect(sender, f"primary {info}", replication="true") as connection:
            yield connection
            return
    except ServerError as error:
        if error.sqlstate != _NO_WALSENDER_LEFT:
            raise
        refusal = error
    await _require_wal_level(info)
    raise refusal


async def _require_wal_level(info: ConnectionInfo) -> None:
    """No walsender could be had.  With wal_level minimal there are none, and waiting for one would be in vain."""
    async with connect(replace(info, dbname=info.dbname or "postgres"), f"primary {info}") as connection:
        if await connection.show("wal_level", str) == "minimal":
            raise ConfigError(
                f"{connection.name} has wal_level minimal: ALTER SYSTEM SET wal_level = 'replica', set max_wal_senders,"
                " and restart it"
            )


async def examine(connection: Connection) -> Primary:
    """Raises ConfigError when this is no primary that WAL can be kept of, and Malformed for answers without meaning."""
    if connection.parameters.get("in_hot_standby") == "on":
        raise ConfigError(f"{connection.name} is a standby: give the address of the primary")
    version = await ask_version(connection)
    if version // 10000 not in MAGICS:
        raise ConfigError(
            f"{connection.name} is PostgreSQL {version // 10000}; its WAL can be kept from {min(MAGICS)} to {max(MAGICS)}"
        )
    system_id, tli, flush_lsn = await connection.ask("IDENTIFY_SYSTEM", read_system)
    server = ServerInfo(version, system_id, await connection.show("wal_segment_size", parse_segment_size))
    return Primary(server, tli, flush_lsn)


async def ask_flush_lsn(connection: Connection) -> Lsn:
    """Up to where the primary has fsynced its WAL: nobody can have been sent more."""
    _, _, flush_lsn = await connection.ask("IDENTIFY_SYSTEM", read_system)
    return flush_lsn


async def first_lsn_to_keep(connection: Connection, primary: Primary, kept_from: Lsn, flush_lsn: Lsn) -> Lsn:
    """Where an empty quorum begins: the segment start below ``kept_from``, so that segments are whole files.

    After a promotion it is the first segment that holds nothing of the timeline id before: a stream with pages of two
    cannot be kept.  Raises ConfigError while the primary has not come that far.
    """
    segment_bytes = primary.server.wal_seg_size
    switched_at = await _ask_switch_lsn(connection, primary.tli)
    first_lsn = max(segment_start(kept_from, segment_bytes), next_segment_start(switched_at, segment_bytes))
    if first_lsn > flush_lsn:
        raise ConfigError(
            f"{connection.name} is on PostgreSQL's timeline {primary.tli} since {format_lsn(switched_at)}, and keepers begin with"
            f" the first segment after that: SELECT pg_switch_wal(); and start again"
        )
    return first_lsn


async def _ask_switch_lsn(connection: Connection, tli: TimelineNumber) -> Lsn:
    """Where PostgreSQL's timeline ``tli`` branched off from the one before; 0 for the first."""
    if tli <= 1:
        return INVALID_LSN
    return await connection.ask(f"TIMELINE_HISTORY {tli}", _read_last_switch)


def _read_last_switch(row: Row) -> Lsn:
    _, history = row
    lines = [line.split() for line in (history or "").splitlines()]
    *_, (_, switched_at, *_) = [line for line in lines if line and not line[0].startswith("#")]
    return parse_lsn(switched_at)


@dataclass(frozen=True, slots=True)
class Flaw:
    """Why commits return before keepers have them, and what to do."""

    why: str
    remedy: str


async def find_flaws(connection: Connection, application_name: str) -> Sequence[Flaw]:
    """What of the primary's settings lets commits return before keepers have them; nothing if they wait."""
    flaws: list[Flaw] = []
    level = await connection.show("synchronous_commit", str)
    setting = await connection.show("synchronous_standby_names", str)
    if level in ("off", "local"):
        flaws.append(
            Flaw(
                f"synchronous_commit is {level}: commits return before any keeper has them",
                "ALTER SYSTEM SET synchronous_commit = 'on'; SELECT pg_reload_conf();",
            )
        )
    if flaw := flaw_of_standby_names(setting, application_name):
        flaws.append(
            Flaw(
                f"synchronous_standby_names is {setting!r}: {flaw}",
                f"ALTER SYSTEM SET synchronous_standby_names = '{application_name}'; SELECT pg_reload_conf();",
            )
        )
    return flaws


_COUNTED: Final = re.compile(r"\s*(?:(?:ANY|FIRST)\s+)?(\d{1,9})\s*\((.*)\)\s*", re.IGNORECASE | re.DOTALL)
_NAME: Final = re.compile(r'"(?:[^"]|"")*"|[^\s,()"]+')


def flaw_of_standby_names(setting: str, name: str) -> str:
    """Why a commit can return without ``name``, or never, with this synchronous_standby_names; empty if it waits for it.

    FIRST means: of those that are connected.  So whoever else is in the list can take the place of one that is not.
    Source: PostgreSQL's syncrep_gram.y; names are compared without case.
    """
    counted = _COUNTED.fullmatch(setting)
    listed = _NAME.findall(counted[2] if counted else setting)
    names = {each.strip('"').replace('""', '"').lower() for each in listed}
    if not names:
        return "commits return before any keeper has them"
    if "*" in names or (name.lower() in names and len(names) > (int(counted[1]) if counted else 1)):
        return "commits return when another standby has them, before any keeper does"
    if name.lower() not in names:
        return f"commits wait for others than {name}, or for ever, and not for keepers"
    return ""


def describe(primary: Primary) -> dict[str, object]:
    """For a log line."""
    return {
        "system_id": primary.server.system_id,
        "pg_version": primary.server.pg_version,
        "pg_timeline": primary.tli,
        "flush_lsn": format_lsn(primary.flush_lsn),
    }
