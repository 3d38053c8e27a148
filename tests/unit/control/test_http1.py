"""A client of the HTTP port: however slow, silent, endless or gone it is, it costs a bounded time and memory."""

from collections.abc import Awaitable, Callable
from random import Random

import pytest
import trio
import trio.testing
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from trio.testing import MockClock

from walkeeper.control import http1
from walkeeper.control.http1 import (
    BODY_SECONDS_MAX,
    GRACE_SECONDS,
    HEAD_BYTES_MAX,
    HEAD_SECONDS_MAX,
    IDLE_SECONDS_MAX,
    LINGER_SECONDS_MAX,
    PIECE_BYTES,
    SEND_SECONDS_MAX,
    HttpConnection,
)
from walkeeper.links.link import Link, send_all
from walkeeper.testing.network import WINDOW_BYTES, MemoryNetwork

A_MOMENT = 0.5
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
CLOSE = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
TOO_MUCH = bytes(4 * WINDOW_BYTES)
CHUNKED = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


class Scene:
    """A client and the connection that serves it; what the handlers have done."""

    def __init__(self, link: Link, there: Link, connection: HttpConnection) -> None:
        self.link, self.there, self.connection = link, there, connection
        self.bodies: list[bytes] = []

    async def hear_all(self) -> bytes:
        """Until the server ends its side."""
        heard = b""
        while received := await self.link.receive():
            heard += received
        return heard

    async def seconds_until_end(self) -> float:
        began = trio.current_time()
        await self.hear_all()
        return trio.current_time() - began


Tell = Callable[[Scene], Awaitable[None]]
handled = trio.lowlevel.RunVar[list[str]]("handled")


async def hello(_request: Request) -> Response:
    return PlainTextResponse("hello")


async def echo(request: Request) -> Response:
    handled.get().append("begun")
    body = await request.body()
    handled.get().append("heard")
    return PlainTextResponse(body)


async def deaf(_request: Request) -> Response:
    return PlainTextResponse("too large", 413)


class Stream:
    """An answer in three pieces."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        for number in range(3):
            await trio.sleep(1)
            await send({"type": "http.response.body", "body": b"%d" % number, "more_body": True})
        await send({"type": "http.response.body"})


async def never(_request: Request) -> Response:
    try:
        await trio.sleep_forever()
    finally:
        handled.get().append("cancelled")


async def much(_request: Request) -> Response:
    return Response(TOO_MUCH)


async def broken(scope: object, receive: object, send: object) -> None:
    raise ZeroDivisionError


APP = Starlette(
    routes=[
        Route("/", hello),
        Route("/echo", echo, methods=["POST"]),
        Route("/deaf", deaf, methods=["POST"]),
        Route("/stream", Stream()),
        Route("/never", never),
        Route("/much", much),
    ]
)


async def play(tell: Tell, app: Callable[..., Awaitable[None]] = APP) -> list[str]:
    """What the handlers did."""
    handled.set([])
    network = MemoryNetwork(Random(1))
    server, client = network.host("server"), network.host("client")
    listener = server.listen()
    link = await network.connect(client, server)
    there, _ = await listener.accept()
    connection = HttpConnection(app, there)
    with trio.fail_after(10 * IDLE_SECONDS_MAX):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.serve)
            await tell(Scene(link, there, connection))
            await link.aclose()
    return handled.get()


def post(path: str, body: bytes, length: int | None = None, *more: str) -> bytes:
    head = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        f"Content-Length: {len(body) if length is None else length}",
        *more,
    ]
    return "\r\n".join([*head, "", ""]).encode() + body


async def test_a_connection_is_kept_for_further_requests_also_for_those_that_come_early(
    autojump_clock: MockClock,
) -> None:
    async def tell(scene: Scene) -> None:
        scene.link.send_soon(GET + post("/echo", b"one"), CLOSE)
        heard = await scene.hear_all()
        assert heard.count(b"HTTP/1.1 200") == 3
        assert heard.index(b"hello") < heard.index(b"one") < heard.rindex(b"hello")
        assert b"date: " in heard

    await play(tell)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_streamed_answer_ends_for_whoever_wants_the_connection_closed(
    autojump_clock: MockClock, version: str
) -> None:
    async def tell(scene: Scene) -> None:
        scene.link.send_soon(f"GET /stream HTTP/{version}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        heard = await scene.hear_all()
        assert [heard.count(b"%d" % number) > 0 for number in range(3)] == [True] * 3

    await play(tell)


async def test_an_answer_to_head_has_no_body_and_the_connection_goes_on(autojump_clock: MockClock) -> None:
    async def tell(scene: Scene) -> None:
        scene.link.send_soon(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", CLOSE)
        heard = await scene.hear_all()
        assert (heard.count(b"content-length: 5"), heard.count(b"hello")) == (2, 1)

    await play(tell)


async def test_whoever_asks_first_whether_to_send_its_body_is_told_so(autojump_clock: MockClock) -> None:
    async def tell(scene: Scene) -> None:
        scene.link.send_soon(post("/echo", b"", 4, "Expect: 100-continue"))
        assert b"100" in await scene.link.receive()
        scene.link.send_soon(b"body")
        assert (await scene.link.receive()).endswith(b"body")

    await play(tell)


async def test_a_refusal_of_a_body_that_still_comes_is_heard_all_the_same(autojump_clock: MockClock) -> None:
    async def tell(scene: Scene) -> None:
        scene.link.send_soon(post("/deaf", b"", 2**40))
        for _ in range(3):
            scene.link.send_soon(bytes(PIECE_BYTES))
        assert b"413" in await scene.hear_all()

    await play(tell)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"GET /\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\na b: c\r\n\r\n", b"400"),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", b"501"),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nlong: " + bytes(2 * HEAD_BYTES_MAX).replace(b"\0", b"x"), b"431"),
    ],
)
async def test_what_is_no_request_is_told_so_and_ends_the_connection(
    autojump_clock: MockClock, request_bytes: bytes, status: bytes
) -> None:
    async def tell(scene: Scene) -> None:
        scene.link.send_soon(request_bytes)
        heard = await scene.hear_all()
        assert heard.startswith(b"HTTP/1.1 " + status)
        assert b'{"msg":"bad request: ' in heard

    assert await play(tell) in ([], ["begun"])


async def test_whoever_says_nothing_is_sent_away(autojump_clock: MockClock) -> None:
    async def tell(scene: Scene) -> None:
        scene.link.send_soon(GET)
        await scene.link.receive()
        assert abs(await scene.seconds_until_end() - IDLE_SECONDS_MAX) <= A_MOMENT

    await play(tell)


async def drip(scene: Scene) -> None:
    """Send headers, or a body, that do not end."""
    while True:
        await trio.sleep(1)
        scene.link.send_soon(b"x")


async def test_headers_that_come_byte_by_byte_are_not_waited_for(autojump_clock: MockClock) -> None:
    async def tell(scene: Scene) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip, scene)
            assert abs(await scene.seconds_until_end() - HEAD_SECONDS_MAX - 1) <= A_MOMENT
            nursery.cancel_scope.cancel()

    await play(tell)


async def test_nor_is_a_body(autojump_clock: MockClock) -> None:
    async def tell(scene: Scene) -> None:
        scene.link.send_soon(post("/echo", b"", 1000))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip, scene)
            assert abs(await scene.seconds_until_end() - BODY_SECONDS_MAX) <= A_MOMENT
            nursery.cancel_scope.cancel()

    assert await play(tell) == ["begun"]


async def test_whoever_does_not_read_its_answer_is_cut_off(autojump_clock: MockClock) -> None:
    async def tell(scene: Scene) -> None:
        scene.link.send_soon(b"GET /much HTTP/1.1\r\nHost: x\r\n\r\n")
        await trio.sleep(SEND_SECONDS_MAX + A_MOMENT)
        assert len(await scene.hear_all()) < len(TOO_MUCH)

    await play(tell)


async def test_an_answer_of_any_size_reaches_a_client_that_reads(autojump_clock: MockClock) -> None:
    async def tell(scene: Scene) -> None:
        scene.link.send_soon(b"GET /much HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        heard, paused_at = b"", 0
        while received := await scene.link.receive(PIECE_BYTES):
            heard += received
            if len(heard) >= paused_at + PIECE_BYTES:
                paused_at = len(heard)
                await trio.sleep(SEND_SECONDS_MAX / 2)
        assert heard.endswith(TOO_MUCH)

    await play(tell)


async def test_a_request_ends_soon_after_its_client(autojump_clock: MockClock) -> None:
    async def tell(scene: Scene) -> None:
        scene.link.send_soon(b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n")
        await trio.sleep(10 * GRACE_SECONDS)
        await scene.link.send_eof()
        assert await scene.seconds_until_end() <= GRACE_SECONDS + LINGER_SECONDS_MAX + A_MOMENT

    assert await play(tell) == ["cancelled"]


async def test_whoever_has_only_ended_its_own_side_is_answered(autojump_clock: MockClock) -> None:
    async def tell(scene: Scene) -> None:
        scene.link.send_soon(GET)
        await scene.link.send_eof()
        assert (await scene.hear_all()).endswith(b"hello")

    await play(tell)


async def test_a_defect_of_the_application_ends_one_connection(autojump_clock: MockClock) -> None:
    async def tell(scene: Scene) -> None:
        scene.link.send_soon(GET)
        assert await scene.hear_all() == b""

    await play(tell, broken)


async def test_the_end_of_the_server_waits_for_requests_and_not_for_clients(autojump_clock: MockClock) -> None:
    async def tell(scene: Scene) -> None:
        scene.link.send_soon(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        await trio.sleep(2.5)
        scene.connection.end()
        assert b"2" in await scene.hear_all()

    async def tell_nothing(scene: Scene) -> None:
        await trio.sleep(A_MOMENT)
        scene.connection.end()
        assert await scene.seconds_until_end() <= A_MOMENT

    await play(tell)
    await play(tell_nothing)


async def test_of_a_head_the_answer_is_over_at_once_also_where_it_would_go_on(autojump_clock: MockClock) -> None:
    async def tell(scene: Scene) -> None:
        scene.link.send_soon(b"HEAD /stream HTTP/1.1\r\nHost: x\r\n\r\n", CLOSE)
        assert (await scene.hear_all()).count(b"HTTP/1.1 200") == 2

    await play(tell)


async def test_a_body_in_morsels_lets_others_run_after_each(autojump_clock: MockClock) -> None:
    async def count(_scope: Scope, receive: Receive, send: Send) -> None:
        has_more = True
        while has_more:
            with trio.testing.assert_checkpoints():
                has_more = (await receive())["more_body"]
            handled.get().append("a piece")
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    async def tell(scene: Scene) -> None:
        scene.link.send_soon(CHUNKED + b"1\r\nx\r\n" * 100 + b"0\r\n\r\n")
        assert b"200" in await scene.link.receive()

    assert len(await play(tell, count)) == 101


async def test_a_body_in_too_many_morsels_is_cut_off(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def tell(scene: Scene) -> None:
        monkeypatch.setattr(http1, "BODY_PIECES_MAX", 1000)
        scene.link.send_soon(CHUNKED + b"1\r\nx\r\n" * 2000)
        assert await scene.hear_all() == b""

    assert await play(tell) == ["begun"]


async def test_what_comes_early_is_not_taken_faster_than_it_is_answered(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece_bytes = 4096
    monkeypatch.setattr(http1, "PIECE_BYTES", piece_bytes)

    async def tell(scene: Scene) -> None:
        requests = 15 * piece_bytes // len(GET)
        rest, answered = b"", 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all, scene.link, GET * requests)
            while answered < requests:
                received = await scene.link.receive()
                assert received
                text = rest + received
                answered += text.count(b"hello")
                rest = text[-4:]
                waiting_bytes = scene.there.received_bytes - answered * len(GET)
                assert waiting_bytes <= 5 * piece_bytes

    await play(tell)


async def test_whoever_does_not_read_its_answer_can_be_dismissed_for_somebody_who_will(
    autojump_clock: MockClock,
) -> None:
    async def tell(scene: Scene) -> None:
        scene.link.send_soon(b"GET /much HTTP/1.1\r\nHost: x\r\n\r\n")
        await trio.sleep(A_MOMENT)
        assert scene.connection.waits_since is not None

    await play(tell)
