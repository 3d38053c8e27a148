"""The keepers of one writer, over real sockets; the writer has no WAL of its own, like ``walkeeper sync``."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fake_servers import SEGMENT_BYTES, SYSTEM_ID, Client, FakeKeeper, RecordingLog, until
from walkeeper.errors import StartOver
from walkeeper.formats.replication import StandbyStatusUpdate
from walkeeper.ids import NodeId, TenantTimelineId
from walkeeper.links.ensemble import RIVALRY_SECONDS, STRANDED_SECONDS, Ensemble
from walkeeper.links.keeper_link import Introduction, NoWal
from walkeeper.links.wal_stream import REPORT_SECONDS
from walkeeper.lsn import Lsn
from walkeeper.membership import NO_CONFIGURATION, NO_GENERATION, Configuration, Generation, Member
from walkeeper.messages import AcceptorGreeting, AppendResponse, ProposerGreeting, ServerInfo, VoteResponse
from walkeeper.proposer.proposer import Outgoing, Pace, Proposer, Stage
from walkeeper.terms import Term, TermHistory
from walkeeper.testing.wal import WalGenerator

TTID = TenantTimelineId.of_system(SYSTEM_ID)
GREETING = ProposerGreeting(TTID, NO_CONFIGURATION, ServerInfo(150005, 0, SEGMENT_BYTES))
START = Lsn(0x1000000)

ASKED_MAX = 10_000
"""More often than this no test has a reason to ask for the next message."""


class AskedProposer(Proposer):
    """Fails a test that would never end, because somebody asks for ever without waiting."""

    asked = 0

    def next_message(self, place: int, now: float, until: Lsn | None = None) -> Outgoing | None:
        self.asked += 1
        assert self.asked < ASKED_MAX, "it does not stop asking"
        return super().next_message(place, now, until)


@dataclass
class ListeningLog(RecordingLog):
    """Does something at the moment at which something is said."""

    on_event: dict[str, Callable[[], object]] = field(default_factory=dict)

    def info(self, event: str, **fields: object) -> None:
        super().info(event, **fields)
        if reaction := self.on_event.pop(event, None):
            reaction()


@dataclass
class SlowDonor(FakeKeeper):
    """Gives ``bytes_per_second`` of WAL to each reader, and remembers what readers report."""

    bytes_per_second: int = 4096
    reported: list[StandbyStatusUpdate] = field(default_factory=list)

    async def send_wal(
        self, client: Client, begin: Lsn, read: Callable[[Lsn], bytes], end: Callable[[], Lsn]
    ) -> None:
        started_at = trio.current_time()

        def read_slowly(lsn: Lsn) -> bytes:
            given = (trio.current_time() - started_at) * self.bytes_per_second
            return read(lsn)[: max(begin + int(given) - lsn, 0)]

        await super().send_wal(client, begin, read_slowly, end)

    async def hear_status(self, client: Client, status: StandbyStatusUpdate) -> None:
        self.reported.append(status)


def wal_of(records: int) -> WalGenerator:
    wal = WalGenerator(START, wal_seg_size=SEGMENT_BYTES, system_id=SYSTEM_ID)
    for _ in range(records):
        wal.logical_message("test", bytes(20_000))
    return wal


class Scene:
    """Three keepers, of which the first has more WAL than the others, and who writes to them."""

    def __init__(self) -> None:
        self.keepers = [FakeKeeper(node_id=NodeId(number)) for number in (1, 2, 3)]
        self.log = ListeningLog()
        for keeper, records in zip(self.keepers, (9, 3, 3), strict=True):
            keeper.adopt(wal_of(records))

    def gather(self) -> Ensemble:
        addresses = tuple(keeper.address for keeper in self.keepers)
        self.proposer = AskedProposer([str(address) for address in addresses], GREETING)
        introduction = Introduction(TTID, "test", lambda _keeper, _kept: None)
        return Ensemble(addresses, introduction, self.proposer, NoWal(), lambda _commit_lsn: None, self.log)

    @asynccontextmanager
    async def leading(self) -> AsyncIterator[None]:
        """The writer leads within the block, and the others need what only the first keeper has."""
        ensemble = self.gather()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ensemble.run)
            with self.keepers[2].hold():  # so that the first one is among the voters
                await ensemble.wait_elected()
            ensemble.lead()
            yield
            nursery.cancel_scope.cancel()

    def greet(self, place: int, configuration: Configuration) -> None:
        """The proposer and a keeper that nobody needs a connection to."""
        self.proposer.connected(place, is_whole=True)
        self.proposer.next_message(place, 0.0)
        self.proposer.received(place, AcceptorGreeting(NodeId(place + 1), configuration, Term(1)), 0.0)


@pytest.fixture
async def scene(nursery: trio.Nursery) -> Scene:
    scene = Scene()
    for keeper in scene.keepers:
        await nursery.start(keeper.serve)
    return scene


async def test_a_link_that_catches_up_does_not_spin_when_the_leadership_is_over(
    autojump_clock: MockClock, scene: Scene
) -> None:
    """Another link hears of a higher term: nothing more is said to anyone, although WAL from the donor comes in."""

    def hear_of_a_higher_term() -> None:
        scene.proposer.received(0, AppendResponse(NO_GENERATION, Term(9)), trio.current_time())

    scene.log.on_event["keeper catches up"] = hear_of_a_higher_term
    async with scene.leading():
        await until(lambda: bool(scene.log.said("keeper catches up")))
        await trio.sleep(5)
    assert scene.proposer.stage is Stage.OVER
    assert [keeper.flush_lsn for keeper in scene.keepers[1:]] == [wal_of(3).lsn] * 2


async def test_a_donor_that_gives_nothing_does_not_keep_a_leadership_alive(
    autojump_clock: MockClock, scene: Scene
) -> None:
    scene.keepers[0].refuses_readers = True
    ends_at = trio.current_time() + STRANDED_SECONDS

    async def lead_in_vain() -> None:
        async with scene.leading():
            await trio.sleep(10 * STRANDED_SECONDS)

    with pytest.RaisesGroup(StartOver, flatten_subgroups=True):
        await lead_in_vain()
    assert ends_at <= trio.current_time() < ends_at + STRANDED_SECONDS


async def test_a_donor_that_gives_at_last_was_worth_the_wait(autojump_clock: MockClock, scene: Scene) -> None:
    scene.keepers[0].refuses_readers = True
    async with scene.leading():
        await trio.sleep(STRANDED_SECONDS / 2)
        scene.keepers[0].refuses_readers = False
        await until(lambda: all(keeper.flush_lsn == wal_of(9).lsn for keeper in scene.keepers))
        await trio.sleep(2 * STRANDED_SECONDS)


async def test_a_donor_hears_how_far_it_was_read_so_that_it_goes_on_giving(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """A keeper sends readers away that say nothing for long, however much they still need."""
    scene, donor = Scene(), SlowDonor(node_id=NodeId(1))
    scene.keepers[0] = donor
    donor.adopt(wal_of(9))
    for keeper in scene.keepers:
        await nursery.start(keeper.serve)
    before = trio.current_time()
    async with scene.leading():
        await until(lambda: all(keeper.flush_lsn == wal_of(9).lsn for keeper in scene.keepers))
    reports_of_each = (trio.current_time() - before) // REPORT_SECONDS - 1
    assert len(donor.reported) >= 2 * reports_of_each >= 2
    assert all(status.write_lsn > START for status in donor.reported)
    assert {(status.flush_lsn, status.apply_lsn) for status in donor.reported} == {(0, 0)}


async def test_a_lost_campaign_that_is_over_before_it_could_be_repeated_is_not_repeated(
    autojump_clock: MockClock, scene: Scene
) -> None:
    """What ends it leaves by the task of the link that heard of it, perhaps in the same tick."""
    ensemble, proposer = scene.gather(), scene.proposer
    lost = VoteResponse(NO_GENERATION, Term(9), False, Lsn(0), Lsn(0), TermHistory())
    newer = Configuration(Generation(2), (Member(NodeId(3), "c", 1),))
    with scene.keepers[0].hold(), scene.keepers[1].hold(), scene.keepers[2].hold():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ensemble.run)
            scene.greet(0, NO_CONFIGURATION)
            scene.greet(1, NO_CONFIGURATION)
            proposer.next_message(0, 0.0)
            ensemble.act(proposer.received(0, lost, 0.0))
            scene.greet(2, newer)
            await trio.sleep(2 * max(RIVALRY_SECONDS))
            nursery.cancel_scope.cancel()
    assert proposer.stage is Stage.OVER


async def test_keepers_that_became_whole_under_a_rival_are_a_majority_when_they_are_greeted_again(
    autojump_clock: MockClock, scene: Scene
) -> None:
    """They say what they are once for each connection, and the third of them is gone for good."""
    for keeper in scene.keepers:
        keeper.is_whole = False
    ensemble = scene.gather()
    with scene.keepers[2].hold():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ensemble.run)
            await until(lambda: sum(follower.has_greeted for follower in scene.proposer.followers) == 2)
            for keeper in scene.keepers[:2]:
                keeper.is_whole = True
            with trio.fail_after(2 * Pace().greeting_seconds):
                await ensemble.wait_elected()
            nursery.cancel_scope.cancel()
    assert {line["keeper"] for line in scene.log.said("keeper lost")} == {str(scene.keepers[2].address)}


async def test_whoever_waits_for_something_is_woken_when_it_holds_and_by_no_other_news(scene: Scene) -> None:
    ensemble, holds = scene.gather(), False
    looked: list[trio.lowlevel.Task] = []

    def condition() -> bool:
        looked.append(trio.lowlevel.current_task())
        return holds

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ensemble.wait_until, condition)
        await wait_all_tasks_blocked()
        looked.clear()
        for _ in range(3):
            ensemble.keeper_came_or_went()
            await wait_all_tasks_blocked()
        assert looked == 3 * [trio.lowlevel.current_task()]
        holds = True
        ensemble.keeper_came_or_went()


async def test_what_has_held_for_a_moment_only_is_waited_for_again(scene: Scene) -> None:
    ensemble, holds, seen = scene.gather(), False, []

    async def wait() -> None:
        await ensemble.wait_until(lambda: holds)
        seen.append(holds)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        holds = True
        ensemble.keeper_came_or_went()
        holds = False
        await wait_all_tasks_blocked()
        assert not seen
        holds = True
        ensemble.keeper_came_or_went()
    assert seen == [True]


async def test_a_keeper_that_is_back_is_not_in_trouble_any_more(autojump_clock: MockClock, scene: Scene) -> None:
    ensemble = scene.gather()
    link = ensemble.links[2]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ensemble.run)
        with scene.keepers[2].hold():
            await ensemble.wait_elected()
            await until(lambda: bool(link.trouble))
            assert ensemble.troubles() == link.trouble
        await until(lambda: not link.trouble)
        nursery.cancel_scope.cancel()


async def test_keepers_hear_heartbeats_behind_news_that_could_not_be_told_at_once(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """The first commit comes while one keeper is still fed by a donor; that must not stop the clock for the others."""
    scene, donor = Scene(), SlowDonor(node_id=NodeId(1))
    scene.keepers[0] = donor
    donor.adopt(wal_of(9))
    for keeper in scene.keepers:
        await nursery.start(keeper.serve)
    scene.keepers[1].adopt(wal_of(8))
    async with scene.leading():
        await until(lambda: scene.keepers[1].flush_lsn == wal_of(9).lsn)
        assert scene.keepers[2].flush_lsn < wal_of(9).lsn
        before = [keeper.appends for keeper in scene.keepers[:2]]
        await trio.sleep(10 * Pace().heartbeat_seconds)
        after = [keeper.appends for keeper in scene.keepers[:2]]
    assert all(late >= early + 8 for early, late in zip(before, after, strict=True))
