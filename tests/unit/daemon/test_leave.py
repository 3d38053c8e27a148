"""A keeper that is told to stop goes when the others can do without it, and of several the highest number first."""

import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
import structlog
import trio
from starlette.applications import Starlette
from trio.testing import MockClock

from keeping import SERVER, TTID, new_disk, timelines_on
from walkeeper.control.collectors import HANGS_SECONDS, DiskJobs
from walkeeper.control.dump import KeeperConfig
from walkeeper.control.health import Readiness
from walkeeper.control.http1 import HttpConnection
from walkeeper.control.neighbours import Neighbour, Neighbours
from walkeeper.control.positions import KeeperPositionsJson, Positions, TimelinePositionsJson
from walkeeper.daemon.leave import LAST_SECONDS, SETTLE_SECONDS, configurations_of, leave, what_is_missing
from walkeeper.ids import NodeId
from walkeeper.links.address import HttpAddress
from walkeeper.membership import Configuration, Generation, Member, majority
from walkeeper.testing.network import MemoryNetwork
from walkeeper.timeline.timelines import Timelines

PATIENCE_SECONDS: Final = 60.0
DRAIN_SECONDS: Final = 3.0
LISTENER: Final = "listener"
CAUGHT_UP: Final = "caught up"


def well() -> DiskJobs:
    return DiskJobs(1, HANGS_SECONDS - 0.1)


def wedged() -> DiskJobs:
    return DiskJobs(1, HANGS_SECONDS)


class Cluster:
    """Keepers that can be told to stop, on a network of their own.  Each has all of them, itself too, in its list."""

    def __init__(self, size: int, nursery: trio.Nursery, seed: int = 1) -> None:
        self.numbers = range(1, size + 1)
        self.readiness: dict[int, Readiness] = {}
        self.left: list[int] = []
        self.left_at: dict[int, float] = {}
        self.fewest = self.fewest_after = size
        self._nursery = nursery
        self._network = MemoryNetwork(Random(seed))
        self._hosts = {number: self._network.host(f"k{number}") for number in self.numbers}
        self._instances: dict[int, str] = {}
        self._started = count()
        self.disks: dict[int, Callable[[], DiskJobs]] = {}
        self.timelines: dict[int, Timelines] = {}
        for number in self.numbers:
            self.start(number)

    def start(self, number: int) -> None:
        """It serves and is ready at once."""
        self.readiness[number] = Readiness(LISTENER)
        self.readiness[number].reached(LISTENER)
        self._instances[number] = f"process {next(self._started)}"
        self._nursery.start_soon(self._serve, number)

    async def _serve(self, number: int) -> None:
        readiness = self.readiness[number]
        disk = self.disks.get(number, well)
        positions = Positions(KeeperConfig(id=number), self._instances[number], readiness, disk)
        if number in self.timelines:
            positions.begin(self.timelines[number])
        app = Starlette(routes=[positions.endpoint().route(None)])
        listener = self._hosts[number].listen()
        while self.readiness[number] is readiness:
            link, _ = await listener.accept()
            self._nursery.start_soon(HttpConnection(app, link).serve)

    async def stop(
        self,
        number: int,
        patience_seconds: float = PATIENCE_SECONDS,
        disk: Callable[[], DiskJobs] = well,
    ) -> None:
        """Tell it to stop, and wait until it goes."""
        addresses = [HttpAddress(f"k{each}", 7676) for each in self.numbers]
        with self._hosts[number].home():
            neighbours = Neighbours(addresses, number, self._instances[number])
            await leave(neighbours, self.readiness[number], disk, patience_seconds, DRAIN_SECONDS)
        self.readiness[number].drain(LISTENER)
        self.left.append(number)
        self.left_at[number] = trio.current_time()
        self.fewest = min(self.fewest, self.present)

    @property
    def present(self) -> int:
        return sum(each.state != "draining" for each in self.readiness.values())

    async def roll(
        self,
        number: int,
        delay_seconds: float,
        gone_seconds: float,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """Stop it after a while, and bring it back."""
        await trio.sleep(delay_seconds)
        began = trio.current_time()
        await self.stop(number, patience_seconds)
        if trio.current_time() < began + patience_seconds:
            self.fewest_after = min(self.fewest_after, self.present)
            self._nursery.start_soon(self._look_after)
        await trio.sleep(gone_seconds)
        self.start(number)

    async def _look_after(self) -> None:
        """How many are there while somebody who was not needed has just gone."""
        ends = trio.current_time() + SETTLE_SECONDS - 0.1
        while trio.current_time() < ends:
            self.fewest_after = min(self.fewest_after, self.present)
            await trio.sleep(0.1)


async def seconds_of(work: Callable[[], Any]) -> float:
    began = trio.current_time()
    await work()
    return trio.current_time() - began


async def test_it_stays_until_what_it_has_seen_of_the_others_counts_and_says_that_it_leaves(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        cluster = Cluster(3, nursery)
        nursery.start_soon(cluster.stop, 2)
        await trio.sleep(SETTLE_SECONDS / 2)
        ready = cluster.readiness[2]
        assert (ready.state, ready.is_ready, cluster.left) == ("leaving", False, [])
        assert [check.problem for check in ready.checks() if check.problem] == ["leaving"]
        await trio.sleep(SETTLE_SECONDS)
        assert cluster.left == [2]
        nursery.cancel_scope.cancel(reason="seen")


async def test_it_waits_for_others_to_catch_up_or_to_come_back(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        cluster = Cluster(3, nursery)
        cluster.readiness[1].hinder(CAUGHT_UP, "not yet")
        nursery.start_soon(cluster.stop, 3)
        await trio.sleep(20)
        assert cluster.left == []
        cluster.readiness[1].hinder(CAUGHT_UP, "")
        await trio.sleep(2)
        assert cluster.left == [3]
        nursery.cancel_scope.cancel(reason="seen")


async def test_of_three_that_leave_at_once_the_highest_goes_first_and_the_others_when_their_time_is_over(
    autojump_clock: MockClock,
) -> None:
    with structlog.testing.capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            cluster = Cluster(3, nursery)
            async with trio.open_nursery() as stopping:
                for number in cluster.numbers:
                    stopping.start_soon(cluster.stop, number)
                await trio.sleep(PATIENCE_SECONDS - 1)
                assert cluster.left == [3]
            nursery.cancel_scope.cancel(reason="seen")
    assert sorted(cluster.left) == [1, 2, 3]
    warnings = [line for line in logs if line["log_level"] == "warning"]
    assert {line["event"] for line in warnings} == {"leaving although the others may be no quorum"}
    assert len(warnings) == 2
    assert all("keeper 3 (k3:7676): draining" in line["error"] for line in warnings)


async def test_one_that_leaves_and_is_not_caught_up_is_nobody_to_rely_on(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        cluster = Cluster(3, nursery)
        cluster.readiness[1].hinder(CAUGHT_UP, "not yet")
        nursery.start_soon(cluster.stop, 1)
        nursery.start_soon(cluster.stop, 2)
        await trio.sleep(PATIENCE_SECONDS / 2)
        assert cluster.left == []
        nursery.cancel_scope.cancel(reason="seen")


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("seed", range(10))
async def test_however_many_are_rolled_at_whatever_moments_a_majority_stays(
    size: int, seed: int, autojump_clock: MockClock
) -> None:
    random = Random(seed)
    async with trio.open_nursery() as nursery:
        cluster = Cluster(size, nursery, seed)
        async with trio.open_nursery() as rolling:
            for number in cluster.numbers:
                rolling.start_soon(cluster.roll, number, random.uniform(0, 4), random.uniform(0.5, 3))
        nursery.cancel_scope.cancel(reason="all are back")
    assert sorted(cluster.left) == list(cluster.numbers)
    assert cluster.fewest == majority(size)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("seed", range(10))
async def test_whoever_goes_because_others_are_enough_leaves_a_majority_though_the_time_of_some_is_over(
    size: int, seed: int, autojump_clock: MockClock
) -> None:
    random = Random(seed)
    with structlog.testing.capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            cluster = Cluster(size, nursery, seed)
            async with trio.open_nursery() as rolling:
                for number in cluster.numbers:
                    delay, gone = random.uniform(0, 8), random.uniform(6, 15)
                    rolling.start_soon(cluster.roll, number, delay, gone, random.uniform(3, 8))
            nursery.cancel_scope.cancel(reason="all are back")
    assert sorted(cluster.left) == list(cluster.numbers)
    assert cluster.fewest_after >= majority(size)
    assert {line["event"] for line in logs} > {"leaving although the others may be no quorum"}


async def test_nobody_counts_on_one_whose_time_is_nearly_over(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        cluster = Cluster(3, nursery)
        cluster.readiness[2].hinder(CAUGHT_UP, "not yet")
        nursery.start_soon(cluster.stop, 1)
        await trio.sleep(PATIENCE_SECONDS - LAST_SECONDS - 0.5)
        nursery.start_soon(cluster.stop, 3)
        await trio.sleep(0.5)
        assert "time to stay: nearly over" in str(cluster.readiness[1].checks()[-2])
        cluster.readiness[2].hinder(CAUGHT_UP, "")
        await trio.sleep(PATIENCE_SECONDS / 2)
        assert cluster.left == [1]
        nursery.cancel_scope.cancel(reason="seen")


@pytest.mark.parametrize(
    ("size", "patience_seconds", "disk", "longest"),
    [(3, 0.0, well, 0.0), (3, PATIENCE_SECONDS, wedged, 0.0), (1, PATIENCE_SECONDS, well, SETTLE_SECONDS + 1)],
    ids=["nobody said so", "the disk hangs", "there is no other keeper"],
)
async def test_who_need_not_wait_goes_at_once(
    size: int,
    patience_seconds: float,
    disk: Callable[[], DiskJobs],
    longest: float,
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        cluster = Cluster(size, nursery)
        cluster.readiness[1].hinder(CAUGHT_UP, "not yet")
        assert await seconds_of(lambda: cluster.stop(size, patience_seconds, disk)) <= longest
        nursery.cancel_scope.cancel(reason="seen")


async def test_who_was_given_no_time_to_wait_warns_of_nobody(autojump_clock: MockClock) -> None:
    with structlog.testing.capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            await Cluster(3, nursery).stop(3, 0.0)
            nursery.cancel_scope.cancel(reason="seen")
    assert [each["event"] for each in logs if each["event"].startswith("leaving")] == []


async def test_it_stays_for_one_that_is_ready_and_cannot_take_wal_and_says_so(autojump_clock: MockClock) -> None:
    with structlog.testing.capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            cluster = Cluster(3, nursery)
            cluster.disks[2] = lambda: wedged() if trio.current_time() < hangs_until else well()
            hangs_until = trio.current_time() + PATIENCE_SECONDS / 2
            assert PATIENCE_SECONDS / 2 <= await seconds_of(lambda: cluster.stop(1)) <= PATIENCE_SECONDS / 2 + 2
            cluster.start(1)
            hangs_until = trio.current_time() + 2 * PATIENCE_SECONDS
            await cluster.stop(1)
            nursery.cancel_scope.cancel(reason="seen")
    assert "keeper 2 (k2:7676): takes no WAL" in logs[-1]["error"]


async def test_a_disk_that_begins_to_hang_ends_the_wait(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        cluster = Cluster(3, nursery)
        cluster.readiness[1].hinder(CAUGHT_UP, "not yet")
        hangs_at = trio.current_time() + 10
        ended = await seconds_of(
            lambda: cluster.stop(3, disk=lambda: wedged() if trio.current_time() > hangs_at else well())
        )
        assert 10 <= ended <= 12
        nursery.cancel_scope.cancel(reason="seen")


def other(
    number: int, state: Any = "serving", *, is_ready: bool = True, takes_wal: bool = True, trouble: str = ""
) -> Neighbour:
    said = KeeperPositionsJson(number, f"i{number}", state, is_ready, True, takes_wal, [])
    return Neighbour(HttpAddress(f"k{number}", 7676), said, trouble)


def silent(number: int) -> Neighbour:
    return Neighbour(HttpAddress(f"k{number}", 7676), None, "Connection refused")


@pytest.mark.parametrize(
    ("others", "is_enough"),
    [
        ([], True),
        ([other(1), other(3)], True),
        ([other(1), other(3, trouble="no answer within 1 s")], False),
        ([other(1), silent(3)], False),
        ([other(1), other(3, is_ready=False)], False),
        ([other(1), other(3, takes_wal=False)], False),
        ([other(1, "leaving", is_ready=False, takes_wal=False), other(3)], False),
        ([other(1), other(3, "leaving", is_ready=False)], False),
        ([other(1, "leaving", is_ready=False), other(3)], True),
        ([other(1, "draining", is_ready=False), other(3)], False),
        ([other(1, "leaving", is_ready=False, trouble="no answer within 1 s"), other(3)], False),
        ([other(1), other(3), other(4), silent(5)], True),
        ([other(1), other(3), silent(4), silent(5)], False),
        ([other(1)], False),
    ],
)
def test_the_others_are_enough_if_those_that_stay_are_a_majority_of_all(
    others: Sequence[Neighbour], is_enough: bool
) -> None:
    said = what_is_missing(others, 2)
    assert bool(said) is not is_enough
    for each in others:
        if not is_enough and not (each.is_ready and each.takes_wal):
            assert str(each) in said


@pytest.mark.parametrize(
    ("members", "is_enough"),
    [
        ([(1, 2, 3)], False),
        ([(1, 3, 4)], True),
        ([(1, 3, 4), (1, 2, 3)], False),
        ([(1, 2, 3, 4, 5)], True),
        ([], True),
    ],
)
def test_the_others_must_be_a_majority_of_the_members_of_each_timeline_too(
    members: Sequence[Sequence[int]], is_enough: bool
) -> None:
    others = [silent(2), other(3), other(4), other(5)]
    said = what_is_missing(others, 1, members)
    assert bool(said) is not is_enough
    if not is_enough:
        assert said == "2 of 3 members of a timeline are needed, 1 would be left; k2:7676: Connection refused"


def told(generation: int, *members: int, timeline: int = 0) -> TimelinePositionsJson:
    tenant_id, timeline_id = "0" * 32, f"{timeline:032x}"
    return TimelinePositionsJson(
        tenant_id, timeline_id, "0/10", "0/20", "0/20", 1, True, generation, list(members)
    )


async def test_members_are_those_of_the_newest_configurations_that_we_are_in() -> None:
    said = [
        [told(1, 1, 2, 3), told(1, 4, 5, 6, timeline=1), told(0, timeline=2)],
        [told(2, 1, 2, 4), told(1, 1, 8, 9, timeline=3)],
    ]
    others = [replace(other(number), told=each) for number, each in enumerate(said, 2)]
    assert await configurations_of(others, 1) == {(1, 2, 4), (1, 8, 9)}


async def test_it_stays_for_members_though_others_are_many(autojump_clock: MockClock) -> None:
    members = tuple(Member(NodeId(number), f"k{number}", 5454) for number in (1, 2, 3))
    async with timelines_on(new_disk()) as timelines, trio.open_nursery() as nursery:
        await timelines.create(TTID, SERVER, configuration=Configuration(Generation(1), members))
        cluster = Cluster(5, nursery)
        cluster.timelines[3] = timelines
        cluster.readiness[3].hinder(CAUGHT_UP, "not yet")
        cluster.readiness[2].hinder(CAUGHT_UP, "not yet")
        nursery.start_soon(cluster.stop, 1)
        await trio.sleep(PATIENCE_SECONDS / 2)
        assert cluster.left == []
        cluster.readiness[2].hinder(CAUGHT_UP, "")
        cluster.readiness[3].hinder(CAUGHT_UP, "")
        await trio.sleep(2)
        assert cluster.left == [1]
        nursery.cancel_scope.cancel(reason="seen")


async def test_the_service_manager_hears_of_it_when_it_begins_and_how_long_it_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        await leave(Neighbours([], 1, "me"), Readiness(), well, 60.0, 3.0)
        manager.setblocking(False)
        assert manager.recv(1000) == b"STOPPING=1\nEXTEND_TIMEOUT_USEC=93000000"
