"""A byte link to a peer that can be tried before it is waited for.

A turn of Trio's scheduler costs as much as receiving a small message, so whoever reads or writes tries without
waiting first, and waits only when the kernel has nothing to give or no room.  A task that never waits would starve
the others: after ``TRIES_MAX`` successes in a row a link yields once.

Does not know frames or PostgreSQL, and has no time limits: the caller wraps.
"""

import socket
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Protocol

import trio

RECEIVE_BYTES_MAX: Final = 128 * 1024 - 64
"""Most to receive at once as a rule: above 128 KiB the C library maps fresh pages for every buffer."""

FLOOD_BYTES_MAX: Final = 1024 * 1024
"""Most to receive at once behind a full receive: in a flood of large messages, copying those that straddle two
receives costs more than fresh pages."""

TRIES_MAX: Final = 16
"""Receives or sends in a row without a turn of the scheduler: some 2 MiB, well under a millisecond."""


class Link(Protocol):
    """What the services need of a connection."""

    async def receive(self) -> bytes:
        """At least one byte, or ``b""`` when the peer has ended its side.

        Raises trio.BrokenResourceError when the connection is gone.

        Cancellation: at any time, nothing is lost.
        """

    def try_receive(self) -> bytes | None:
        """What is there right now, ``b""`` at the end of the stream, None when waiting would be needed."""

    def try_send(self, data: bytes | memoryview) -> int:
        """Hand over what the kernel takes without waiting; returns how much, in bytes.

        Raises trio.BrokenResourceError when the connection is gone.
        """

    async def send_all(self, data: bytes | memoryview) -> None:
        """Hand all of ``data`` to the kernel.  Raises trio.BrokenResourceError when the connection is gone.

        Cancellation: part of ``data`` may have been sent; the link is then good for nothing but closing.
        """

    async def send_eof(self) -> None:
        """End our side; the peer may still send."""

    async def aclose(self) -> None:
        """Close; never waits for the peer."""


class SocketLink:
    """A link over a connected stream socket of the standard library, which it owns and makes non-blocking."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self._tries = 0
        self._is_drained = False
        self._is_flooded = False

    def try_receive(self) -> bytes | None:
        if self._tries >= TRIES_MAX:
            return None
        wanted = FLOOD_BYTES_MAX if self._is_flooded else RECEIVE_BYTES_MAX
        try:
            data = self._socket.recv(wanted)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise _broken(error) from error
        self._tries += 1
        self._is_drained = 0 < len(data) < wanted  # asking again would only cost a system call
        self._is_flooded = len(data) >= RECEIVE_BYTES_MAX
        return data

    async def receive(self) -> bytes:
        if self._is_drained or self._tries >= TRIES_MAX:
            await self._wait(trio.lowlevel.wait_readable)
        while (data := self.try_receive()) is None:
            await self._wait(trio.lowlevel.wait_readable)
        return data

    def try_send(self, data: bytes | memoryview) -> int:
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise _broken(error) from error

    async def send_all(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            sent = self.try_send(rest)
            rest = rest[sent:]
            self._tries += 1
            if not sent:
                await self._wait(trio.lowlevel.wait_writable)
            elif self._tries >= TRIES_MAX:
                await self._yield()

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

    async def _yield(self) -> None:
        self._tries = 0
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
