"""Questions to a primary over SQL, for the commands that look at it.

One statement gives one JSON object: what it says belongs to one moment, and a newer PostgreSQL may say more.

Does not judge the answers, and does not stream (``links.primary`` examines what a sidecar streams from).
Source: PostgreSQL, "The Cumulative Statistics System", "pg_replication_slots", "System Administration Functions".
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Final, TypeVar

import msgspec
import trio

from walkeeper.errors import Malformed
from walkeeper.formats.segments import WAL_SEG_SIZE_MIN, parse_segment_name
from walkeeper.ids import TimelineNumber
from walkeeper.links.conninfo import ConnectionInfo
from walkeeper.links.login import LoginRefused
from walkeeper.links.postgres import Connection, Row, connect
from walkeeper.lsn import Lsn, parse_lsn
from walkeeper.tools.diagnosis import PrimaryFacts, SlotFacts, StandbyFacts

T = TypeVar("T")

LOOK_SECONDS: Final = 1.0
"""Between two looks at the commits that wait: with keepers at hand none takes so long."""

WAITING_MAX: Final = 1000
"""Of the commits that wait, the oldest: what is said of more is their number, and a thousand says enough."""

FALLBACK_DATABASE: Final = "postgres"
_NO_SUCH_DATABASE: Final = "3D000"

Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class _Standby(msgspec.Struct):
    state: str | None
    sync_state: str | None
    flush_lsn: str | None
    replied_at: Moment | None


class _Slot(msgspec.Struct):
    is_active: bool
    wal_status: str | None
    restart_lsn: str | None


class _Waiting(msgspec.Struct, frozen=True):
    pid: int
    since: Moment | None


class _Primary(msgspec.Struct):
    now: Moment
    is_standby: bool
    flush_lsn: str | None
    standby_names: str
    synchronous_commit: str
    sees_all: bool
    segment: str | None
    standby: _Standby | None
    slot: _Slot | None
    waiting: list[_Waiting]


_FACTS: Final = """
SELECT json_build_object(
  'now', clock_timestamp(),
  'is_standby', pg_is_in_recovery(),
  'flush_lsn', CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_flush_lsn() END,
  'standby_names', current_setting('synchronous_standby_names'),
  'synchronous_commit', current_setting('synchronous_commit'),
  'sees_all', pg_has_role('pg_read_all_stats', 'usage'),
  'segment', CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_walfile_name(pg_current_wal_insert_lsn()) END,
  'standby', (
    SELECT json_build_object('state', state, 'sync_state', sync_state, 'flush_lsn', flush_lsn, 'replied_at', reply_time)
    FROM pg_stat_replication WHERE lower(application_name) = lower({sidecar}) ORDER BY flush_lsn DESC NULLS LAST LIMIT 1),
  'slot', (
    SELECT json_build_object('is_active', active, 'wal_status', wal_status, 'restart_lsn', restart_lsn)
    FROM pg_replication_slots WHERE slot_name = {slot}),
  'waiting', (
    SELECT coalesce(json_agg(json_build_object('pid', pid, 'since', query_start)), '[]')
    FROM (SELECT pid, query_start FROM pg_stat_activity WHERE wait_event = 'SyncRep'
          ORDER BY query_start LIMIT {waiting_max}) oldest))
"""


@asynccontextmanager
async def connect_sql(info: ConnectionInfo, application_name: str) -> AsyncIterator[Connection]:
    """An SQL connection.  A role without a database of its own, as those for replication are, gets the usual one.

    Raises Unreachable, ServerError or ConfigError.
    """
    own, name = replace(info, application_name=application_name), f"primary {info}"
    try:
        async with connect(own, name) as connection:
            yield connection
            return
    except LoginRefused as error:
        if error.said.sqlstate != _NO_SUCH_DATABASE or info.dbname != info.user:
            raise
    async with connect(replace(own, dbname=FALLBACK_DATABASE), name) as connection:
        yield connection


async def ask_json(connection: Connection, question: str, kind: type[T]) -> T:
    """The one JSON value that answers ``question``.  Raises ServerError and Malformed."""

    def read(row: Row) -> T:
        (text,) = row
        try:
            return msgspec.json.decode(text or "", type=kind)
        except (msgspec.MsgspecError, RecursionError) as error:  # the latter: nested too deeply
            raise Malformed(str(error)) from error

    return await connection.ask(question, read)


async def ask_system_id(connection: Connection) -> int:
    """Raises ServerError and Malformed."""
    return await ask_json(connection, "SELECT system_identifier::text FROM pg_control_system()", int)


async def ask_primary_facts(connection: Connection, sidecar: str, slot: str) -> PrimaryFacts:
    """Look once, and if commits wait, again a moment later: those that still do are told.

    Raises ServerError, Malformed and Unreachable.  Cancellation: at any time.
    """
    question = _FACTS.format(sidecar=_literal(sidecar), slot=_literal(slot), waiting_max=WAITING_MAX)
    told = await ask_json(connection, question, _Primary)
    waiting = set(told.waiting)
    if waiting:
        await trio.sleep(LOOK_SECONDS)
        told = await ask_json(connection, question, _Primary)
        waiting &= set(told.waiting)
    return PrimaryFacts(
        name=connection.name,
        now=told.now,
        is_standby=told.is_standby,
        flush_lsn=_lsn(told.flush_lsn) or Lsn(0),
        standby_names=told.standby_names,
        synchronous_commit=told.synchronous_commit,
        standby=None if told.standby is None else _standby(told.standby),
        slot=None if told.slot is None else _slot(told.slot),
        waiting=len(waiting),
        waiting_since=min((each.since for each in waiting if each.since is not None), default=None),
        sees_all=told.sees_all,
        tli=None if told.segment is None else _tli(told.segment),
    )


def _standby(told: _Standby) -> StandbyFacts:
    """Who may not see them is shown rows of nulls."""
    return StandbyFacts(told.state, told.sync_state, _lsn(told.flush_lsn), told.replied_at)


def _slot(told: _Slot) -> SlotFacts:
    return SlotFacts(told.is_active, told.wal_status or "", _lsn(told.restart_lsn))


def _lsn(text: str | None) -> Lsn | None:
    try:
        return None if text is None else parse_lsn(text)
    except ValueError as error:
        raise Malformed(str(error)) from error


def _tli(segment: str) -> TimelineNumber:
    """That of the WAL being written: the control file learns of a new one only with the next checkpoint."""
    name = parse_segment_name(segment, WAL_SEG_SIZE_MIN)
    if name is None:
        raise Malformed(f"{segment!r} is not the name of a segment")
    return name.tli


def _literal(text: str) -> str:
    """As SQL has it."""
    return "'" + text.replace("'", "''") + "'"
