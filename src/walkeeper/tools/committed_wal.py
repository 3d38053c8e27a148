"""Committed WAL as one keeper streams it, checked as it comes, and written into files in the order in which it comes.

Rules:
* A keeper that sends no WAL for a while is given up.
* What is written may be damaged; whoever gives a file its name has been told that it is not.

What comes at once is checked at once, in a few milliseconds: nothing else goes on meanwhile that would need a thread.

Does not know what is committed: who asks for more than the keeper knows to be waits in vain.
Source: PostgreSQL, "Streaming Replication Protocol".
"""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from walkeeper.errors import BadWal, ConfigError, Malformed, PeerError, ServerError, Unreachable
from walkeeper.formats.commands import encode_start_replication
from walkeeper.formats.segments import segment_name, segment_number
from walkeeper.ids import TenantTimelineId, TimelineNumber
from walkeeper.links.address import Address
from walkeeper.links.keeper import connect_keeper
from walkeeper.links.postgres import Connection, time_limit
from walkeeper.links.wal_stream import WalStream
from walkeeper.lsn import Lsn
from walkeeper.messages import ServerInfo, Slice
from walkeeper.tools.segment_file import SegmentFile
from walkeeper.tools.wal_check import WalCheck

STALL_SECONDS_MAX: Final = 10.0
"""For a keeper to send WAL that it has: longer than its disk takes for a read under load."""

LOOK_BACK_BYTES: Final = 256 * 1024
"""To see the beginning of the record that a segment begins with.  All but the rarest are shorter."""

LOOK_ON_BYTES_MAX: Final = 4 << 20
"""To see the end of the record that a segment ends with: it waits in memory, and nothing is received twice."""

LOOK_SECONDS_MAX: Final = 5.0
"""For either, since the segment itself can be had without."""


class CommittedWal:
    """The WAL of ``server`` from a segment's start on, and what has come too early."""

    def __init__(self, stream: WalStream, server: ServerInfo, tli: TimelineNumber, before: bytes) -> None:
        self._stream = stream
        self._rest: deque[Slice] = deque()
        self._check = WalCheck(stream.next_lsn, server, tli, before)
        self._segment_bytes = server.wal_seg_size
        self._tli = tli

    async def copy(self, file: SegmentFile, stop_lsn: Lsn, known_lsn: Lsn) -> None:
        """Write WAL into ``file``, from where that is up to ``stop_lsn``; the first call begins where the stream does.

        Returns when all records that begin there were checked, as far as the keeper gives the end of the last one; it
        knows WAL up to ``known_lsn`` to be committed.

        Raises StorageError, and Unreachable, ServerError or PeerError if the keeper does not give it undamaged.

        Cancellation: the stream is of no use afterwards.
        """
        while missing := stop_lsn - file.next_lsn:
            if not self._rest:
                await self._receive()
                self._require(stop_lsn)
            piece = memoryview(self._rest.popleft())
            if len(piece) > missing:
                self._rest.appendleft(piece[missing:])
            file.write([piece[:missing]])
        await self._look_on(stop_lsn, min(known_lsn, stop_lsn + LOOK_ON_BYTES_MAX))
        self._require(stop_lsn)
        try:
            file.check()
        except Malformed as error:
            raise self._damaged(file.begin_lsn, error) from error

    async def _look_on(self, stop_lsn: Lsn, limit_lsn: int) -> None:
        """Read the end of the record that is open at ``stop_lsn``; it is no fault of what is before if that fails."""
        try:
            with trio.move_on_after(LOOK_SECONDS_MAX):
                while self._check.is_open(stop_lsn) and self._check.next_lsn < limit_lsn:
                    await self._receive()
        except (Unreachable, ServerError, PeerError):
            pass

    async def _receive(self) -> None:
        """What comes next, at least one slice."""
        before = len(self._rest)
        with time_limit(STALL_SECONDS_MAX, self._stream.connection.name, "WAL"):
            while len(self._rest) == before:
                self._rest.extend((await self._stream.receive_and_report()).slices)
        for index in range(before, len(self._rest)):
            self._check.feed(self._rest[index])

    def _require(self, stop_lsn: Lsn) -> None:
        """Raises Malformed, with who, which file and where, if what is before ``stop_lsn`` is damaged."""
        try:
            self._check.require(stop_lsn)
        except BadWal as error:
            raise self._damaged(error.lsn, error) from error

    def _damaged(self, lsn: Lsn, why: Malformed) -> Malformed:
        size = self._segment_bytes
        name = segment_name(self._tli, segment_number(lsn, size), size)
        return Malformed(f"{self._stream.connection.name} has damaged WAL in {name}: {why}")


@asynccontextmanager
async def read_committed(
    address: Address,
    ttid: TenantTimelineId,
    begin_lsn: Lsn,
    server: ServerInfo,
    tli: TimelineNumber,
    *,
    application_name: str,
) -> AsyncIterator[CommittedWal]:
    """Committed WAL of a keeper, from the segment start ``begin_lsn`` on.

    Raises Unreachable, ServerError, PeerError or ConfigError.
    """
    before = await _read_before(address, ttid, begin_lsn, application_name)
    async with connect_keeper(address, ttid, application_name) as connection:
        yield CommittedWal(await _start_stream(connection, begin_lsn), server, tli, before)


async def _read_before(address: Address, ttid: TenantTimelineId, end_lsn: Lsn, application_name: str) -> bytes:
    """What the keeper has just before ``end_lsn``; nothing if it has not got it, or if anything else goes wrong.

    It is asked apart, since a keeper whose WAL begins there ends the connection.
    """
    before = bytearray()
    try:
        with trio.move_on_after(LOOK_SECONDS_MAX):
            async with connect_keeper(address, ttid, application_name) as connection:
                stream = await _start_stream(connection, Lsn(max(end_lsn - LOOK_BACK_BYTES, 0)))
                while stream.next_lsn < end_lsn:
                    for piece in (await stream.receive()).slices:
                        before += piece
                return bytes(before[:LOOK_BACK_BYTES])
    except (Unreachable, ServerError, PeerError, ConfigError):
        pass
    return b""


async def _start_stream(connection: Connection, lsn: Lsn) -> WalStream:
    with time_limit(STALL_SECONDS_MAX, connection.name):
        await connection.start_copy(encode_start_replication(lsn))
    return WalStream(connection, lsn)
