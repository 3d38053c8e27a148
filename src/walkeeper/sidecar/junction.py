"""The proof that a primary's WAL continues the quorum's, before any of it goes to a keeper.

Where the quorum's WAL ends, two things must agree.  The bytes before the end, as far as the primary surely still has
them: its own segment.  And the first record behind it, whose ``xl_prev`` must be the start of the last record before.
A primary that lost WAL it had streamed, or a copy that went another way from an older backup, fails one or the other.

An idle primary has no record behind the end; then equal bytes are proof enough to lead, and the record is still
looked at when it comes.

Pure but for ``fetch_junction``, which asks the donor of the election for the bytes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from walkeeper.errors import ConfigError, Malformed
from walkeeper.formats.segments import segment_start
from walkeeper.formats.xlog import PAGE_BYTES, first_record_header, last_record_start
from walkeeper.ids import TenantTimelineId
from walkeeper.links.address import Address
from walkeeper.links.keeper import connect_keeper, start_recovery
from walkeeper.links.postgres import time_limit
from walkeeper.lsn import Lsn, format_lsn
from walkeeper.messages import ServerInfo, Slice
from walkeeper.proposer.election import Election

FETCH_SECONDS: Final = 30.0
"""For the donor to send the last record; only one of hundreds of megabytes takes more than a moment."""

WIDEN_BY: Final = 8
"""How much further back to look when the last record began before what was fetched."""


@dataclass(frozen=True, slots=True)
class Junction:
    """The end of the quorum's WAL at ``lsn``: ``known`` are the bytes before it that the primary must have too.

    ``last_record_lsn`` is where the last record before it starts; None if there is none, or none that started since
    the quorum's WAL began.
    """

    lsn: Lsn
    known: bytes = b""
    last_record_lsn: Lsn | None = None

    @property
    def compare_from(self) -> Lsn:
        """Where the primary has to start streaming."""
        return Lsn(self.lsn - len(self.known))


async def fetch_junction(
    donor: Address, ttid: TenantTimelineId, name: str, election: Election, server: ServerInfo
) -> Junction:
    """Learn from the donor what the primary's WAL must continue.

    Raises Unreachable, ServerError or PeerError if it cannot be learnt now, Malformed among them for broken WAL.
    """
    end_lsn = election.start_lsn
    assert election.history.entries, "a keeper with WAL knows who wrote it"
    first_lsn = election.history.entries[0].lsn
    if end_lsn <= first_lsn:
        return Junction(end_lsn)
    oldest = segment_start(first_lsn, server.wal_seg_size)
    span = PAGE_BYTES
    while True:
        begin_lsn = max(oldest, Lsn((end_lsn - span) & -PAGE_BYTES))
        wal = await _fetch(donor, ttid, name, election, begin_lsn)
        last = last_record_start(wal, end_lsn, pg_major=server.pg_major, wal_seg_size=server.wal_seg_size)
        if last is not None or begin_lsn == oldest:
            common = min(end_lsn - segment_start(end_lsn, server.wal_seg_size), len(wal))
            return Junction(end_lsn, wal[len(wal) - common :], last)
        span *= WIDEN_BY


async def _fetch(donor: Address, ttid: TenantTimelineId, name: str, election: Election, begin_lsn: Lsn) -> bytes:
    """The donor's WAL of [begin_lsn, start of the new term)."""
    wanted = election.start_lsn - begin_lsn
    wal = bytearray()
    with time_limit(FETCH_SECONDS, f"keeper {donor}", f"WAL from {format_lsn(begin_lsn)}"):
        async with connect_keeper(donor, ttid, name) as connection:
            stream = await start_recovery(connection, begin_lsn, election.term)
            while len(wal) < wanted:
                for piece in (await stream.receive()).slices:
                    wal += piece
    return bytes(wal[:wanted])


class Proof:
    """Takes in the primary's WAL from ``Junction.compare_from`` on; lets through what is behind the junction.

    ``may_lead``: whether enough is proven to announce the election.
    """

    def __init__(self, junction: Junction, server: ServerInfo) -> None:
        self._junction = junction
        self._server = server
        self._held = b""
        self._compared = 0
        self._is_complete = junction.last_record_lsn is None and not junction.known
        self.may_lead = self._is_complete

    def let_through(self, wal: Iterable[Slice]) -> Sequence[Slice]:
        """What of ``wal``, and of what was held back before, may go to keepers.

        Raises ConfigError when the primary's WAL is not the continuation of the quorum's.
        """
        if self._is_complete:
            return list(wal)
        self._held += b"".join(wal)
        self._compare_known()
        if self._compared < len(self._junction.known) or not self._check_first_record():
            return []
        self._is_complete = self.may_lead = True
        passed, self._held = self._held, b""
        return [passed]

    def _compare_known(self) -> None:
        known = self._junction.known[self._compared : self._compared + len(self._held)]
        if not known:
            return
        if self._held[: len(known)] != known:
            raise self._refusal(f"differs from it before {format_lsn(self._junction.lsn)}")
        self._held = self._held[len(known) :]
        self._compared += len(known)
        self.may_lead = self._compared == len(self._junction.known)

    def _check_first_record(self) -> bool:
        """Whether the first record's header has come, and is right."""
        expected = self._junction.last_record_lsn
        if expected is None:
            return True
        try:
            header = first_record_header(
                self._held,
                self._junction.lsn,
                pg_major=self._server.pg_major,
                wal_seg_size=self._server.wal_seg_size,
            )
        except Malformed as error:
            raise self._refusal(f"has no record there ({error})") from error
        if header is not None and header.prev != expected:
            raise self._refusal(
                f"has a record there that follows one at {format_lsn(header.prev)}, not the quorum's last at {format_lsn(expected)}"
            )
        return header is not None

    def _refusal(self, how: str) -> ConfigError:
        return ConfigError(
            f"the keepers' WAL ends at {format_lsn(self._junction.lsn)}, and the primary's {how}: it went another way, as after"
            " a restore that left out kept WAL; restore it up to there, or keep its WAL under a new --timeline"
        )
