"""The physical replication slot that makes the primary keep WAL until a quorum has it.

Rules: a slot that may fill the primary's disk is only made for who insists; ``check`` refuses before any keeper is
asked for a vote, ``prepare`` makes the slot when the campaign is won, so that a sidecar that has no business with this
primary leaves nothing behind.  A slot that exists is used as it is.

Source: PostgreSQL, "Streaming Replication Protocol" (READ_REPLICATION_SLOT since 15, CREATE_REPLICATION_SLOT).
"""

import re
from dataclasses import dataclass, replace
from typing import Final

from walkeeper.errors import ConfigError, ServerError
from walkeeper.formats.commands import quote_identifier
from walkeeper.links.conninfo import ConnectionInfo
from walkeeper.links.log import Log
from walkeeper.links.postgres import Connection, Row, connect
from walkeeper.lsn import INVALID_LSN, Lsn, parse_lsn

LIMIT_SETTING: Final = "max_slot_wal_keep_size"

UNLIMITED: Final = "-1"

LIMIT_SLOT: Final = "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'; SELECT pg_reload_conf();"

_DUPLICATE_OBJECT: Final = "42710"
_READS_SLOTS_SINCE: Final = 15
"""The first major version with READ_REPLICATION_SLOT."""

_NAME: Final = re.compile(r"[a-z0-9_]{1,63}")


@dataclass(frozen=True, slots=True)
class Slot:
    """The slot ``name`` on the primary behind ``connection``, which ``info`` leads to.

    ``unsafe`` allows one without a limit.  Raises ConfigError for a name that PostgreSQL does not take.
    """

    connection: Connection
    info: ConnectionInfo
    name: str
    pg_major: int
    unsafe: bool

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"{self.name!r} is not the name of a slot: 1 to 63 lower-case letters, digits and underscores"
            )

    async def check(self) -> None:
        """Raises ConfigError for a slot of another kind, and instead of making one that may fill the disk."""
        if await self.find() is not None or self.unsafe:
            return
        if await self.connection.show(LIMIT_SETTING, str) == UNLIMITED:
            raise ConfigError(
                f"a slot would keep WAL on {self.connection.name} without limit while keepers are away, until its disk is"
                f" full: limit it ({LIMIT_SLOT}) or accept that (--unsafe-slot)"
            )

    async def prepare(self, log: Log) -> Lsn:
        """Find or make it; returns the first LSN whose WAL it keeps, 0 if it keeps none yet."""
        restart_lsn = await self.find()
        if restart_lsn is None:
            await self._make()
            log.info("slot created", slot=self.name)
            restart_lsn = await self.find()
        return restart_lsn or INVALID_LSN

    async def _make(self) -> None:
        try:
            await self.connection.query(
                f"CREATE_REPLICATION_SLOT {quote_identifier(self.name)} PHYSICAL RESERVE_WAL"
            )
        except ServerError as error:
            if error.sqlstate != _DUPLICATE_OBJECT:
                raise

    async def find(self) -> Lsn | None:
        """Its restart_lsn (0 if it keeps no WAL), None if there is no such slot.  Raises ConfigError for one of another kind."""
        if self.pg_major >= _READS_SLOTS_SINCE:
            kind, restart_lsn = await self.connection.ask(
                f"READ_REPLICATION_SLOT {quote_identifier(self.name)}", _read_slot
            )
        else:
            kind, restart_lsn = await self._find_by_sql()
        if kind is None:
            return None
        if kind != "physical":
            raise ConfigError(f"slot {self.name} of {self.connection.name} is {kind}: name another one (--slot)")
        return restart_lsn

    async def _find_by_sql(self) -> tuple[str | None, Lsn]:
        """By aggregates, which answer with a row even if there is no such slot."""
        info = replace(self.info, dbname=self.info.dbname or "postgres")
        async with connect(info, self.connection.name) as connection:
            return await connection.ask(
                f"SELECT max(slot_type), max(restart_lsn) FROM pg_replication_slots WHERE slot_name = '{self.name}'",  # noqa: S608 (a checked name)
                _read_slot,
            )


def _read_slot(row: Row) -> tuple[str | None, Lsn]:
    """Its kind, None if there is none, and its restart_lsn."""
    kind, restart_lsn, *_ = row
    return kind, parse_lsn(restart_lsn or "0/0")
