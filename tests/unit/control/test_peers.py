"""Other keepers are asked at once and seldom, and whatever they answer becomes a row."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import msgspec
import pytest
import structlog
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from trio.testing import MockClock

from walkeeper.control.dump import KeeperConfig
from walkeeper.control.http1 import HttpConnection
from walkeeper.control.looks import WATCHERS_MAX, Surroundings, describe_keeper
from walkeeper.control.overview import OverviewJson, TimelineJson, TotalsJson
from walkeeper.control.peers import ASK_SECONDS, FINDS_KEPT_MAX, Peers
from walkeeper.links.address import HttpAddress
from walkeeper.links.overview import ANSWER_SECONDS, PATH
from walkeeper.testing.network import MemoryNetwork

NODE, OTHER_NODE = 1, 2
PEER = HttpAddress("k2", 7676)
NAME = 64 * "a"


class Peer:
    """Another keeper: has one timeline, named after what is looked for, or answers with ``body``, or is silent."""

    def __init__(self, body: bytes | None = None, node_id: int = OTHER_NODE) -> None:
        self.asked: list[str] = []
        self.is_silent = False
        self._body = body
        self.around = Surroundings(KeeperConfig(id=node_id))

    async def answer(self, request: Request) -> Response:
        find = request.query_params["find"]
        self.asked.append(find)
        if self.is_silent:
            await trio.sleep_forever()
        return Response(self._overview(find) if self._body is None else self._body)

    def _overview(self, find: str) -> bytes:
        keeper = describe_keeper(self.around, 0, None)
        timeline = TimelineJson(find, find, "open", [])
        return msgspec.json.encode(OverviewJson(0.0, keeper, TotalsJson(), [timeline], [], []))


@asynccontextmanager
async def beside(peer: Peer, instance: str = "me") -> AsyncIterator[Peers]:
    """Who asks ``peer``."""
    network = MemoryNetwork(Random(1))
    listener = network.host(PEER.host).listen()
    app = Starlette(routes=[Route(PATH, peer.answer)])

    async def serve() -> None:
        while True:
            link, _ = await listener.accept()
            nursery.start_soon(HttpConnection(app, link).serve)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)  # noqa: ASYNC113 - it waits for whoever asks
        with network.host("k1").home():
            yield Peers([PEER], NODE, instance)
        nursery.cancel_scope.cancel(reason="asked")


async def names_at(peers: Peers, find: str) -> list[str]:
    (told,) = await peers.look(find)
    return [each.tenant_id for each in told.timelines]


async def test_a_peer_that_does_not_answer_is_red_and_says_since_when() -> None:
    with structlog.testing.capture_logs() as logs:
        peers = Peers([HttpAddress("127.0.0.1", 9)], NODE, "me")
        (peer,) = await peers.look()
    assert (peer.is_answering, peer.keeper, [each.level for each in peer.problems]) == (False, None, ["red"])
    assert [line["event"] for line in logs] == ["peer lost"]


async def test_however_many_wait_for_a_silent_peer_it_is_asked_once(autojump_clock: MockClock) -> None:
    peer = Peer()
    peer.is_silent = True
    async with beside(peer) as peers:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(WATCHERS_MAX):
                nursery.start_soon(peers.look)
        assert trio.current_time() - began < ANSWER_SECONDS + 0.1
        assert len(peer.asked) == 1
        await trio.sleep(2 * ASK_SECONDS)
        await peers.look()
        assert len(peer.asked) == 2


async def test_an_answer_belongs_to_what_was_looked_for(autojump_clock: MockClock) -> None:
    peer = Peer()
    async with beside(peer) as peers:
        for _ in range(2):
            assert [await names_at(peers, find) for find in ("a", "b")] == [["a"], ["b"]]
    assert peer.asked == ["a", "b"]


async def test_those_who_look_for_different_things_do_not_wait_for_each_other(autojump_clock: MockClock) -> None:
    peer = Peer()
    peer.is_silent = True
    async with beside(peer) as peers:
        with trio.fail_after(ANSWER_SECONDS + 0.1):
            async with trio.open_nursery() as nursery:
                for number in range(2 * WATCHERS_MAX):
                    nursery.start_soon(peers.look, NAME[: number + 1])


async def test_only_so_much_of_what_was_looked_for_is_kept(autojump_clock: MockClock) -> None:
    peer = Peer()
    finds = [NAME[: number + 1] for number in range(FINDS_KEPT_MAX + 1)]
    began = trio.current_time()
    async with beside(peer) as peers:
        for find in (*finds, finds[-1], finds[0]):
            await peers.look(find)
        assert trio.current_time() - began < ASK_SECONDS
    assert peer.asked == [*finds, finds[0]]


async def test_who_leaves_in_the_middle_leaves_no_peer_unasked(autojump_clock: MockClock) -> None:
    peer = Peer()
    peer.is_silent = True
    async with beside(peer) as peers:
        with trio.move_on_after(ANSWER_SECONDS / 2):
            await peers.look()
        (told,) = await peers.look()
    assert not told.is_answering


@pytest.mark.parametrize("body", [b"{}", b"\xff", b'{"x":' + b"[" * 100_000])
async def test_what_is_no_overview_is_a_row_with_a_reason(body: bytes, autojump_clock: MockClock) -> None:
    async with beside(Peer(body)) as peers:
        (told,) = await peers.look()
    assert [(each.level, "cannot be read" in each.what) for each in told.problems] == [("amber", True)]


async def test_this_keeper_may_be_in_its_own_list_and_is_left_out_even_when_silent(
    autojump_clock: MockClock,
) -> None:
    peer = Peer(node_id=NODE)
    async with beside(peer, peer.around.instance) as peers:
        assert await peers.look() == []
        peer.is_silent = True
        await trio.sleep(ASK_SECONDS)
        assert await peers.look() == []


async def test_another_process_with_our_number_is_a_twin(autojump_clock: MockClock) -> None:
    async with beside(Peer(node_id=NODE)) as peers:
        (told,) = await peers.look()
    assert "It says that it is keeper 1, as this one does." in [each.what for each in told.problems]
