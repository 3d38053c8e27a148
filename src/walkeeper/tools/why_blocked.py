"""``walkeeper why-blocked``: who has not acknowledged, since when, why, and what can be done.

Every keeper and, where it is said how to reach it, the primary are asked at once.

Rules: whoever does not answer is a finding, never an error.  Changes nothing anywhere, and does not print.
Does not judge: ``diagnosis`` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import trio

from walkeeper.errors import PeerError, ServerError, Unreachable
from walkeeper.ids import TenantTimelineId
from walkeeper.links.address import Address
from walkeeper.links.conninfo import ConnectionInfo
from walkeeper.links.poll import ANSWER_SECONDS, Poll
from walkeeper.links.postgres import time_limit
from walkeeper.tools.ask_primary import LOOK_SECONDS, ask_primary_facts, ask_system_id, connect_sql
from walkeeper.tools.diagnosis import Facts, PrimaryFacts
from walkeeper.tools.status import KeeperStatus, poll_status

APPLICATION_NAME: Final = "walkeeper_why_blocked"


@dataclass(frozen=True, slots=True)
class WhyConfig:
    """``primary``: None if it is not to be asked.  ``sidecar`` and ``slot``: what they are called there."""

    keepers: Sequence[Address]
    primary: ConnectionInfo | None
    sidecar: str
    slot: str


async def ask_whose_wal(primary: ConnectionInfo) -> int:
    """The system identifier.  Raises Unreachable, ServerError, PeerError or ConfigError."""
    with time_limit(ANSWER_SECONDS, f"primary {primary}"):
        async with connect_sql(primary, APPLICATION_NAME) as connection:
            return await ask_system_id(connection)
    raise AssertionError("the block returns or raises")


async def ask_who_is_there(config: WhyConfig, why: str) -> Facts:
    """What can be seen when nobody says whose WAL is meant, and the primary does not, ``why``.  Cancellation: at any time."""
    found = await poll_status(config.keepers, None)
    return Facts(datetime.now(UTC), None, found, why, config.sidecar, config.slot)


async def ask_everybody(config: WhyConfig, ttid: TenantTimelineId) -> Facts:
    """Cancellation: at any time."""
    polls: list[Poll[KeeperStatus]] = []
    primaries: list[PrimaryFacts | str] = []

    async def ask_keepers() -> None:
        polls.append(await poll_status(config.keepers, ttid))

    async def ask_primary(info: ConnectionInfo) -> None:
        primaries.append(await _ask_primary(info, config))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_keepers)
        if config.primary is not None:
            nursery.start_soon(ask_primary, config.primary)
    (found,) = polls
    return Facts(datetime.now(UTC), ttid, found, next(iter(primaries), None), config.sidecar, config.slot)


async def _ask_primary(info: ConnectionInfo, config: WhyConfig) -> PrimaryFacts | str:
    """What it says, or why it says nothing.  Raises ConfigError for what the connection string lacks."""
    try:
        with time_limit(ANSWER_SECONDS + LOOK_SECONDS, f"primary {info}"):
            async with connect_sql(info, APPLICATION_NAME) as connection:
                return await ask_primary_facts(connection, config.sidecar, config.slot)
    except (Unreachable, ServerError, PeerError) as error:
        return str(error)
    raise AssertionError("the block returns or raises")
