"""One HTTP/1.1 client of an ASGI application, from its first byte to its last.

The grammar is h11's.  What is here is time and memory, since clients may be slow, silent, endless or gone: every wait for
one has a limit, what is buffered for one is bounded, and a request whose client has gone ends soon after it.

Does not accept connections: ``server`` does.  Knows no HTTP/2 and no WebSocket.  Source: RFC 9112; ASGI 3.0, "HTTP".
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, NoReturn
from urllib.parse import unquote

import h11
import structlog
import trio
from starlette.types import ASGIApp, Message, Scope

from walkeeper.control.endpoints import json_response
from walkeeper.control.models import ErrorJson
from walkeeper.errors import PeerError
from walkeeper.links.link import Link, send_all

IDLE_SECONDS_MAX: Final = 75.0
"""How long a kept-alive connection may be silent: longer than any usual interval between scrapes."""

HEAD_SECONDS_MAX: Final = 10.0
"""How long a client may take from the first byte of a request to the last of its headers, and before that for TLS."""

BODY_SECONDS_MAX: Final = 30.0
"""How long it may then take for the body, which has a MiB at most."""

BODY_PIECES_MAX: Final = 10_000
"""In how many chunks or packets it may come: each costs as much as a small request."""

SEND_SECONDS_MAX: Final = 3.0
"""How long it may take to read a piece of an answer."""

PIECE_BYTES: Final = 64 * 1024
"""What an answer is sent in, and what is received at once."""

HEAD_BYTES_MAX: Final = 16 * 1024
"""A token has 4 KiB at most, and no request of ours has more to say."""

GRACE_SECONDS: Final = 1.0
"""How long a request may go on when its client has gone or the server ends: every handler is a look or one operation."""

LINGER_SECONDS_MAX: Final = 1.0
"""How long what a client still sends is read away after the last answer, so that a reset does not swallow that answer."""

Headers = list[tuple[bytes, bytes]]

Encrypt = Callable[[Link], Awaitable[Link]]
"""Makes of an accepted link, in a time of its own, the one to speak over.  Raises PeerError; the plain one is only to be
closed then."""

log = structlog.stdlib.get_logger()


class HttpConnection:
    """A client at ``link``, which is owned.  ``serve`` is its whole life."""

    def __init__(self, app: ASGIApp, link: Link, encrypt: Encrypt | None = None) -> None:
        self._app = app
        self._link = link
        self._encrypt = encrypt
        self._http = h11.Connection(h11.SERVER, HEAD_BYTES_MAX)
        self._scope = trio.CancelScope()
        self._exchange: Exchange | None = None
        self._answered_at = trio.current_time()
        self._is_ending = False

    @property
    def waits_since(self) -> float | None:
        """Since when it has had no answer, on Trio's clock, while its client is to speak; None while the application is."""
        is_answering = self._exchange is not None and not self._exchange.is_waiting
        return None if is_answering else self._answered_at

    async def serve(self) -> None:
        """Answer requests until the client leaves or has to go.  Cancellation: cuts a request off."""
        try:
            with self._scope:
                if self._encrypt is not None:
                    self._link = await self._encrypt(self._link)
                await self._converse()
                await self._linger()
        except (trio.BrokenResourceError, PeerError):
            pass
        except Exception:  # the boundary of a connection
            log.exception("HTTP connection failed unexpectedly")
        finally:
            await self._link.aclose()

    def dismiss(self) -> None:
        """End it, whatever goes on."""
        self._scope.cancel(reason="its place is needed")

    def end(self) -> None:
        """End it, after the request that is being answered if one is."""
        self._is_ending = True
        if self.waits_since is not None:
            self._scope.cancel(reason="shutdown")

    async def _converse(self) -> None:
        while (request := await self._next_request()) is not None:
            self._exchange = Exchange(self._http, self._link, request)
            await self._exchange.run(self._app)
            self._exchange = None
            self._answered_at = trio.current_time()
            if self._is_ending or {self._http.our_state, self._http.their_state} != {h11.DONE}:
                return
            self._http.start_next_cycle()

    async def _next_request(self) -> h11.Request | None:
        """None when there will be none."""
        has_begun = False
        with trio.move_on_after(IDLE_SECONDS_MAX) as limit:
            while True:
                try:
                    event = self._http.next_event()
                except h11.RemoteProtocolError as error:
                    await refuse(self._http, self._link, error)
                    return None
                if isinstance(event, h11.Request):
                    return event
                if event is not h11.NEED_DATA:
                    return None
                if not has_begun and self._http.trailing_data[0]:
                    has_begun = True
                    limit.deadline = trio.current_time() + HEAD_SECONDS_MAX
                self._http.receive_data(await self._link.receive(PIECE_BYTES))
        return None

    async def _linger(self) -> None:
        """End our side and read away the client's, for a moment."""
        with trio.move_on_after(LINGER_SECONDS_MAX):
            await self._link.send_eof()
            while await self._link.receive(PIECE_BYTES):
                pass


class Exchange:
    """A request and its answer.  ``is_waiting``: for the client, which is to say more or to read."""

    def __init__(self, http: h11.Connection, link: Link, request: h11.Request) -> None:
        self.is_waiting = False
        self._http = http
        self._link = link
        self._request = request
        self._body_deadline = trio.current_time() + BODY_SECONDS_MAX
        self._scope = trio.CancelScope()
        self._early: h11.Data | h11.EndOfMessage | None = None
        self._is_heard = trio.Event()
        self._is_told = False
        self._pieces = 0
        self._is_gone = trio.Event()
        self._head = b""

    async def run(self, app: ASGIApp) -> None:
        """Have ``app`` answer.  Where the answer is cut off, the connection cannot be used any more.

        Cancellation: as ``app``.
        """
        with self._scope:
            self._early = await self._parse_body()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, name="watch of an HTTP client")
                await app(scope_of(self._request), self._receive, self._send)
                nursery.cancel_scope.cancel(reason="answered")

    async def _watch(self) -> None:
        """Notice when a client goes that has said everything.  If it says more, that is the next request."""
        await self._is_heard.wait()
        if self._http.trailing_data[0]:
            return  # that is the next request already; what does not read it is noticed when it is sent something
        try:
            received = await self._link.receive(PIECE_BYTES)
        except trio.BrokenResourceError:
            received = b""
        self._http.receive_data(received)
        if not received:
            self._is_gone.set()
            self._scope.deadline = trio.current_time() + GRACE_SECONDS

    # -- what the application calls -----------------------------------------------------------------------------

    async def _receive(self) -> Message:
        if self._is_told:
            await self._is_gone.wait()
            return {"type": "http.disconnect"}
        await trio.lowlevel.checkpoint()  # there may be thousands of pieces in what was received
        self._pieces += 1
        if self._pieces > BODY_PIECES_MAX:
            await self._cut_off()
        event, self._early = self._early or await self._parse_body(), None
        while event is None:
            await self._receive_body()
            event = await self._parse_body()
        self._is_told = isinstance(event, h11.EndOfMessage)
        body = b"" if isinstance(event, h11.EndOfMessage) else bytes(event.data)
        return {"type": "http.request", "body": body, "more_body": not self._is_told}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), (b"date", formatdate(usegmt=True).encode())]
            self._head = self._encode(response_of(message["status"], headers))
            return
        data, self._head = self._head, b""
        has_body, has_more = self._request.method != b"HEAD", message.get("more_body", False)
        if (body := message.get("body", b"")) and has_body:
            data += self._encode(h11.Data(data=body))
        if not has_more or not has_body:
            data += self._encode(h11.EndOfMessage())
        await self._deliver(data)
        if has_more and not has_body:
            self._scope.cancel(reason="a head is all that was wanted")
            await trio.sleep_forever()

    # -- what the client does -----------------------------------------------------------------------------------

    async def _parse_body(self) -> h11.Data | h11.EndOfMessage | None:
        """The next of what has been received of it, None if that is nothing."""
        try:
            event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            await refuse(self._http, self._link, error)
            await self._cut_off()
        if isinstance(event, h11.EndOfMessage):
            self._is_heard.set()
        return event if isinstance(event, h11.Data | h11.EndOfMessage) else None

    async def _receive_body(self) -> None:
        if self._http.they_are_waiting_for_100_continue:
            await self._deliver(self._encode(h11.InformationalResponse(status_code=100, headers=[])))
        self.is_waiting = True
        with trio.move_on_at(self._body_deadline) as limit:
            try:
                self._http.receive_data(await self._link.receive(PIECE_BYTES))
            except trio.BrokenResourceError:
                await self._cut_off()
        self.is_waiting = False
        if limit.cancelled_caught:
            await self._cut_off()

    async def _deliver(self, data: bytes) -> None:
        self.is_waiting = True
        try:
            await deliver(self._link, data)
        except (trio.BrokenResourceError, trio.TooSlowError):
            await self._cut_off()
        self.is_waiting = False

    def _encode(self, event: h11.Event) -> bytes:
        return self._http.send(event) or b""

    async def _cut_off(self) -> NoReturn:
        """Leave the application, which need not know that nobody hears it any more."""
        self._http.send_failed()
        self._scope.cancel(reason="the client is gone")
        await trio.sleep_forever()


def response_of(status: int, headers: Headers) -> h11.Response:
    return h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase)


async def deliver(link: Link, data: bytes) -> None:
    """Send ``data`` to a client that reads it.  Raises trio.BrokenResourceError, and trio.TooSlowError if it does not.

    Cancellation: part of it may have been sent.
    """
    for begin in range(0, len(data), PIECE_BYTES):
        with trio.fail_after(SEND_SECONDS_MAX):
            await send_all(link, data[begin : begin + PIECE_BYTES])


async def refuse(http: h11.Connection, link: Link, error: h11.RemoteProtocolError) -> None:
    """Tell a client what was wrong with its request, if it has had no other answer.  Cancellation: as ``deliver``."""
    if http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return
    response = json_response(ErrorJson(msg=f"bad request: {error}"), error.error_status_hint)
    headers = [*response.raw_headers, (b"connection", b"close")]
    events = [
        response_of(response.status_code, headers),
        h11.Data(data=bytes(response.body)),
        h11.EndOfMessage(),
    ]
    with suppress(trio.BrokenResourceError, trio.TooSlowError):
        await deliver(link, b"".join(http.send(event) or b"" for event in events))


def scope_of(request: h11.Request) -> Scope:
    """What ASGI tells an application of a request."""
    raw_path, _, query = request.target.partition(b"?")
    if not raw_path.startswith(b"/"):  # a proxy's form: http://host/path
        raw_path = b"/" + raw_path.partition(b"://")[2].partition(b"/")[2]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": request.http_version.decode(),
        "method": request.method.decode(),
        "scheme": "http",
        "path": unquote(raw_path.decode()),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": list(request.headers),
        "client": None,
        "server": None,
    }
