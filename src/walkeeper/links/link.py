"""A byte link to a peer that can be tried before it is waited for.

A turn of Trio's scheduler costs as much as receiving a small message, so whoever reads tries without waiting first, and
waits only when the kernel has nothing to give.  A task that never waits would starve the others: after ``TRIES_MAX``
receives in a row a link yields once.

Whoever produces bytes hands them to ``send_soon`` from any task, without a turn of the scheduler; what the kernel does
not take rests here, and the task that owns the link sends it with ``wait_sent``.  The producer bounds that rest: it
waits for it, or looks at ``pending_bytes`` before it produces more.

Does not know frames or PostgreSQL, and has no time limits: the caller wraps.
"""

import socket
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import islice
from math import inf
from types import TracebackType
from typing import Final, Protocol

import trio

from walkeeper.messages import Slice

RECEIVE_BYTES_MAX: Final = 128 * 1024 - 64
"""Most to receive at once as a rule: above 128 KiB the C library maps fresh pages for every buffer."""

FLOOD_BYTES_MAX: Final = 1024 * 1024
"""Most to receive at once behind a full receive: in a flood of large messages, copying those that straddle two
receives costs more than fresh pages."""

TRIES_MAX: Final = 16
"""Receives of that size in a row without a turn of the scheduler: some 2 MiB, well under a millisecond."""

USER_TIMEOUT_MAX: Final = 2**31 - 1
"""TCP_USER_TIMEOUT is an int of milliseconds."""

SLICES_PER_SEND_MAX: Final = 1024
"""IOV_MAX on Linux."""


class Link(Protocol):
    """What the services need of a connection."""

    async def receive(self, bytes_max: int = FLOOD_BYTES_MAX) -> bytes:
        """At least one byte and at most ``bytes_max``, or ``b""`` when the peer has ended its side.

        Raises trio.BrokenResourceError when the connection is gone.

        Cancellation: at any time, nothing is lost.
        """

    def try_receive(self, bytes_max: int = FLOOD_BYTES_MAX) -> bytes | None:
        """What is there right now, ``b""`` at the end of the stream, None when waiting would be needed."""

    @property
    def pending_bytes(self) -> int:
        """How much waits for the kernel to have room."""

    @property
    def received_bytes(self) -> int:
        """How much has been received so far."""

    @property
    def sent_bytes(self) -> int:
        """How much the kernel has taken so far."""

    def send_soon(self, *pieces: Slice) -> None:
        """Send ``pieces``, now as far as the kernel takes them; never waits.

        Raises trio.BrokenResourceError when the connection is gone.
        """

    async def wait_sent(self) -> None:
        """Send what is pending.  Raises trio.BrokenResourceError when the connection is gone.

        Cancellation: at any time, the rest stays pending.
        """

    def give_up_after(self, seconds: float) -> None:
        """How long the peer may acknowledge nothing, or have no room for more, before the connection is broken.

        Infinity leaves it to the kernel, for which only a peer that acknowledges nothing is gone.
        """

    async def send_eof(self) -> None:
        """End our side; the peer may still send."""

    async def aclose(self) -> None:
        """Close; never waits for the peer."""


async def send_all(link: Link, *pieces: Slice) -> None:
    """Hand all of ``pieces`` to the kernel.  Raises trio.BrokenResourceError when the connection is gone.

    Cancellation: part of it may have been sent, and the rest is pending.
    """
    link.send_soon(*pieces)
    await link.wait_sent()


class SocketLink:
    """A link over a connected stream socket of the standard library, which it owns and makes non-blocking.

    Slices are never copied.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._is_tcp = sock.family in (socket.AF_INET, socket.AF_INET6)
        if self._is_tcp:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self._tries = 0
        self._is_drained = False
        self._is_flooded = False
        self._pending: deque[memoryview] = deque()
        self.pending_bytes = 0
        self.received_bytes = 0
        self.sent_bytes = 0

    def try_receive(self, bytes_max: int = FLOOD_BYTES_MAX) -> bytes | None:
        if self._tries >= TRIES_MAX:
            return None
        wanted = min(FLOOD_BYTES_MAX if self._is_flooded else RECEIVE_BYTES_MAX, bytes_max)
        try:
            data = self._socket.recv(wanted)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise _broken(error) from error
        self.received_bytes += len(data)
        self._tries += 1 + len(data) // RECEIVE_BYTES_MAX
        self._is_drained = 0 < len(data) < wanted  # asking again would only cost a system call
        self._is_flooded = len(data) >= RECEIVE_BYTES_MAX
        return data

    async def receive(self, bytes_max: int = FLOOD_BYTES_MAX) -> bytes:
        if self._is_drained or self._tries >= TRIES_MAX:
            await self._wait(trio.lowlevel.wait_readable)
        while (data := self.try_receive(bytes_max)) is None:
            await self._wait(trio.lowlevel.wait_readable)
        return data

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
                raise _broken(error) from error
            self._forget(sent)
        return True

    def _forget(self, sent: int) -> None:
        self.sent_bytes += sent
        self.pending_bytes -= sent
        if not self.pending_bytes:
            self._pending.clear()
            return
        while self._pending and sent >= len(self._pending[0]):
            sent -= len(self._pending.popleft())
        if sent:
            self._pending[0] = self._pending[0][sent:]

    def give_up_after(self, seconds: float) -> None:
        if self._is_tcp:
            milliseconds = 0 if seconds == inf else min(int(seconds * 1000), USER_TIMEOUT_MAX)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)

    async def send_eof(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise _broken(error) from error
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()
        await trio.lowlevel.checkpoint()

    async def _wait(self, ready: Callable[[socket.socket], Awaitable[None]]) -> None:
        self._tries = 0
        with _closed_is_broken:
            await ready(self._socket)


class _ClosedIsBroken:
    """Whoever still waits when another task closes the link sees what it would see if the peer had gone."""

    __slots__ = ()

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if isinstance(error, trio.ClosedResourceError):
            raise trio.BrokenResourceError("connection closed on this side") from error


_closed_is_broken: Final = _ClosedIsBroken()


def _broken(error: OSError) -> trio.BrokenResourceError:
    return trio.BrokenResourceError(f"connection lost: {error.strerror or error}")
