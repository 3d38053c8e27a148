"""A writer in a simulated cluster: the proposer and the links of the sidecar, with a primary that is a generator of WAL.

It campaigns, continues the quorum's WAL with records of its own, and tells ``truth`` what it lets commit.  Whatever
ends a leadership is followed by another attempt; a writer that was fenced waits until it is woken, or loses patience.

Has no PostgreSQL, hence no slot, no junction and no reports: ``sidecar`` is tested with real ones.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

import trio

from walkeeper.errors import Fenced, StartOver, leaves
from walkeeper.ids import TenantTimelineId
from walkeeper.links.address import KEEPER_PORT, Address
from walkeeper.links.ensemble import Ensemble
from walkeeper.links.keeper_link import Introduction
from walkeeper.links.window import Window
from walkeeper.lsn import Lsn
from walkeeper.membership import Configuration
from walkeeper.messages import ProposerGreeting
from walkeeper.proposer.proposer import Proposer
from walkeeper.testing.network import Host
from walkeeper.testing.truth import Truth
from walkeeper.testing.wal import WalGenerator

RECORD_BYTES: Final = (1, 20, 300, 9000)
"""Records as commits make them, and some that straddle pages."""

SWITCH_CHANCE: Final = 0.002

WRITE_SECONDS: Final = 0.2
"""Between two records, on average."""

WINDOW_BYTES: Final = 256 * 1024
"""WAL that may wait for its commit; keepers that are behind it need a donor."""

PAUSE_SECONDS: Final = (0.2, 3.0)
"""Before the next attempt."""

FENCED_SECONDS: Final = (5.0, 30.0)
"""The patience of a writer that was fenced: it does not know whether who fenced it is still there."""


class WriterMachine:
    """The machine of one writer, and the sidecar on it.  ``must_write`` may be turned off: then it only leads.

    ``configuration`` is what it has been told when it begins a campaign; that may be out of date.
    """

    def __init__(
        self,
        host: Host,
        keepers: Sequence[str],
        ttid: TenantTimelineId,
        truth: Truth,
        random: Random,
        tell: Callable[[str], None],
        configuration: Callable[[], Configuration],
    ) -> None:
        self.host = host
        self.must_write = True
        self.proposer: Proposer | None = None
        self._addresses = [Address(name, KEEPER_PORT) for name in keepers]
        self._ttid = ttid
        self._truth = truth
        self._random = random
        self._tell = tell
        self._configuration = configuration
        self._scope = trio.CancelScope()
        self._committed = trio.Event()
        self._wakened = trio.Event()
        self._is_retired = False

    def __str__(self) -> str:
        return self.host.name

    async def live(self) -> None:
        """Lead, or try to, until retired.  Raises Violated."""
        while not self._is_retired:
            pause = PAUSE_SECONDS
            with self._scope:
                pause = await self._try_to_lead()
            self.proposer, self._scope = None, trio.CancelScope()
            with trio.move_on_after(self._random.uniform(*pause)):
                await self._wakened.wait()
            self._wakened = trio.Event()

    def crash(self) -> None:
        """Forget everything; the next attempt begins soon."""
        self.host.go_down(silently=self._random.random() < 0.5)
        self._scope.cancel(reason="the writer has crashed")

    def wake(self) -> None:
        """Let it campaign now, whoever leads."""
        self._wakened.set()

    def retire(self) -> None:
        """Crash, and never come back."""
        self._is_retired = True
        self.crash()
        self.wake()

    async def _try_to_lead(self) -> tuple[float, float]:
        """How long to wait, at least and at most, before the next attempt."""
        try:
            await self._lead()
        except BaseExceptionGroup as group:
            expected, others = group.split((Fenced, StartOver))
            if others is not None:
                raise others from None
            assert expected is not None
            end = next(leaves(expected))
            self._tell(f"{self}: {end}")
            return FENCED_SECONDS if isinstance(end, Fenced) else PAUSE_SECONDS
        raise AssertionError("nobody leads for ever")

    async def _lead(self) -> None:
        greeting = ProposerGreeting(self._ttid, self._configuration(), self._truth.server)
        proposer = self.proposer = Proposer([address.host for address in self._addresses], greeting)
        window = Window()
        introduction = Introduction(self._ttid, str(self), lambda _keeper, _kept: None)
        ensemble = Ensemble(
            self._addresses, introduction, proposer, window, self._on_commit, _Told(self._tell, str(self))
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ensemble.run)
            election = await ensemble.wait_elected()
            wal = self._truth.elected(election)
            window.start_at(wal.start)
            self._tell(f"{self} leads in term {election.term} from {wal.start:X}")
            ensemble.lead(wal.start)
            while True:
                await self._wait_room(window, proposer)
                if self.must_write:
                    window.append(self._write(wal))
                    ensemble.wal_grew(window.end_lsn)
                await trio.sleep(self._random.expovariate(1 / WRITE_SECONDS))

    def _write(self, wal: WalGenerator) -> bytes:
        begin_lsn = wal.lsn
        if self._random.random() < SWITCH_CHANCE:
            wal.switch()
        else:
            for _ in range(self._random.choice((1, 1, 1, 8))):
                wal.record(self._random.randbytes(self._random.choice(RECORD_BYTES)))
        return wal.between(begin_lsn, wal.lsn)

    async def _wait_room(self, window: Window, proposer: Proposer) -> None:
        window.shrink(WINDOW_BYTES, proposer.commit_lsn)
        while window.cost_bytes > WINDOW_BYTES:
            self._committed = trio.Event()
            await self._committed.wait()
            window.shrink(WINDOW_BYTES, proposer.commit_lsn)

    def _on_commit(self, commit_lsn: Lsn) -> None:
        assert self.proposer is not None
        self._truth.acknowledged(self.proposer.term, commit_lsn)
        self._committed.set()


class _Told:
    """A ``links.log.Log`` that goes into the trace."""

    def __init__(self, tell: Callable[[str], None], who: str) -> None:
        self._tell = tell
        self._who = who

    def info(self, event: str, **fields: object) -> None:
        self._tell(" ".join([f"{self._who}: {event}", *(f"{name}={value}" for name, value in fields.items())]))

    warning = error = info
