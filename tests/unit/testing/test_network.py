"""The network in memory: bytes arrive when it is time, and nobody waits for what cannot come."""

from collections.abc import Awaitable, Callable
from random import Random

import pytest
import trio
from trio.testing import MockClock

from walkeeper.links.link import Link
from walkeeper.testing.network import GIVEN_UP_SECONDS, WINDOW_BYTES, Host, MemoryNetwork

BREAKS: dict[str, Callable[[Host, Link], object]] = {
    "closed here": lambda _host, link: link.aclose(),
    "its host goes down": lambda host, _link: host.go_down(silently=True),
}


class Line:
    """A connection between two hosts, and both its ends."""

    def __init__(self, network: MemoryNetwork, here: Link, there: Link) -> None:
        self.network, self.here, self.there = network, here, there

    @classmethod
    async def new(cls) -> "Line":
        network = MemoryNetwork(Random(1))
        server, client = network.host("server"), network.host("client")
        listener = server.listen()
        here = await network.connect(client, server)
        there, _ = await listener.accept()
        return cls(network, here, there)

    async def send_until_full(self) -> None:
        self.here.send_soon(bytes(2 * WINDOW_BYTES))
        await self.here.wait_sent()


async def seconds_until_it_breaks(action: Callable[[], Awaitable[object]]) -> float:
    began = trio.current_time()
    with pytest.raises(trio.BrokenResourceError):
        await action()
    return trio.current_time() - began


async def test_a_receiver_is_woken_when_bytes_arrive_and_not_before(autojump_clock: MockClock) -> None:
    line = await Line.new()
    line.network.delay_seconds = 1.0
    line.here.send_soon(b"late")
    began = trio.current_time()
    assert await line.there.receive() == b"late"
    assert trio.current_time() > began


async def test_what_a_partition_holds_back_comes_when_it_is_over(autojump_clock: MockClock) -> None:
    line = await Line.new()
    client, server = line.network.host("client"), line.network.host("server")
    line.network.cut(client, server)
    line.here.send_soon(b"held back")
    with trio.move_on_after(3.0) as patience:
        await line.there.receive()
    assert patience.cancelled_caught
    line.network.heal()
    assert await line.there.receive() == b"held back"


async def test_a_sender_goes_on_when_the_receiver_has_made_room(autojump_clock: MockClock) -> None:
    line = await Line.new()
    received = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.send_until_full)
        while received < 2 * WINDOW_BYTES:
            received += len(await line.there.receive())
    assert line.here.pending_bytes == 0


@pytest.mark.parametrize("break_it", BREAKS.values(), ids=BREAKS)
@pytest.mark.parametrize("waits", ["receiving", "sending"])
async def test_who_waits_at_an_end_that_is_gone_hears_so_at_once(
    waits: str, break_it: Callable[[Host, Link], object], autojump_clock: MockClock
) -> None:
    line = await Line.new()
    seconds: list[float] = []

    async def wait() -> None:
        seconds.append(
            await seconds_until_it_breaks(line.here.receive if waits == "receiving" else line.send_until_full)
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        done = break_it(line.network.host("client"), line.here)
        if isinstance(done, Awaitable):
            await done
    assert seconds == [0.0]


async def test_the_peer_of_a_host_that_vanished_believes_in_it_for_a_while(autojump_clock: MockClock) -> None:
    line = await Line.new()
    line.network.host("client").go_down(silently=True)
    shortest, longest = GIVEN_UP_SECONDS
    assert shortest <= await seconds_until_it_breaks(line.there.receive) <= longest


@pytest.mark.parametrize("waits", ["receiving", "sending"])
async def test_two_tasks_cannot_wait_at_one_end(waits: str, autojump_clock: MockClock) -> None:
    line = await Line.new()
    action = line.here.receive if waits == "receiving" else line.send_until_full
    async with trio.open_nursery() as nursery:
        nursery.start_soon(action)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await action()
        nursery.cancel_scope.cancel()
