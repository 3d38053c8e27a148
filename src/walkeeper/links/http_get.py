"""One GET of a keeper's HTTP or HTTPS port: an answer that fits into memory, on a connection of its own.

Whom to trust in TLS is set where a command begins (``trust_authorities``); its tasks inherit it.  The certificate must be for
the host that was asked.  Has no time limit: the caller wraps.  Dials as every other link does, so a simulation's network
works here, too.
"""

import ssl
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import h11
import trio

from walkeeper.errors import NotEncrypted, Unreachable
from walkeeper.links.address import Address, HttpAddress
from walkeeper.links.conninfo import ConnectionInfo, SslMode
from walkeeper.links.dial import network, why_not_dialled
from walkeeper.links.link import Link, send_all
from walkeeper.links.tls import client_context
from walkeeper.links.tls_link import TlsLink

BODY_BYTES_MAX: Final = 16 * 1024 * 1024
"""More than any keeper says of itself: an overview has some 100 KiB, or ten times as much with long names."""

AUTHORITIES_FLAG: Final = "--ssl-ca-file"

_authorities: Final[ContextVar[Path | None]] = ContextVar("authorities", default=None)


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    status: int
    body: bytes


def trust_authorities(path: Path | None) -> None:
    """Trust those whose certificates (PEM) are in the file at ``path`` from now on, instead of the system's.

    The file is read for every connection, so that a new one needs no restart.  Raises NotEncrypted if it cannot be used.
    """
    _authorities.set(path)
    if path is not None:
        _context()


def _context() -> ssl.SSLContext:
    path = _authorities.get()
    return _system_context() if path is None else _context_of(str(path))


@cache
def _system_context() -> ssl.SSLContext:
    """Made once: they are some hundred, and take milliseconds."""
    return _context_of("system")


def _context_of(authorities: str) -> ssl.SSLContext:
    info = ConnectionInfo("", sslmode=SslMode.VERIFY_FULL, sslrootcert=authorities)
    return client_context(info, root_flag=AUTHORITIES_FLAG)


async def http_get(
    address: HttpAddress, target: str, token: str | None = None, body_bytes_max: int = BODY_BYTES_MAX
) -> HttpAnswer:
    """Ask for ``target``, a path with its query.

    Raises Unreachable, also for what is not HTTP, for too much of it and for a certificate that is not trusted.

    Cancellation: at any time; the connection is closed.
    """
    try:
        link = await network.get()(ConnectionInfo(address.host, address.port))
    except OSError as error:
        raise Unreachable(str(address), why_not_dialled(error)) from error
    try:
        if address.is_encrypted:
            link = await _encrypt(link, address)
        return await _ask(link, address, target, token, body_bytes_max)
    except trio.BrokenResourceError as error:
        raise Unreachable(str(address), "the connection broke") from error
    finally:
        await link.aclose()


async def _encrypt(plain: Link, address: HttpAddress) -> TlsLink:
    """Cancellation: then ``plain`` is good for nothing but closing."""
    try:
        link = TlsLink(plain, _context(), address.host)
        await link.shake_hands()
    except NotEncrypted as error:
        raise Unreachable(str(address), str(error)) from error
    except ssl.SSLCertVerificationError as error:
        raise Unreachable(
            str(address), f"its certificate is not trusted ({AUTHORITIES_FLAG}): {error.verify_message}"
        ) from error
    except ssl.SSLError as error:
        why = f"no TLS: {error.reason or error}: is it the port of --listen-https?"
        raise Unreachable(str(address), why) from error
    return link


async def _ask(
    link: Link, address: HttpAddress, target: str, token: str | None, body_bytes_max: int
) -> HttpAnswer:
    session = h11.Connection(h11.CLIENT)
    headers = [("host", Address.__str__(address)), ("connection", "close")]
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
                if len(body) > body_bytes_max:
                    raise Unreachable(str(address), f"it answered with more than {body_bytes_max} bytes")
            case h11.EndOfMessage():
                return HttpAnswer(status, bytes(body))
            case h11.ConnectionClosed():
                raise Unreachable(str(address), "it ended the connection without an answer")
            case _:
                pass  # 1xx
