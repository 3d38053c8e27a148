"""Looks at the primary beside the stream: whether its commits wait for us, and how much WAL it keeps in our slot.

Each look is a connection of its own, so that none can hold up the stream, and ends within ``ANSWER_SECONDS``.  One that
fails changes nothing: it is counted, and told once until one succeeds.

Does not decide anything, and does not change the primary.
"""

from collections.abc import Sequence
from typing import Final

import trio

from walkeeper.errors import ConfigError, PeerError, ServerError, Unreachable
from walkeeper.formats.sizes import parse_size
from walkeeper.links.log import Log
from walkeeper.links.passfile import with_password
from walkeeper.links.postgres import Connection, time_limit
from walkeeper.links.primary import Flaw, ask_flush_lsn, connect_primary, find_flaws
from walkeeper.lsn import Lsn
from walkeeper.sidecar.account import Account
from walkeeper.sidecar.config import ProposeConfig
from walkeeper.sidecar.slot import LIMIT_SETTING, LIMIT_SLOT, UNLIMITED, Slot

LOOK_SECONDS: Final = 30.0
"""Between two looks: twice within the usual interval of an alert, and too rarely for anybody to notice."""

ANSWER_SECONDS: Final = 10.0
"""For a look: a login and a few questions."""

MUCH: Final = 0.8
"""Of what the slot may keep.  What is more than that is told."""

LITTLE: Final = 0.5
"""With less than that it is over, and would be told anew."""


class Lookout:
    """Of a sidecar's whole life, so that nothing is told again by the next session."""

    def __init__(self, config: ProposeConfig, account: Account, log: Log) -> None:
        self._config = config
        self._account = account
        self._log = log
        self._flaws: Sequence[Flaw] = ()
        self._is_failing = False
        self._is_much = self._is_lost = False
        self._kept_from: Lsn | None = None  # as the slot kept WAL last
        self._is_boundless = False
        self._sooner = trio.Event()

    async def look_at_settings(self, connection: Connection) -> None:
        """Whether commits wait for us; says when that has changed.  Raises as the connection does."""
        flaws = await find_flaws(connection, self._config.application_name)
        for flaw in flaws:
            if flaw not in self._flaws:
                self._log.warning("commits do not wait for keepers", why=flaw.why, remedy=flaw.remedy)
        if self._flaws and not flaws:
            self._log.info("commits wait for keepers")
        self._flaws = flaws
        self._account.commits_wait = not flaws

    async def watch(self, pg_major: int) -> None:
        """Look now and then, until cancelled.  Cancellation: at any time."""
        while True:
            self._sooner = trio.Event()
            await self._look(pg_major)
            with trio.move_on_after(LOOK_SECONDS):
                await self._sooner.wait()

    def look_soon(self) -> None:
        """There may be a slot now that was not there before."""
        self._sooner.set()

    async def _look(self, pg_major: int) -> None:
        config = self._config
        info = with_password(config.primary, "replication", lambda _why: None)  # the session has said why
        try:
            with time_limit(ANSWER_SECONDS, f"primary {info}"):
                async with connect_primary(info, f"{config.application_name}_look") as connection:
                    await self.look_at_settings(connection)
                    slot = Slot(connection, info, config.slot_name, pg_major, config.unsafe_slot)
                    await self._look_at_slot(connection, slot)
        except (Unreachable, ServerError, PeerError, ConfigError) as error:
            self._account.slot_look_failures += 1
            if not self._is_failing:
                self._log.warning("the primary cannot be looked at", why=str(error))
            self._is_failing = True
            return
        if self._is_failing:
            self._log.info("the primary can be looked at again")
        self._is_failing = False

    async def _look_at_slot(self, connection: Connection, slot: Slot) -> None:
        setting = await connection.show(LIMIT_SETTING, str)
        limit_bytes = None if setting == UNLIMITED else parse_size(setting)
        restart_lsn = await slot.find()
        flush_lsn = await ask_flush_lsn(connection)
        self._kept_from = restart_lsn or (None if restart_lsn is None else self._kept_from)
        retained_bytes = None if self._kept_from is None else max(flush_lsn - self._kept_from, 0)
        self._account.slot_limit_bytes = limit_bytes
        self._account.slot_retained_bytes = retained_bytes
        if restart_lsn is not None and not slot.unsafe:
            self._tell_of_limit(slot.name, is_boundless=limit_bytes is None)
        self._tell_of_loss(slot.name, is_lost=self._kept_from is not None and not restart_lsn)
        if limit_bytes is not None and retained_bytes is not None:
            self._tell(slot.name, retained_bytes, limit_bytes)

    def _tell_of_loss(self, slot: str, *, is_lost: bool) -> None:
        """It kept WAL, and keeps none any more: what it would have to keep is counted on, for that is what keepers lack."""
        if is_lost and not self._is_lost:
            self._log.warning(
                "the slot has lost its WAL",
                slot=slot,
                why=f"the primary had to keep more than {LIMIT_SETTING}, and has removed what keepers may lack",
                remedy="if the stream cannot be continued when a majority is back: a new --timeline and a new base backup",
            )
        self._is_lost = is_lost

    def _tell_of_limit(self, slot: str, *, is_boundless: bool) -> None:
        """A slot without a limit is not made, but one that is there is used: streaming fills no disk, an absence may."""
        if is_boundless and not self._is_boundless:
            self._log.warning(
                "the slot may fill the primary's disk",
                slot=slot,
                why=f"it keeps WAL without limit while keepers are away ({LIMIT_SETTING} is {UNLIMITED})",
                remedy=f"limit it ({LIMIT_SLOT}) or accept that (--unsafe-slot)",
            )
        self._is_boundless = is_boundless

    def _tell(self, slot: str, retained_bytes: int, limit_bytes: int) -> None:
        if retained_bytes > MUCH * limit_bytes and not self._is_much:
            self._is_much = True
            self._log.warning(
                "the slot keeps much WAL",
                slot=slot,
                retained_bytes=retained_bytes,
                limit_bytes=limit_bytes,
                why=f"beyond {LIMIT_SETTING} the primary removes WAL that the keepers do not have",
                remedy=f"bring back a majority of keepers, or raise {LIMIT_SETTING}",
            )
        elif retained_bytes < LITTLE * limit_bytes:
            self._is_much = False
