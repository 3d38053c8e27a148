"""A primary, three keepers and sidecars between them, all in memory and talking over real sockets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import trio

from fake_servers import UNTIL_SECONDS, FakeKeeper, FakePrimary, RecordingLog, until
from walkeeper.ids import NodeId
from walkeeper.links.conninfo import ConnectionInfo, SslMode
from walkeeper.lsn import Lsn
from walkeeper.sidecar.account import Account
from walkeeper.sidecar.config import ProposeConfig
from walkeeper.sidecar.run import run_sidecar


@dataclass
class World:
    """A primary, three keepers, and sidecars to start.  ``account`` and ``acks`` are what the last one tells of itself."""

    primary: FakePrimary = field(default_factory=FakePrimary)
    keepers: list[FakeKeeper] = field(default_factory=lambda: [FakeKeeper(node_id=NodeId(n)) for n in (1, 2, 3)])
    log: RecordingLog = field(default_factory=RecordingLog)
    account: Account = field(default_factory=lambda: Account(3))
    acks: list[float] = field(default_factory=list)

    def config(self, **changes: Any) -> ProposeConfig:
        info = ConnectionInfo("127.0.0.1", self.primary.port, sslmode=SslMode.DISABLE)
        return replace(ProposeConfig(info, tuple(keeper.address for keeper in self.keepers)), **changes)

    @asynccontextmanager
    async def sidecar(self, **changes: Any) -> AsyncIterator[None]:
        """A sidecar that runs within the block."""
        async with trio.open_nursery() as nursery:
            self.account = Account(len(self.keepers), self.acks.append)
            nursery.start_soon(partial(run_sidecar, self.config(**changes), log=self.log, account=self.account))
            yield
            nursery.cancel_scope.cancel()

    async def run_to_end(self, **changes: Any) -> None:
        """A sidecar that ends by itself."""
        with trio.fail_after(UNTIL_SECONDS):
            await run_sidecar(self.config(**changes), log=self.log)

    async def commit(self, size: int = 100) -> Lsn:
        """Write a record on the primary and wait until it is confirmed."""
        end = self.primary.wal.logical_message("test", bytes(size)).end
        await until(lambda: self.primary.confirmed_lsn >= end)
        return end

    def assert_nothing_reached_keepers(self) -> None:
        assert [keeper.history.entries for keeper in self.keepers] == [(), (), ()]
        assert [bytes(keeper.wal) for keeper in self.keepers] == [b"", b"", b""]


def has_all(keeper: FakeKeeper, primary: FakePrimary) -> bool:
    return keeper.flush_lsn == primary.wal.lsn and bytes(keeper.wal) == primary.read(keeper.start_lsn)


async def kept_before(world: World) -> None:
    """The keepers have some WAL of the primary, and have become whole by it."""
    async with world.sidecar():
        await world.commit()
        await until(lambda: all(keeper.is_whole and has_all(keeper, world.primary) for keeper in world.keepers))
