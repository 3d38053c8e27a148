"""A reader in a simulated cluster, like a standby: it follows committed WAL, from whichever keeper it reaches.

What it is given must be what was promised, without a gap.  Does not replay anything.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

import trio

from walkeeper.errors import PeerError, ServerError, Unreachable
from walkeeper.formats.commands import encode_start_replication
from walkeeper.ids import TenantTimelineId
from walkeeper.links.address import KEEPER_PORT, Address
from walkeeper.links.keeper import connect_keeper, identify
from walkeeper.links.wal_stream import WalStream
from walkeeper.lsn import Lsn
from walkeeper.testing.network import Host
from walkeeper.testing.truth import Truth

PAUSE_SECONDS: Final = (0.1, 2.0)
"""Before it looks for a keeper again."""

PATIENCE_SECONDS: Final = 20.0
"""How long it listens to a keeper that says nothing."""


class ReaderMachine:
    """The machine of one reader; ``position`` is how far it has read."""

    def __init__(
        self,
        host: Host,
        keepers: Sequence[str],
        ttid: TenantTimelineId,
        truth: Truth,
        random: Random,
        tell: Callable[[str], None],
    ) -> None:
        self.host = host
        self.position = truth.start_lsn
        self._addresses = [Address(name, KEEPER_PORT) for name in keepers]
        self._ttid = ttid
        self._truth = truth
        self._random = random
        self._tell = tell

    def __str__(self) -> str:
        return self.host.name

    async def live(self) -> None:
        """Read until cancelled.  Raises Violated."""
        while True:
            address = self._random.choice(self._addresses)
            try:
                await self._follow(address)
            except (Unreachable, ServerError, PeerError) as error:
                self._tell(f"{self}: {error}")
            await trio.sleep(self._random.uniform(*PAUSE_SECONDS))

    async def _follow(self, address: Address) -> None:
        async with connect_keeper(address, self._ttid, str(self)) as connection:
            with trio.move_on_after(PATIENCE_SECONDS) as patience:
                if await identify(connection) is None:
                    return
                await connection.start_copy(encode_start_replication(self.position))
                stream = WalStream(connection, self.position)
                while True:
                    delivery = await stream.receive_and_report()
                    patience.deadline = trio.current_time() + PATIENCE_SECONDS
                    self._take(delivery.begin_lsn, b"".join(delivery.slices), address)

    def _take(self, begin_lsn: Lsn, wal: bytes, address: Address) -> None:
        self._truth.require_committed(begin_lsn, wal, f"{self}, from {address.host},")
        self.position = Lsn(begin_lsn + len(wal))
