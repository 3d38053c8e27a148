"""Who the other keepers are: each counts once, we do not, and whoever never answered might be another."""

import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import msgspec
import pytest
import structlog
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from trio.testing import MockClock

from keeping import SERVER, TTID, Leader, new_disk, timelines_on
from walkeeper.control.catching_up import BEHIND_SECONDS, CAUGHT_UP, HEARING_SECONDS, WELL_SECONDS, catching_up
from walkeeper.control.collectors import DiskJobs
from walkeeper.control.dump import KeeperConfig
from walkeeper.control.health import Readiness
from walkeeper.control.http1 import HttpConnection
from walkeeper.control.neighbours import Neighbours
from walkeeper.control.positions import TIMELINE_BYTES_MAX, Positions, read_positions
from walkeeper.errors import Malformed
from walkeeper.links.address import HttpAddress
from walkeeper.links.overview import ANSWER_SECONDS, POSITIONS_BYTES_MAX, POSITIONS_PATH
from walkeeper.membership import KEEPERS_MAX
from walkeeper.testing.network import MemoryNetwork
from walkeeper.timeline.timelines import Timelines

US = 1


def idle() -> DiskJobs:
    return DiskJobs(0, 0.0)


class Peer:
    """A keeper at an address; ``body`` is what it answers instead."""

    def __init__(self, number: int, instance: str) -> None:
        self.asked = 0
        self.is_silent = False
        self.body: bytes | None = None
        self.status = 200
        self.readiness = Readiness("listener")
        self.readiness.reached("listener")
        self.positions = Positions(KeeperConfig(id=number), instance, self.readiness, idle)

    async def answer(self, _request: Request) -> Response:
        self.asked += 1
        if self.is_silent:
            await trio.sleep_forever()
        return Response(await self.positions.look() if self.body is None else self.body, self.status)


def starting(number: int) -> tuple[Readiness, Positions]:
    """Of another process of that keeper."""
    readiness = Readiness("listener")
    return readiness, Positions(KeeperConfig(id=number), "again", readiness, idle)


@asynccontextmanager
async def among(*peers: Peer, absent: int = 1) -> AsyncIterator[Neighbours]:
    """Us, instance ``us``; the addresses are a, b, …, and one where nobody is, or ``absent``."""
    network = MemoryNetwork(Random(1))
    names = "abcdef"[: len(peers) + absent]

    async def serve(name: str, peer: Peer) -> None:
        app = Starlette(routes=[Route(POSITIONS_PATH, peer.answer)])
        listener = network.host(name).listen()
        while True:
            link, _ = await listener.accept()
            nursery.start_soon(HttpConnection(app, link).serve)

    async with trio.open_nursery() as nursery:
        for name, peer in zip(names, peers, strict=False):
            nursery.start_soon(serve, name, peer)  # noqa: ASYNC113 - it waits for whoever asks
        for name in names[len(peers) :]:
            network.host(name)
        with network.host("us").home():
            yield Neighbours([HttpAddress(name, 7676) for name in names], US, "us")
        nursery.cancel_scope.cancel(reason="asked")


def said_of(**changes: Any) -> bytes:
    """An answer that means something but for ``changes``."""
    timeline = dict.fromkeys(("tenant_id", "timeline_id"), "0" * 32)
    positions = dict.fromkeys(("start_lsn", "flush_lsn", "commit_lsn"), "0/10")
    keeper = {
        "id": 2,
        "instance": "x",
        "state": "serving",
        "is_ready": True,
        "is_caught_up": True,
        "takes_wal": True,
    }
    whole = {**timeline, **positions, "commit_term": 1, "is_whole": True, "generation": 0, "members": []} | changes
    return msgspec.json.encode({"timelines": [whole], **keeper, **changes})


async def test_each_other_keeper_counts_once_and_we_do_not(autojump_clock: MockClock) -> None:
    second, third = Peer(2, "x"), Peer(3, "y")
    third.readiness.hinder("caught up", "not yet")
    async with among(Peer(US, "us"), second, second, third) as neighbours:
        others = await neighbours.look()
        assert [str(each) for each in others] == ["keeper 2 (c:7676)", "keeper 3 (d:7676)", "e:7676"]
        assert [each.trouble for each in others] == ["", "", "Connection refused"]
        assert [each.is_ready for each in others] == [True, False, False]
        assert neighbours.tally() == {"ready": 1, "unready": 1, "silent": 1}


async def test_a_twin_with_our_number_is_another_one(autojump_clock: MockClock) -> None:
    async with among(Peer(US, "us"), Peer(US, "twin")) as neighbours:
        assert [str(each) for each in await neighbours.look()] == ["keeper 1 (b:7676)", "c:7676"]


async def test_where_we_answer_at_all_of_several_addresses_the_others_are_silent(
    autojump_clock: MockClock,
) -> None:
    async with among(Peer(US, "us"), Peer(US, "us"), Peer(US, "us"), absent=0) as neighbours:
        assert len(neighbours.others()) == 3
        others = await neighbours.look()
        assert [each.plight for each in others] == [
            f"{each}:7676: this keeper itself answers there" for each in "bc"
        ]
        assert neighbours.tally() == {"ready": 0, "unready": 0, "silent": 2}
    async with among(Peer(US, "us"), absent=0) as neighbours:
        assert await neighbours.look() == []


async def test_who_hears_only_itself_is_not_ready_until_another_one_is_heard_and_says_so_once(
    autojump_clock: MockClock,
) -> None:
    readiness, second = Readiness(), Peer(US, "us")
    with structlog.testing.capture_logs() as logs:
        async with (
            among(Peer(US, "us"), second, absent=0) as neighbours,
            timelines_on(new_disk()) as ours,
            catching_up(neighbours, ours, readiness),
        ):
            await trio.sleep(3 * HEARING_SECONDS)
            assert not readiness.is_ready
            assert [line["event"] for line in logs] == ["no other keeper is heard: not ready"]
            assert "b:7676: this keeper itself answers there" in logs[0]["error"]
            second.positions = Peer(2, "x").positions
            await trio.sleep(2 * BEHIND_SECONDS)
            assert readiness.is_ready


async def test_what_a_keeper_said_is_remembered_when_it_falls_silent(autojump_clock: MockClock) -> None:
    second = Peer(2, "x")
    async with among(second) as neighbours:
        await neighbours.look()
        second.is_silent = True
        began = trio.current_time()
        silent = (await neighbours.look())[0]
        assert trio.current_time() - began < ANSWER_SECONDS + 0.1
        assert (silent.told, silent.is_answering, silent.is_ready) == ([], False, False)
        assert silent.plight == "keeper 2 (a:7676): no answer within 1 s"


async def test_what_a_keeper_told_is_remembered_while_it_starts_again(autojump_clock: MockClock) -> None:
    async with a_keeper_with_wal() as (second, _, _), among(second) as neighbours:
        told = (await neighbours.look())[0].told
        assert told
        second.readiness, second.positions = starting(2)
        again = (await neighbours.look())[0]
        assert (again.told, again.is_starting, again.is_ready) == (told, True, False)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"id":2,"instance":"x","state":"serving","is_ready":true,"is_caught_up":true,"takes_wal":true,"timelines":[{"tenant_id":"\xff"}]}',
        b'{"id":2,"instance":"x","state":"up","is_ready":true,"is_caught_up":true,"takes_wal":true,"timelines":[]}',
        (
            b'{"id":2,"instance":"x","state":"serving","is_ready":true,"is_caught_up":true,"takes_wal":true,"timelines":[{"tenant_id":"t",'
            b'"timeline_id":"l","start_lsn":"","flush_lsn":"","commit_lsn":"","is_whole":true,"generation":0,"members":[]}]}'
        ),
        said_of(tenant_id="0" * 32 + "\n"),
        said_of(timeline_id="0" * 32 + "\n"),
        said_of(commit_lsn="0/123456789"),
        said_of(commit_lsn="0/1\n0"),
        said_of(id=2**64),
        said_of(generation=2**32),
        said_of(generation=-1),
        said_of(commit_term=2**64),
        said_of(members=[2**64]),
        said_of(members=[-1]),
        said_of(members=list(range(2 * KEEPERS_MAX + 1))),
        said_of().replace(b'"generation":0', b'"generation":' + b"9" * 4_000),
        said_of().replace(b'"members":[]', b'"members":[' + b"9" * 4_000 + b"]"),
        said_of(tenant_id="A" * 32),
        said_of(timeline_id="A" * 32),
        said_of(timelines={}),
        said_of(timelines=7),
        said_of(timelines=[1, 1, 1]),
        said_of(timelines=[{}, {}]),
        said_of(surplus="x" * TIMELINE_BYTES_MAX),
    ],
)
async def test_what_means_nothing_is_no_answer(body: bytes, autojump_clock: MockClock) -> None:
    second = Peer(2, "x")
    second.body = body
    async with among(second) as neighbours:
        assert "cannot be read" in (await neighbours.look())[0].trouble


@pytest.mark.parametrize("element", ["1", "{}", '{"members":[1]}'])
async def test_millions_of_what_means_nothing_are_not_even_counted(element: str) -> None:
    body = said_of(timelines=[]).replace(b"[]", f"[{element}{f',{element}' * 300_000}]".encode())
    tracemalloc.start()
    with pytest.raises(Malformed):
        await read_positions(body)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2 * len(body) + 100_000


async def test_no_keeper_tells_more_than_others_want_to_know(autojump_clock: MockClock) -> None:
    second = Peer(2, "x")
    second.body = said_of(surplus=[1] * (POSITIONS_BYTES_MAX // 2))
    async with among(second) as neighbours:
        assert f"more than {POSITIONS_BYTES_MAX} bytes" in (await neighbours.look())[0].trouble


@pytest.mark.parametrize("status", [200, 500])
async def test_what_is_wrong_is_one_line_whatever_a_keeper_says(status: int, autojump_clock: MockClock) -> None:
    second = Peer(2, "x")
    second.status, second.body = status, said_of(state="a").replace(b'"a"', b'"\\n\\u001b[2J\\u2028"')
    if status == 500:
        second.body = b"oh\n\x1b[2J\xff"
    async with among(second) as neighbours:
        (plight, *_) = [each.plight for each in await neighbours.look()]
    assert "[2J" in plight
    assert plight.isprintable()


async def test_nobody_is_asked_where_nobody_is_named(autojump_clock: MockClock) -> None:
    readiness = Readiness()
    async with timelines_on(new_disk()) as timelines:
        async with catching_up(Neighbours([], US, "us"), timelines, readiness):
            assert (readiness.is_ready, readiness.checks()) == (True, [])


@asynccontextmanager
async def a_keeper_with_wal() -> AsyncIterator[tuple[Peer, Timelines, Leader]]:
    """Another one than ours."""
    async with timelines_on(new_disk()) as timelines:
        leader = Leader(await timelines.create(TTID, SERVER))
        await leader.be_elected()
        reply = await leader.append(5_000)
        await leader.append(0, commit=reply.flush_lsn)
        peer = Peer(2, "x")
        peer.positions.begin(timelines)
        yield peer, timelines, leader


async def test_readiness_follows_what_the_others_say_quickly_at_first_and_seldom_later(
    autojump_clock: MockClock,
) -> None:
    readiness = Readiness()
    async with a_keeper_with_wal() as (peer, _, _), among(peer) as neighbours, timelines_on(new_disk()) as ours:
        async with catching_up(neighbours, ours, readiness):
            assert readiness.checks()[0].problem == "not yet"
            await trio.sleep(5 * BEHIND_SECONDS - 0.5)
            assert [check.problem.partition(" are heard")[0] for check in readiness.checks()] == [
                "not yet",
                "2 of 3 keepers",
            ]
            await trio.sleep(HEARING_SECONDS)
            assert readiness.checks()[0].name == CAUGHT_UP
            assert "which cannot be used here" in readiness.checks()[0].problem
            assert peer.asked == 35
            leader = Leader(await ours.create(TTID, SERVER))
            await leader.be_elected()
            reply = await leader.append(5_000)
            await leader.append(0, commit=reply.flush_lsn)
            await trio.sleep(BEHIND_SECONDS)
            assert readiness.is_ready
            await trio.sleep(3 * WELL_SECONDS)
            assert peer.asked == 39
