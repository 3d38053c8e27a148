"""One GET of a keeper's HTTP port: an answer that fits into memory, on a connection of its own.

Has no time limit: the caller wraps.  Dials as every other link does, so a simulation's network works here, too, and
whoever adds TLS adds it to the link.
"""

from dataclasses import dataclass
from typing import Final

import h11
import trio

from walkeeper.errors import Unreachable
from walkeeper.links.address import Address
from walkeeper.links.conninfo import ConnectionInfo
from walkeeper.links.dial import network, why_not_dialled
from walkeeper.links.link import Link, send_all

BODY_BYTES_MAX: Final = 4 * 1024 * 1024
"""More than any keeper says of itself: an overview has some 100 KiB, or ten times as much with long names."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    status: int
    body: bytes


async def http_get(address: Address, target: str, token: str | None = None) -> HttpAnswer:
    """Ask for ``target``, a path with its query.  Raises Unreachable, also for what is not HTTP and for too much of it.

    Cancellation: at any time; the connection is closed.
    """
    try:
        link = await network.get()(ConnectionInfo(address.host, address.port))
    except OSError as error:
        raise Unreachable(str(address), why_not_dialled(error)) from error
    try:
        return await _ask(link, address, target, token)
    except trio.BrokenResourceError as error:
        raise Unreachable(str(address), "the connection broke") from error
    finally:
        await link.aclose()


async def _ask(link: Link, address: Address, target: str, token: str | None) -> HttpAnswer:
    session = h11.Connection(h11.CLIENT)
    headers = [("host", str(address)), ("connection", "close")]
    if token is not None:
        headers.append(("authorization", f"Bearer {token}"))
    pieces = [
        session.send(h11.Request(method="GET", target=target, headers=headers)),
        session.send(h11.EndOfMessage()),
    ]
    await send_all(link, b"".join(piece or b"" for piece in pieces))
    status, body = 0, bytearray()
    while True:
        await trio.lowlevel.checkpoint()  # there may be thousands of events in what was received
        try:
            event = session.next_event()
        except h11.RemoteProtocolError as error:
            why = (
                "its answer is garbled or cut off"
                if status
                else "it speaks no plain HTTP: is it the port of --listen-http?"
            )
            raise Unreachable(str(address), why) from error
        match event:
            case h11.NEED_DATA:
                session.receive_data(await link.receive())
            case h11.Response():
                status = event.status_code
            case h11.Data():
                body += event.data
                if len(body) > BODY_BYTES_MAX:
                    raise Unreachable(str(address), f"it answered with more than {BODY_BYTES_MAX} bytes")
            case h11.EndOfMessage():
                return HttpAnswer(status, bytes(body))
            case h11.ConnectionClosed():
                raise Unreachable(str(address), "it ended the connection without an answer")
            case _:
                pass  # 1xx
