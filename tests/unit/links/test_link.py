"""One contract for every link, and what only sockets promise."""

import math
import socket
from collections.abc import AsyncIterator
from threading import Thread

import pytest
import trio
import trio.testing

from streaming import StreamLink, Turns
from walkeeper.links.link import FLOOD_BYTES_MAX, RECEIVE_BYTES_MAX, TRIES_MAX, Link, SocketLink, send_all

MANY = bytes(range(256)) * 20_000
"""More than the buffers of a socket hold."""

Pair = tuple[Link, Link]


def socket_pair() -> tuple[SocketLink, SocketLink]:
    here, there = socket.socketpair()
    return SocketLink(here), SocketLink(there)


def stream_pair() -> tuple[StreamLink, StreamLink]:
    here, there = trio.testing.memory_stream_pair()
    return StreamLink(here), StreamLink(there)


@pytest.fixture(params=[socket_pair, stream_pair])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    ours, theirs = request.param()
    yield ours, theirs
    await ours.aclose()
    await theirs.aclose()


@pytest.fixture
async def sockets() -> AsyncIterator[tuple[SocketLink, SocketLink]]:
    ours, theirs = socket_pair()
    yield ours, theirs
    await ours.aclose()
    await theirs.aclose()


async def receive_all(link: Link) -> bytes:
    received = bytearray()
    while data := await link.receive():
        received += data
    return bytes(received)


# -- the contract --------------------------------------------------------------------------------------------


async def test_bytes_are_counted_on_both_sides(pair: Pair) -> None:
    ours, theirs = pair
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_all, ours, b"hello, ", b"world")
        assert await theirs.receive(7) == b"hello, "
        assert await theirs.receive() == b"world"
    assert (ours.sent_bytes, theirs.received_bytes) == (12, 12)
    assert (ours.received_bytes, theirs.sent_bytes) == (0, 0)


async def test_what_is_sent_is_received_however_much_it_is(pair: Pair) -> None:
    ours, theirs = pair
    received = b""

    async def receive() -> None:
        nonlocal received
        received = await receive_all(theirs)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await send_all(ours, MANY)
        await send_all(ours, memoryview(b"and a view"))
        await ours.send_eof()
    assert received == MANY + b"and a view"


async def test_a_receive_brings_no_more_than_its_limit(pair: Pair) -> None:
    ours, theirs = pair
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_all, ours, MANY)
        left = len(MANY)
        while left:
            data = await theirs.receive()
            assert 0 < len(data) <= RECEIVE_BYTES_MAX
            left -= len(data)


async def test_a_receive_brings_no_more_than_was_asked_for(pair: Pair) -> None:
    ours, theirs = pair
    await send_all(ours, b"abcdef")
    assert [await theirs.receive(4), await theirs.receive(4)] == [b"abcd", b"ef"]


async def test_nothing_is_there_before_something_was_sent(pair: Pair) -> None:
    _, theirs = pair
    assert theirs.try_receive() is None


async def test_after_its_end_one_side_is_silent_and_the_other_may_still_speak(pair: Pair) -> None:
    ours, theirs = pair
    await ours.send_eof()
    assert await theirs.receive() == b""
    await send_all(theirs, b"still here")
    assert await ours.receive() == b"still here"


async def test_a_peer_that_closes_is_an_end(pair: Pair) -> None:
    ours, theirs = pair
    await send_all(theirs, b"last")
    await theirs.aclose()
    assert await receive_all(ours) == b"last"


async def test_sending_to_a_peer_that_has_closed_breaks(pair: Pair) -> None:
    ours, theirs = pair
    await theirs.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await send_all(ours, b"hello")


async def test_a_cancelled_receive_loses_nothing(pair: Pair) -> None:
    ours, theirs = pair
    async with trio.open_nursery() as nursery:
        nursery.start_soon(theirs.receive)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await send_all(ours, b"after all")
    assert await theirs.receive() == b"after all"


async def test_closing_wakes_who_waits_on_our_side(pair: Pair) -> None:
    ours, _ = pair

    async def wait() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await ours.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await ours.aclose()


async def test_everything_breaks_on_a_closed_link(pair: Pair) -> None:
    ours, _ = pair
    await ours.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await ours.receive()
    with pytest.raises(trio.BrokenResourceError):
        await send_all(ours, b"x")


async def test_closing_twice_is_fine(pair: Pair) -> None:
    ours, _ = pair
    await ours.aclose()
    await ours.aclose()


# -- sockets -------------------------------------------------------------------------------------------------


async def test_what_has_arrived_is_received_without_waiting(sockets: tuple[SocketLink, SocketLink]) -> None:
    ours, theirs = sockets
    await send_all(ours, b"abc")
    assert theirs.try_receive() == b"abc"
    assert theirs.try_receive() is None
    await ours.send_eof()
    assert theirs.try_receive() == b""


async def test_what_the_kernel_does_not_take_at_once_is_pending_until_it_is_waited_for(
    sockets: tuple[SocketLink, SocketLink],
) -> None:
    ours, theirs = sockets
    ours.send_soon(MANY, b"", memoryview(b"and more"))
    assert 0 < ours.pending_bytes < len(MANY)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.wait_sent)
        received = b""
        while len(received) < len(MANY) + 8:
            received += await theirs.receive()
    assert received == MANY + b"and more"
    assert ours.pending_bytes == 0


async def test_trying_and_ending_break_on_a_closed_link(sockets: tuple[SocketLink, SocketLink]) -> None:
    ours, _ = sockets
    await ours.aclose()
    with pytest.raises(trio.BrokenResourceError):
        ours.try_receive()
    with pytest.raises(trio.BrokenResourceError):
        ours.send_soon(b"x")
    with pytest.raises(trio.BrokenResourceError):
        await ours.send_eof()


async def test_streams_cannot_be_tried() -> None:
    ours, theirs = stream_pair()
    await send_all(ours, b"x")
    assert theirs.try_receive() is None
    assert await theirs.receive() == b"x"


async def test_trying_gives_up_after_a_while_so_that_others_run(sockets: tuple[SocketLink, SocketLink]) -> None:
    ours, theirs = sockets
    tries = 0
    await send_all(ours, b"x")
    while theirs.try_receive() is not None:
        tries += 1
        assert tries <= TRIES_MAX
        await send_all(ours, b"x")
    assert tries == TRIES_MAX
    assert await theirs.receive() == b"x"


async def test_in_a_flood_others_run_every_few_megabytes() -> None:
    size = 64_000_000
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = socket.create_connection(server.getsockname())
        ours = SocketLink(server.accept()[0])
    sender = Thread(target=there.sendall, args=(bytes(size),))
    sender.start()
    received = in_a_row = 0
    with Turns.counted() as turns:
        while received < size:
            before = turns.count
            data = await ours.receive()
            received += len(data)
            in_a_row = in_a_row + len(data) if turns.count == before else len(data)
            assert in_a_row <= TRIES_MAX * RECEIVE_BYTES_MAX + FLOOD_BYTES_MAX
    sender.join()
    there.close()
    await ours.aclose()


async def test_a_connection_that_was_reset_breaks() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = socket.create_connection(server.getsockname())
        ours = SocketLink(server.accept()[0])
    there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    there.close()  # with this linger, a reset
    with pytest.raises(trio.BrokenResourceError):
        await ours.receive()
    await ours.aclose()


@pytest.mark.parametrize(("seconds", "milliseconds"), [(90, 90_000), (0.25, 250), (math.inf, 0), (1e9, 2**31 - 1)])
async def test_how_long_the_kernel_waits_for_a_peer_that_takes_nothing_is_what_was_asked_for(
    seconds: float, milliseconds: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        accepted, _ = server.accept()
        ours = SocketLink(accepted)
        ours.give_up_after(1)
        ours.give_up_after(seconds)
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == milliseconds
        await ours.aclose()


async def test_a_link_that_is_no_tcp_waits_as_it_did(sockets: tuple[SocketLink, SocketLink]) -> None:
    ours, theirs = sockets
    ours.give_up_after(1)
    await send_all(ours, b"x")
    assert await theirs.receive() == b"x"


async def test_small_messages_over_tcp_are_not_held_back() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        accepted, _ = server.accept()
        ours = SocketLink(accepted)
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not accepted.getblocking()
        await ours.aclose()
