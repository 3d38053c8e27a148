"""The sidecar between a primary and three keepers, all in memory and talking over real sockets.

The clock is Trio's fake one and jumps when nobody has anything to do, so that minutes of silence take no time.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace

import pytest
import trio
import trio.testing

from fake_servers import SEGMENT_BYTES, SYSTEM_ID, FakeKeeper, FakePrimary, RecordingLog, until
from walkeeper.errors import ConfigError, Fenced, leaves
from walkeeper.ids import NodeId, TenantTimelineId
from walkeeper.links.conninfo import ConnectionInfo, SslMode
from walkeeper.lsn import Lsn
from walkeeper.proposer.proposer import KEEPERS_MAX
from walkeeper.sidecar.config import PACE, ProposeConfig
from walkeeper.sidecar.run import run_sidecar
from walkeeper.terms import Term
from walkeeper.testing.wal import WalGenerator


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Patient enough for bytes on their way through the kernel."""
    return trio.testing.MockClock(autojump_threshold=0.02)


@dataclass
class World:
    """A primary, keepers, and sidecars to start."""

    nursery: trio.Nursery
    primary: FakePrimary = field(default_factory=FakePrimary)
    keepers: list[FakeKeeper] = field(default_factory=list)
    log: RecordingLog = field(default_factory=RecordingLog)

    @property
    def config(self) -> ProposeConfig:
        info = ConnectionInfo("127.0.0.1", self.primary.port, sslmode=SslMode.DISABLE)
        return ProposeConfig(info, tuple(keeper.address for keeper in self.keepers))

    @contextmanager
    def sidecar(self, **changes: object) -> Iterator[None]:
        """A sidecar that runs within the block."""
        config = replace(self.config, **changes)  # type: ignore[arg-type]
        with trio.CancelScope() as scope:
            self.nursery.start_soon(self._run_in, scope, config)
            yield
        scope.cancel()

    async def _run_in(self, outer: trio.CancelScope, config: ProposeConfig) -> None:
        with trio.CancelScope() as scope:
            del outer
            self.scopes.append(scope)
            await run_sidecar(config, log=self.log)

    scopes: list[trio.CancelScope] = field(default_factory=list)

    async def run_to_end(self, **changes: object) -> None:
        """A sidecar that is expected to end by itself."""
        await run_sidecar(replace(self.config, **changes), log=self.log)  # type: ignore[arg-type]

    async def commit(self, size: int = 100) -> Lsn:
        """Write a record on the primary and wait until it is confirmed."""
        end = self.primary.wal.logical_message("test", bytes(size)).end
        await until(lambda: self.primary.confirmed_lsn >= end)
        return end
