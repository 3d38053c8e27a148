"""A link in TLS over a plain one.

TLS is Python's, over memory buffers, so that a cancelled wait breaks nothing.  Does not know frames, and has no time
limits: the caller wraps.
"""

import ssl

import trio

from walkeeper.links.link import FLOOD_BYTES_MAX, RECEIVE_BYTES_MAX, SocketLink
from walkeeper.messages import Slice


class TlsLink:
    """A link in TLS over a plain one, which it owns.  ``shake_hands`` comes first."""

    def __init__(self, plain: SocketLink, context: ssl.SSLContext, server_name: str) -> None:
        self._plain = plain
        self._received = ssl.MemoryBIO()
        self._to_send = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_hostname=server_name)

    @property
    def tls(self) -> ssl.SSLObject:
        """For the certificate that the server has shown."""
        return self._tls

    async def shake_hands(self) -> None:
        """Agree on keys.  Raises ssl.SSLError, also if the server's certificate is not trusted.

        Cancellation: the link is then good for nothing but closing.
        """
        while True:
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
        self._take(await self._plain.receive())

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
            raw = self._plain.try_receive()
            if raw is None:
                return None
            self._take(raw)
        return data

    async def receive(self, bytes_max: int = FLOOD_BYTES_MAX) -> bytes:
        while (data := self._decrypt(bytes_max)) is None:
            self._take(await self._plain.receive())
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
        await self._plain.send_eof()

    async def aclose(self) -> None:
        await self._plain.aclose()


def _broken(error: ssl.SSLError) -> trio.BrokenResourceError:
    return trio.BrokenResourceError(f"TLS: {error.reason}")
