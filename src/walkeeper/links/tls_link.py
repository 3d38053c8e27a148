"""A link in TLS over a plain one, of a client or of a server.

TLS is Python's, over memory buffers, so that a cancelled wait breaks nothing.  Does not know frames, and has no time
limits: the caller wraps.
"""

import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import trio

from walkeeper.errors import TlsFailed
from walkeeper.links.link import FLOOD_BYTES_MAX, RECEIVE_BYTES_MAX, Link
from walkeeper.messages import Slice

RECORD_BYTES_MAX: Final = 16 * 1024 + 512
"""The longest TLS record, head and padding included.  Nothing can be read of it before it is there as a whole."""


async def _at_once() -> None:
    """Nobody else is waited for."""


class TlsLink:
    """A link in TLS over a plain one, which it owns.  ``shake_hands`` comes first.

    ``server_name`` is whom we want to speak to, None where we are the server; ``received``: what the plain link has
    given already.
    """

    def __init__(
        self, plain: Link, context: ssl.SSLContext, server_name: str | None = None, *, received: bytes = b""
    ) -> None:
        self._plain = plain
        self._received = ssl.MemoryBIO()
        self._to_send = ssl.MemoryBIO()
        self._received.write(received)
        self._tls = context.wrap_bio(
            self._received, self._to_send, server_side=server_name is None, server_hostname=server_name
        )

    @property
    def tls(self) -> ssl.SSLObject:
        """For the certificate that the peer has shown, and what was agreed on."""
        return self._tls

    async def shake_hands(self, wait_turn: Callable[[], Awaitable[None]] = _at_once) -> None:
        """Agree on keys.  ``wait_turn`` is waited for before each step, which takes milliseconds of nobody else's time.

        Raises ssl.SSLError, also if the peer's certificate is not trusted, and trio.BrokenResourceError.

        Cancellation: the link is then good for nothing but closing.
        """
        while True:
            await wait_turn()
            try:
                self._tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                await self._receive_more()
            finally:
                self._send_encrypted()

    async def _receive_more(self) -> None:
        self._send_encrypted()
        await self._plain.wait_sent()
        self._take(await self._plain.receive(RECORD_BYTES_MAX))

    def _take(self, raw: bytes) -> None:
        if raw:
            self._received.write(raw)
        else:
            self._received.write_eof()

    @property
    def pending_bytes(self) -> int:
        return self._plain.pending_bytes

    @property
    def received_bytes(self) -> int:
        return self._plain.received_bytes

    @property
    def sent_bytes(self) -> int:
        return self._plain.sent_bytes

    def send_soon(self, *pieces: Slice) -> None:
        try:
            for piece in pieces:
                if piece:
                    self._tls.write(piece)
        except ssl.SSLError as error:
            raise _broken(error) from error
        self._send_encrypted()

    def _send_encrypted(self) -> None:
        if self._to_send.pending:
            self._plain.send_soon(self._to_send.read())

    async def wait_sent(self) -> None:
        await self._plain.wait_sent()

    def try_receive(self, bytes_max: int = FLOOD_BYTES_MAX) -> bytes | None:
        while (data := self._decrypt(bytes_max)) is None:
            raw = self._plain.try_receive(max(bytes_max, RECORD_BYTES_MAX))
            if raw is None:
                return None
            self._take(raw)
        return data

    async def receive(self, bytes_max: int = FLOOD_BYTES_MAX) -> bytes:
        while (data := self._decrypt(bytes_max)) is None:
            self._take(await self._plain.receive(max(bytes_max, RECORD_BYTES_MAX)))
        return data

    def _decrypt(self, bytes_max: int) -> bytes | None:
        """What has arrived in whole TLS records, ``b""`` at the end of the stream, None if there is nothing."""
        bytes_max = min(bytes_max, RECEIVE_BYTES_MAX)
        pieces: list[bytes] = []
        size = 0
        try:
            while size < bytes_max:
                piece = self._tls.read(bytes_max - size)
                if not piece:  # the peer has announced the end; it is found again by the next look
                    return b"".join(pieces)
                pieces.append(piece)
                size += len(piece)
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b"".join(pieces)
        except ssl.SSLError as error:
            raise _broken(error) from error
        self._send_encrypted()  # a change of keys may have to be answered
        return b"".join(pieces) or None

    def give_up_after(self, seconds: float) -> None:
        self._plain.give_up_after(seconds)

    async def send_eof(self) -> None:
        with suppress(ssl.SSLError):  # the peer's own farewell is not waited for, or there is no TLS (any more)
            self._tls.unwrap()
        self._send_encrypted()
        await self._plain.wait_sent()
        await self._plain.send_eof()

    async def aclose(self) -> None:
        await self._plain.aclose()


async def accept_tls(
    plain: Link,
    context: ssl.SSLContext,
    *,
    received: bytes = b"",
    wait_turn: Callable[[], Awaitable[None]] = _at_once,
) -> TlsLink:
    """The server's side: ``plain`` encrypted, as soon as hands are shaken.

    Raises TlsFailed when that does not come about.  Cancellation: then ``plain`` is good for nothing but closing.
    """
    link = TlsLink(plain, context, received=received)
    try:
        await link.shake_hands(wait_turn)
    except ssl.SSLCertVerificationError as error:
        raise TlsFailed(f"the client's certificate is not trusted: {error.verify_message}") from None
    except ssl.SSLError as error:
        raise TlsFailed(f"TLS handshake: {error.reason or error}") from None
    except trio.BrokenResourceError as error:
        raise TlsFailed(f"TLS handshake: {error}") from None
    return link


def _broken(error: ssl.SSLError) -> trio.BrokenResourceError:
    return trio.BrokenResourceError(f"TLS: {error.reason}")
