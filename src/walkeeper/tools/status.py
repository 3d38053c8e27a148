"""``walkeeper status``: how far every keeper is with one timeline, who streams to and from it, and what a quorum has.

A keeper of ours tells it as one JSON object (``SHOW walkeeper_status``), to which fields may be added.  One that does not
know the question, such as Neon's, is shown with what IDENTIFY_SYSTEM and TIMELINE_STATUS say.

Rules: a keeper that does not answer is a row with its trouble.  Changes nothing on any keeper, and does not print.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final

import msgspec

from walkeeper.errors import Malformed, ServerError
from walkeeper.formats.commands import STATUS
from walkeeper.ids import TenantTimelineId
from walkeeper.links.address import Address
from walkeeper.links.poll import Poll, poll
from walkeeper.links.postgres import Connection
from walkeeper.lsn import parse_lsn

APPLICATION_NAME: Final = "walkeeper_status"

LsnText = Annotated[str, msgspec.Meta(pattern="^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$")]

Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class ReceiverStatus(msgspec.Struct, frozen=True):
    """Somebody who pushes WAL to a keeper.  ``status``: whether it still asks for votes or streams."""

    connection: int
    peer: str | None
    application_name: str | None
    status: str


class SenderStatus(msgspec.Struct, frozen=True):
    """Somebody who reads WAL from a keeper: how far it was sent, and what it has reported, None if nothing."""

    connection: int
    peer: str | None
    application_name: str | None
    sent_lsn: LsnText
    write_lsn: LsnText | None
    flush_lsn: LsnText | None
    apply_lsn: LsnText | None


class RefusalStatus(msgspec.Struct, frozen=True):
    """Why a keeper has sent a writer away, and when by the keeper's clock."""

    why: str
    at: Moment


class KeeperStatus(msgspec.Struct, frozen=True):
    """One keeper; None and nobody is what it does not tell.

    ``now`` is its clock; ``flushed_at`` and ``committed_at``: when that LSN moved last, None if not since its start;
    ``refused``: the last writer that it has sent away since then.
    """

    flush_lsn: LsnText
    commit_lsn: LsnText
    node_id: int | None = None
    term: int | None = None
    last_log_term: int | None = None
    is_whole: bool | None = None
    timeline_start_lsn: LsnText | None = None
    local_start_lsn: LsnText | None = None
    now: Moment | None = None
    generation: int | None = None
    flushed_at: Moment | None = None
    committed_at: Moment | None = None
    refused: RefusalStatus | None = None
    receivers: list[ReceiverStatus] = []
    senders: list[SenderStatus] = []


@dataclass(frozen=True, slots=True)
class Status:
    """What all keepers say of a timeline."""

    ttid: TenantTimelineId
    found: Poll[KeeperStatus]

    def lag_bytes(self, keeper: KeeperStatus) -> int:
        """How far its WAL is behind that of the keeper that has most."""
        return max(parse_lsn(each.told.flush_lsn) for each in self.found.answers) - parse_lsn(keeper.flush_lsn)

    def require_majority(self) -> None:
        """Raises Unreachable, which names each keeper's trouble, if most keepers do not have the timeline."""
        if not self.found.has_majority:
            raise self.found.missing()


async def ask_status(keepers: Sequence[Address], ttid: TenantTimelineId) -> Status:
    """Ask every keeper once.

    Cancellation: at any time.
    """
    return Status(ttid, await poll_status(keepers, ttid))


async def poll_status(keepers: Sequence[Address], ttid: TenantTimelineId | None) -> Poll[KeeperStatus]:
    """The same; None as for ``poll``."""
    return await poll(keepers, ttid, _ask_keeper, application_name=APPLICATION_NAME)


async def _ask_keeper(connection: Connection) -> KeeperStatus:
    try:
        rows = await connection.query(f"SHOW {STATUS}")
    except ServerError:
        return await _ask_plainly(connection)
    try:
        ((text,),) = rows
        return msgspec.json.decode(text or "", type=KeeperStatus)
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise Malformed(f"{connection.name}: {STATUS} cannot be read: {error}") from error


async def _ask_plainly(connection: Connection) -> KeeperStatus:
    rows = await connection.query("TIMELINE_STATUS")
    try:
        ((flush_lsn, commit_lsn),) = rows
        return msgspec.convert({"flush_lsn": flush_lsn, "commit_lsn": commit_lsn}, KeeperStatus)
    except (ValueError, msgspec.MsgspecError) as error:
        raise Malformed(f"{connection.name}: TIMELINE_STATUS answered {rows}") from error
