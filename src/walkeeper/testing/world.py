"""A cluster in one process: keepers, writers and readers on a fake clock, and what goes wrong with them.

A seed decides everything: delays, faults, and in which order tasks run.  The same seed gives the same trace, so
whatever goes wrong can be looked at again.

    outcome = run_world(7, Plan(keepers=3, faults=draw_faults(Random(7), 40)))
    outcome.violation, outcome.digest, outcome.trace

A world ends calmly: when all faults have happened everything is repaired, one writer stays, and all it writes must be
committed and stored by every keeper within ``CALM_SECONDS``.

Does not draw faults (``faults``) and does not know the rules (``truth``, ``witness``).
"""

import hashlib
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Protocol

import structlog
import trio
import trio.testing

from walkeeper.ids import NodeId, TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import Lsn, format_lsn
from walkeeper.membership import NO_CONFIGURATION, Configuration, majority
from walkeeper.messages import ServerInfo
from walkeeper.storage.reader import WalReader
from walkeeper.storage.recovery import CONTROL_FILE, INCOMPLETE, recover
from walkeeper.testing.controller import Controller
from walkeeper.testing.faults import Fault, Kind
from walkeeper.testing.machine import DISK_SECONDS, KeeperMachine, directory_of
from walkeeper.testing.memory_disk import Fault as DiskFault
from walkeeper.testing.memory_disk import MemoryDisk
from walkeeper.testing.network import DELAY_SECONDS, Host, MemoryNetwork
from walkeeper.testing.reader import ReaderMachine
from walkeeper.testing.scheduling import deterministic
from walkeeper.testing.truth import Truth, Violated
from walkeeper.testing.witness import Witness
from walkeeper.testing.writer import WriterMachine

TTID: Final = TenantTimelineId(TenantId(b"\x5e" * 16), TimelineId(b"\x71" * 16))
SERVER: Final = ServerInfo(pg_version=170002, system_id=7241562384010203040, wal_seg_size=1 << 20)
START: Final = Lsn(0x0150_0028 + 0x4000)
WRITERS: Final = 2
READERS: Final = 1

DOWN_SECONDS: Final = 4.0
"""The longest a keeper stays down."""

TROUBLED_SECONDS: Final = 5.0
"""The longest that what is slow or full stays so."""

JUMP_SECONDS: Final = 60.0
"""The longest leap of the clock: whatever has a deadline misses it."""

OPERATIONS_MAX: Final = 12
"""Within so many operations of its disk a fault of a disk happens, or power is lost."""

CALM_SECONDS: Final = 180.0
"""Until the last writer must have everything on every keeper: some backoffs, and what silence costs."""


LOOK_SECONDS: Final = 0.2
"""Between two looks at what is waited for."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be lived through.  Where there are ``spares``, a controller decides which keepers are members."""

    keepers: int = 3
    spares: int = 0
    faults: Sequence[Fault] = ()


@dataclass(slots=True)
class Outcome:
    """How it went.  ``digest`` is that of the trace; ``faults`` counts those that happened."""

    seed: int
    plan: Plan
    violation: BaseException | None = None
    trace: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    commits: int = 0
    replies: int = 0
    seconds: float = 0.0

    @property
    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()[:16]


def run_world(seed: int, plan: Plan) -> Outcome:
    """Live through ``plan``; what is violated is in the outcome."""
    outcome = Outcome(seed, plan)
    with deterministic(seed), logging_to(outcome.trace):
        try:
            clock = trio.testing.MockClock(autojump_threshold=0)
            trio.run(World(seed, plan, outcome, clock).live, clock=clock)
        except BaseExceptionGroup as group:
            outcome.violation = _innermost(group)
    return outcome


UNEXPECTED: Final = "connection failed unexpectedly"
"""What a keeper logs for an error without a name: a bug, whatever it was."""


@contextmanager
def logging_to(trace: list[str]) -> Iterator[None]:
    """A block in which everything that is logged becomes part of the trace."""

    def take(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        name = event.pop("event")
        where = structlog.contextvars.get_contextvars()
        details = " ".join(
            f"{key}={value}" for key, value in event.items() if key not in ("ttid", "exc_info", "throttled")
        )
        trace.append(f"{trio.current_time():12.6f}    {where.get('host', '')}: {name} {details}".rstrip())
        if name == UNEXPECTED:
            trace.append(traceback.format_exc())
        raise structlog.DropEvent

    processors = structlog.get_config()["processors"]
    before = processors.copy()
    processors[:] = [take]  # in place: loggers that were used before hold this very list
    try:
        yield
    finally:
        processors[:] = before


class Machine(Protocol):
    """Somebody in the network."""

    host: Host


class Client(Machine, Protocol):
    """Somebody who wants something of the keepers."""

    async def live(self) -> None: ...


class World:
    """The cluster.  ``live`` is its whole life."""

    def __init__(self, seed: int, plan: Plan, outcome: Outcome, clock: trio.testing.MockClock) -> None:
        self.truth = Truth(START, SERVER)
        self._plan = plan
        self._outcome = outcome
        self._clock = clock
        self._random = Random(f"{seed} world")
        self.network = MemoryNetwork(Random(f"{seed} network"))
        names = [f"keeper{number}" for number in range(1, plan.keepers + plan.spares + 1)]
        self.keepers = [
            KeeperMachine(self.network.host(name), NodeId(number), Random(f"{seed} {name}"), self.tell)
            for number, name in enumerate(names, start=1)
        ]
        self.controller = (
            Controller(self.keepers, plan.keepers, TTID, SERVER, Random(f"{seed} controller"), self.tell)
            if plan.spares
            else None
        )
        self.writers: list[WriterMachine] = [
            WriterMachine(
                self.network.host(name),
                names,
                TTID,
                self.truth,
                Random(f"{seed} {name}"),
                self.tell,
                self._told_configuration(Random(f"{seed} {name} is told")),
            )
            for name in (f"writer{number}" for number in range(1, WRITERS + 1))
        ]
        self.readers = [
            ReaderMachine(self.network.host(name), names, TTID, self.truth, Random(f"{seed} {name}"), self.tell)
            for name in (f"reader{number}" for number in range(1, READERS + 1))
        ]
        self.clients: Sequence[Client] = (*self.writers, *self.readers)
        self.witness = Witness(self.truth, TTID, {str(keeper): keeper for keeper in self.keepers}, self.accuse)
        self.network.on_connect = self.witness.connected
        self._scope = trio.CancelScope()
        self._accused: Violated | None = None
        self._is_calm = False
        self._ailing: set[KeeperMachine] = set()

    # -- what is told ---------------------------------------------------------------------------------------

    def tell(self, text: str) -> None:
        """One line of the trace."""
        self._outcome.trace.append(f"{trio.current_time():12.6f}  {text}")

    def accuse(self, violated: Violated) -> None:
        """End the world: a rule was broken.  From any task, at once."""
        self._accused = self._accused or violated
        for line in self._describe():
            self.tell(line)
        self.tell(f"VIOLATED {violated}")
        self._scope.cancel(reason="violated")

    def _describe(self) -> Iterator[str]:
        """How everybody is, for whoever reads the trace."""
        yield f"committed: {format_lsn(self.truth.commit_lsn)} of {self.truth.committed}"
        for keeper in self.keepers:
            for timeline in keeper.timelines.all() if keeper.timelines else ():
                state = timeline.statistics().state
                if state is not None:
                    yield (
                        f"{keeper}: term {state.term}, flushed {format_lsn(state.flush_lsn)} of {state.term_history}, committed"
                        f" {format_lsn(state.ahead.commit_lsn)}, {'whole' if state.is_whole else 'not whole'}"
                    )
        for writer in self.writers:
            if proposer := writer.proposer:
                yield (
                    f"{writer}: term {proposer.term}, {proposer.stage.name}, has {format_lsn(proposer.available_lsn)}, committed"
                    f" {format_lsn(proposer.commit_lsn)}, {[str(follower) for follower in proposer.followers]}"
                )
        for reader in self.readers:
            yield f"{reader}: at {format_lsn(reader.position)}"

    # -- life -----------------------------------------------------------------------------------------------

    async def live(self) -> None:
        """Everything, from the first start to the last check.  Raises groups of Violated, and whatever is a bug."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                for keeper in self.keepers:
                    self._start(keeper, nursery)
                if self.controller is not None:
                    await trio.sleep(LOOK_SECONDS)
                    await self.controller.create(START)
                for client in self.clients:
                    with client.host.home():
                        nursery.start_soon(client.live, name=str(client))
                await self._wait_first_commit()
                async with trio.open_nursery() as repairs:
                    for fault in self._plan.faults:
                        await trio.sleep(fault.after_seconds)
                        self._outcome.faults[fault.kind.name] += 1
                        self.tell(f"FAULT {fault}")
                        _EFFECTS[fault.kind](self, fault, repairs, nursery)
                await self._calm_down(nursery)
                nursery.cancel_scope.cancel(reason="all is well")
        self._outcome.seconds = trio.current_time()
        self._outcome.commits, self._outcome.replies = self.truth.commits, self.witness.replies
        if self._accused is not None:
            raise ExceptionGroup("violated", [self._accused])
        if any(UNEXPECTED in line for line in self._outcome.trace):
            raise ExceptionGroup("violated", [Violated("an error without a name ended a connection")])

    def _start(self, keeper: KeeperMachine, nursery: trio.Nursery) -> None:
        if not keeper.is_running:
            self.tell(f"{keeper} starts")
            with keeper.host.home():
                keeper.start(nursery)

    async def _wait_first_commit(self) -> None:
        """A first start needs all keepers, so nothing goes wrong before it."""
        await self._wait_for(lambda: self.truth.commits > 0, "the first commit")

    async def _wait_for(self, condition: Callable[[], bool], what: str) -> None:
        with trio.move_on_after(CALM_SECONDS) as patience:
            while not condition():  # noqa: ASYNC110  no event tells of what is true of a whole cluster
                await trio.sleep(LOOK_SECONDS)
        if patience.cancelled_caught:
            self.accuse(Violated(f"liveness: {what} did not come within {CALM_SECONDS:g} s"))
            await trio.sleep_forever()

    # -- membership -----------------------------------------------------------------------------------------

    def _told_configuration(self, random: Random) -> Callable[[], Configuration]:
        """What a writer is told of the members: the newest, or what it was told the last time."""
        told = self.controller.configuration if self.controller else NO_CONFIGURATION

        def tell() -> Configuration:
            nonlocal told
            if self.controller and random.random() < 0.5:
                told = self.controller.configuration
            return told

        return tell

    def _sets(self) -> Sequence[Sequence[KeeperMachine]]:
        """The keepers of which a majority is needed: two sets while the configuration is joint."""
        return self.controller.sets() if self.controller else [self.keepers]

    @property
    def members(self) -> Sequence[KeeperMachine]:
        """The keepers that everything must be on in the end."""
        return self._sets()[-1]

    async def _leave(self, keeper: KeeperMachine, fault: Fault, nursery: trio.Nursery) -> None:
        """A keeper that is no member any more keeps what it has, or loses it: then what comes back is a new one."""
        while keeper in self._ailing:  # noqa: ASYNC110  whatever ails it, it ends by itself
            await trio.sleep(LOOK_SECONDS)
        if fault.amount < 0.5:
            self._ailing.add(keeper)
            await keeper.stop()
            keeper.replace_disk()
            self.tell(f"{keeper} is no member any more, and has an empty disk")
            self._start(keeper, nursery)
            self._ailing.discard(keeper)

    # -- the end --------------------------------------------------------------------------------------------

    async def _calm_down(self, nursery: trio.Nursery) -> None:
        """Repair everything, let one writer finish, and look at what is left."""
        self.tell("calm")
        self._heal()
        for keeper in self.keepers:
            keeper.disk.faults.clear()
            keeper.disk_seconds = DISK_SECONDS
            self._start(keeper, nursery)
        survivor, *others = self.writers
        for writer in others:
            writer.retire()
        survivor.wake()
        async with trio.open_nursery() as managers:
            managers.start_soon(self._keep_running, nursery)
            await self._let_finish(survivor)
            managers.cancel_scope.cancel(reason="everything is where it should be")
        for keeper in self.members:
            await keeper.stop()
            self._require_stored(keeper)

    async def _keep_running(self, nursery: trio.Nursery) -> None:
        """A keeper may still end by an error of before: what manages services starts it again."""
        while True:
            await trio.sleep(LOOK_SECONDS)
            for keeper in self.members:
                self._start(keeper, nursery)

    async def _let_finish(self, survivor: WriterMachine) -> None:
        await self._wait_for(
            lambda: self.controller is None or not self.controller.is_changing, "the end of a change of members"
        )
        for keeper in self.keepers:
            if keeper not in self.members:
                await keeper.stop()
        await self._wait_for(lambda: self._leads(survivor), f"a leadership of {survivor}")
        commits = self.truth.commits
        await self._wait_for(lambda: self.truth.commits > commits, "a commit")
        survivor.must_write = False
        await self._wait_for(lambda: self._all_have(self._end_of(survivor)), "the end of WAL on every keeper")
        await self._wait_for(
            lambda: all(reader.position == self.truth.commit_lsn for reader in self.readers),
            "what readers wait for",
        )

    def _leads(self, writer: WriterMachine) -> bool:
        return writer.proposer is not None and writer.proposer.commit_lsn > 0

    def _end_of(self, writer: WriterMachine) -> Lsn:
        return writer.proposer.available_lsn if writer.proposer else Lsn(2**64 - 1)

    def _all_have(self, lsn: Lsn) -> bool:
        for keeper in self.members:
            for timeline in keeper.timelines.all() if keeper.timelines else ():
                state = timeline.statistics().state
                if state is None or state.flush_lsn < lsn or state.ahead.commit_lsn < lsn or not state.is_whole:
                    return False
        return all(keeper.timelines and keeper.timelines.all() for keeper in self.members)

    def _require_stored(self, keeper: KeeperMachine) -> None:
        """Everything that was promised is on the disk of ``keeper``, and reads as it was written."""
        keeper.disk.crash(0)
        directory = directory_of(TTID)
        recovered = recover(keeper.disk, directory)
        begin_lsn, end_lsn = recovered.control_file.local_start_lsn, self.truth.commit_lsn
        if recovered.end_lsn < end_lsn:
            raise Violated(
                f"37: {keeper} has WAL up to {format_lsn(recovered.end_lsn)}, committed is {format_lsn(end_lsn)}"
            )
        reader = WalReader(keeper.disk, directory, SERVER.wal_seg_size)
        while begin_lsn < end_lsn:
            with reader.open(begin_lsn, recovered.tli) as segment:
                wal = segment.read(begin_lsn, min(SERVER.wal_seg_size, end_lsn - begin_lsn))
            self.truth.require_committed(begin_lsn, wal, str(keeper))
            begin_lsn = Lsn(begin_lsn + len(wal))

    # -- faults ---------------------------------------------------------------------------------------------

    def _keeper(self, fault: Fault) -> KeeperMachine:
        return self.keepers[fault.place % len(self.keepers)]

    def _stop(self, fault: Fault, repairs: trio.Nursery, nursery: trio.Nursery) -> None:
        keeper = self._keeper(fault)
        self._restart(keeper, keeper.stop, fault, repairs, nursery)

    def _kill(self, fault: Fault, repairs: trio.Nursery, nursery: trio.Nursery) -> None:
        keeper = self._keeper(fault)
        self._restart(keeper, keeper.kill, fault, repairs, nursery)

    def _cut_power(self, fault: Fault, repairs: trio.Nursery, nursery: trio.Nursery) -> None:
        keeper = self._keeper(fault)

        async def lose_power() -> None:
            await keeper.lose_power(operations=int(fault.amount * 100 * OPERATIONS_MAX) % OPERATIONS_MAX)

        self._restart(keeper, lose_power, fault, repairs, nursery)

    def _lose_disk(self, fault: Fault, repairs: trio.Nursery, nursery: trio.Nursery) -> None:
        """Only while fewer than a majority of disks are lost, those that are not made up for included."""
        keeper = self._keeper(fault)

        async def lose_disk() -> None:
            await keeper.lose_power()
            if all(self._can_lose(keeper, each) for each in self._sets()):
                self.tell(f"{keeper} has lost its disk")
                keeper.replace_disk()

        self._restart(keeper, lose_disk, fault, repairs, nursery)

    def _can_lose(self, keeper: KeeperMachine, voters: Sequence[KeeperMachine]) -> bool:
        """Whether a majority of ``voters`` would be whole without ``keeper``."""
        whole = [each for each in voters if each is not keeper and self._is_whole(each)]
        return len(whole) >= majority(len(voters))

    def _is_whole(self, keeper: KeeperMachine) -> bool:
        """Whether that would still be so after a power cut."""
        directory = directory_of(TTID)
        has_timeline = keeper.disk.durable_content(directory / CONTROL_FILE) is not None
        return has_timeline and keeper.disk.durable_content(directory / INCOMPLETE) is None

    def _restart(
        self,
        keeper: KeeperMachine,
        end: Callable[[], Any],
        fault: Fault,
        repairs: trio.Nursery,
        nursery: trio.Nursery,
    ) -> None:
        """End the life of ``keeper`` and begin another after a while; nothing if that is going on already."""

        async def restart() -> None:
            try:
                if keeper.is_running:
                    await end()
                await trio.sleep(fault.amount * DOWN_SECONDS)
                self._start(keeper, nursery)
            finally:
                self._ailing.discard(keeper)

        if keeper not in self._ailing:
            self._ailing.add(keeper)
            repairs.start_soon(restart)

    def _fail_disk(self, fault: Fault, _repairs: trio.Nursery, _nursery: trio.Nursery) -> None:
        disk = self._keeper(fault).disk
        what = DiskFault.IO_ERROR if fault.kind is Kind.DISK_ERROR else DiskFault.SHORT_WRITE
        disk.faults[disk.operations + int(fault.amount * OPERATIONS_MAX)] = what

    def _fill_disk(self, fault: Fault, repairs: trio.Nursery, _nursery: trio.Nursery) -> None:
        keeper = self._keeper(fault)
        keeper.disk.free_bytes = 0

        async def make_room(disk: MemoryDisk) -> None:
            await trio.sleep(fault.amount * TROUBLED_SECONDS)
            disk.free_bytes = disk.total_bytes

        repairs.start_soon(make_room, keeper.disk)

    def _slow_disk(self, fault: Fault, repairs: trio.Nursery, _nursery: trio.Nursery) -> None:
        keeper = self._keeper(fault)
        keeper.disk_seconds = fault.amount

        async def recover_speed() -> None:
            await trio.sleep(fault.amount * TROUBLED_SECONDS)
            keeper.disk_seconds = DISK_SECONDS

        repairs.start_soon(recover_speed)

    def _cut(self, fault: Fault, _repairs: trio.Nursery, _nursery: trio.Nursery) -> None:
        hit = self._keeper(fault).host
        machines: Sequence[Machine] = (*self.keepers, *self.clients)
        for machine in machines:
            if fault.kind is not Kind.CUT_FROM:
                self.network.cut(hit, machine.host)
            if fault.kind is not Kind.CUT_TO:
                self.network.cut(machine.host, hit)

    def _heal(self, *_: object) -> None:
        self.network.heal()
        self.network.delay_seconds = DELAY_SECONDS

    def _reset(self, fault: Fault, _repairs: trio.Nursery, _nursery: trio.Nursery) -> None:
        for client in self.clients:
            self.network.reset(self._keeper(fault).host, client.host)

    def _crash_writer(self, fault: Fault, _repairs: trio.Nursery, _nursery: trio.Nursery) -> None:
        self.writers[fault.place % len(self.writers)].crash()

    def _slow_network(self, fault: Fault, repairs: trio.Nursery, _nursery: trio.Nursery) -> None:
        self.network.delay_seconds = 0.01 + fault.amount * 0.5

        async def speed_up() -> None:
            await trio.sleep(fault.amount * TROUBLED_SECONDS)
            self.network.delay_seconds = DELAY_SECONDS

        repairs.start_soon(speed_up)

    def _jump(self, fault: Fault, _repairs: trio.Nursery, _nursery: trio.Nursery) -> None:
        self._clock.jump(fault.amount * JUMP_SECONDS)

    def _new_writer(self, fault: Fault, _repairs: trio.Nursery, _nursery: trio.Nursery) -> None:
        self.writers[fault.place % len(self.writers)].wake()

    def _new_members(self, fault: Fault, _repairs: trio.Nursery, nursery: trio.Nursery) -> None:
        assert self.controller is not None
        self.controller.change(nursery, fault.place, lambda keeper: self._leave(keeper, fault, nursery))


_Effect = Callable[[World, Fault, trio.Nursery, trio.Nursery], None]

_EFFECTS: Final[dict[Kind, _Effect]] = {
    Kind.STOP: World._stop,
    Kind.KILL: World._kill,
    Kind.POWER_CUT: World._cut_power,
    Kind.DISK_LOST: World._lose_disk,
    Kind.DISK_FULL: World._fill_disk,
    Kind.DISK_ERROR: World._fail_disk,
    Kind.SHORT_WRITE: World._fail_disk,
    Kind.SLOW_DISK: World._slow_disk,
    Kind.CUT_TO: World._cut,
    Kind.CUT_FROM: World._cut,
    Kind.ISOLATED: World._cut,
    Kind.RESET: World._reset,
    Kind.WRITER_CRASH: World._crash_writer,
    Kind.SLOW_NETWORK: World._slow_network,
    Kind.HEAL: World._heal,
    Kind.CLOCK_JUMP: World._jump,
    Kind.NEW_WRITER: World._new_writer,
    Kind.NEW_MEMBERS: World._new_members,
}


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
