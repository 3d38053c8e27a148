"""Links that can be sent to without waiting, in clear text and in TLS.

Whoever produces bytes hands them to ``send_soon`` from any task, without a turn of the scheduler; what the kernel does
not take rests here, and the task that owns the link sends it with ``wait_sent``.  The producer bounds that rest: it
looks at ``pending_bytes`` before it produces more.

Slices are never copied in clear text.  TLS is Python's, over memory buffers, so that a cancelled wait breaks nothing.
Does not know frames, and has no time limits: the caller wraps.
"""

import socket
import ssl
from collections import deque
from itertools import islice
from typing import Final, Protocol

import trio

from walkeeper.links.link import RECEIVE_BYTES_MAX, Link, SocketLink
from walkeeper.messages import Slice

SLICES_PER_SEND_MAX: Final = 1024
"""IOV_MAX on Linux."""


class EagerLink(Link, Protocol):
    """A link whose sending half never has to wait."""

    @property
    def pending_bytes(self) -> int:
        """How much waits for the kernel to have room."""

    def send_soon(self, *pieces: Slice) -> None:
        """Send ``pieces``, now as far as the kernel takes them.  Raises trio.BrokenResourceError."""

    async def wait_sent(self) -> None:
        """Send what is pending.  Raises trio.BrokenResourceError.

        Cancellation: at any time, the rest stays pending.
        """


class PlainLink(SocketLink):
    """An eager link in clear text."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._pending: deque[memoryview] = deque()
        self.pending_bytes = 0

    def send_soon(self, *pieces: Slice) -> None:
        self._pending.extend(map(memoryview, pieces))
        self.pending_bytes += sum(map(len, pieces))
        self._send_now()

    async def wait_sent(self) -> None:
        while not self._send_now():
            await self._wait(trio.lowlevel.wait_writable)

    def _send_now(self) -> bool:
        """Whether the kernel has taken everything."""
        while self._pending:
            try:
                sent = self._socket.sendmsg(islice(self._pending, SLICES_PER_SEND_MAX))
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                raise trio.BrokenResourceError(f"connection lost: {error.strerror or error}") from error
            self._forget(sent)
        return True

    def _forget(self, sent: int) -> None:
        self.pending_bytes -= sent
        while sent:
            first = self._pending.popleft()
            if len(first) > sent:
                self._pending.appendleft(first[sent:])
                return
            sent -= len(first)


class TlsLink:
    """An eager link in TLS over a plain one, which it owns.  ``shake_hands`` comes first."""

    def __init__(self, plain: PlainLink, context: ssl.SSLContext, server_name: str) -> None:
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

    def send_soon(self, *pieces: Slice) -> None:
        for piece in pieces:
            if piece:
                self._tls.write(piece)
        self._send_encrypted()

    def _send_encrypted(self) -> None:
        if self._to_send.pending:
            self._plain.send_soon(self._to_send.read())

    async def wait_sent(self) -> None:
        await self._plain.wait_sent()

    def try_send(self, data: bytes | memoryview) -> int:  # noqa: ARG002
        return 0  # what is encrypted has to be sent whole

    async def send_all(self, data: bytes | memoryview) -> None:
        self.send_soon(data)
        await self.wait_sent()

    def try_receive(self) -> bytes | None:
        while (data := self._decrypt()) is None:
            raw = self._plain.try_receive()
            if raw is None:
                return None
            self._take(raw)
        return data

    async def receive(self) -> bytes:
        while (data := self._decrypt()) is None:
            self._take(await self._plain.receive())
        return data

    def _decrypt(self) -> bytes | None:
        """What has arrived in whole TLS records, ``b""`` at the end of the stream, None if there is nothing."""
        pieces: list[bytes] = []
        size = 0
        try:
            while size < RECEIVE_BYTES_MAX and (piece := self._tls.read(RECEIVE_BYTES_MAX)):
                pieces.append(piece)
                size += len(piece)
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b"".join(pieces)
        except ssl.SSLError as error:
            raise trio.BrokenResourceError(f"TLS: {error.reason}") from error
        self._send_encrypted()  # a change of keys may have to be answered
        return b"".join(pieces) or None

    async def send_eof(self) -> None:
        await self._plain.send_eof()

    async def aclose(self) -> None:
        await self._plain.aclose()
