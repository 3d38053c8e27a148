"""Both ends of a COPY stream in memory: the keeper's link and session, and a client that says what it likes."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, Self

import trio
from trio.testing import lockstep_stream_one_way_pair, memory_stream_one_way_pair

from walkeeper.control.metrics import Metrics
from walkeeper.formats.backend import BackendMessage, CopyBothResponse, parse_backend_message
from walkeeper.formats.commands import StartReplication
from walkeeper.formats.frames import FrameParser, encode_frame
from walkeeper.formats.frontend import CopyData, Query
from walkeeper.formats.replication import (
    SenderMessage,
    StandbyMessage,
    encode_standby_message,
    parse_sender_message,
)
from walkeeper.formats.session import WELCOME, ServerSession
from walkeeper.formats.startup import StartupMessage
from walkeeper.links.link import RECEIVE_BYTES_MAX, Link, SocketLink
from walkeeper.messages import Slice
from walkeeper.services.copy_in import CopyReader
from walkeeper.services.goodbye import Goodbye
from walkeeper.services.send_wal import send_wal
from walkeeper.services.turnstile import Turnstile
from walkeeper.timeline.registry import Client as ServedClient
from walkeeper.timeline.timeline import Timeline

RECEIVE_BYTES = 64 * 1024


class StreamLink:
    """A link over streams in memory.  It can be waited for, not tried."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self._stream = stream
        self._pending = b""
        self.received_bytes = 0
        self.sent_bytes = 0

    def try_receive(self, bytes_max: int = RECEIVE_BYTES_MAX) -> bytes | None:
        return None

    async def receive(self, bytes_max: int = RECEIVE_BYTES_MAX) -> bytes:
        with closed_is_broken():
            received = bytes(await self._stream.receive_some(bytes_max))
        self.received_bytes += len(received)
        return received

    def send_soon(self, *pieces: Slice) -> None:
        self._pending += b"".join(pieces)

    @property
    def pending_bytes(self) -> int:
        return len(self._pending)

    async def wait_sent(self) -> None:
        with closed_is_broken():
            pending, self._pending = self._pending, b""
            await self._stream.send_all(pending)
        self.sent_bytes += len(pending)

    def give_up_after(self, seconds: float) -> None:
        """There is no kernel that could."""

    async def send_eof(self) -> None:
        with closed_is_broken():
            await self._stream.send_eof()

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)


@contextmanager
def closed_is_broken() -> Iterator[None]:
    """As sockets have it when another task closes the link."""
    try:
        yield
    except trio.ClosedResourceError as closed:
        raise trio.BrokenResourceError("connection closed on this side") from closed


class Turns(trio.abc.Instrument):
    """Counts the turns of the scheduler: in each of them all other tasks run."""

    def __init__(self) -> None:
        self.count = 0

    @classmethod
    @contextmanager
    def counted(cls) -> Iterator[Self]:
        turns = cls()
        trio.lowlevel.add_instrument(turns)
        yield turns
        trio.lowlevel.remove_instrument(turns)

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


class Encodable(Protocol):
    def encode(self) -> bytes: ...


class Client:
    """The client's end of a connection."""

    def __init__(self, stream: "trio.StapledStream[trio.abc.SendStream, trio.abc.ReceiveStream]") -> None:
        self.metrics = Metrics("0")
        self.stream = stream
        self.said: Goodbye | None = None
        self._parser = FrameParser()

    async def send(self, *messages: Encodable) -> None:
        await self.stream.send_all(b"".join(message.encode() for message in messages))

    async def say(self, *payloads: bytes) -> None:
        """Send payloads, each in a CopyData of its own."""
        await self.stream.send_all(b"".join(encode_frame(b"d", payload) for payload in payloads))

    async def report(self, *messages: StandbyMessage) -> None:
        await self.say(*map(encode_standby_message, messages))

    async def next_message(self) -> BackendMessage:
        """Raises EOFError at the end of the stream, and AssertionError when that is inside a message."""
        while (frame := self._parser.next_frame()) is None:
            received = await self.stream.receive_some(RECEIVE_BYTES)
            if not received:
                assert self._parser.is_between_frames, "the stream ends inside a message"
                raise EOFError
            self._parser.feed(bytes(received))
        return parse_backend_message(frame)

    async def hear(self) -> memoryview:
        """The payload of the next message, which must be a CopyData."""
        message = await self.next_message()
        assert isinstance(message, CopyData)
        return memoryview(message.payload)

    async def hear_sender(self) -> SenderMessage:
        return parse_sender_message(await self.hear())

    async def serve(
        self,
        link: Link,
        timeline: Timeline,
        command: StartReplication,
        client: ServedClient,
        seconds_max: float,
    ) -> None:
        """What the keeper does for this client."""
        source = CopyReader(link, copying_session(), seconds_max, Turnstile())
        self.said = await send_wal(link, source, timeline, command, client, seconds_max, self.metrics)
        await link.send_eof()


@dataclass(frozen=True)
class Connection:
    """A connection and its two ends."""

    link: Link
    client: Client

    @classmethod
    def new(cls, *, keeper_in_lockstep: bool = False, client_in_lockstep: bool = False) -> "Connection":
        """Whoever is in lockstep can send only what the other end receives; otherwise there is room for all."""
        to_client, client_receives = one_way(lockstep=keeper_in_lockstep)
        to_keeper, keeper_receives = one_way(lockstep=client_in_lockstep)
        keeper = trio.StapledStream(to_client, keeper_receives)
        return cls(StreamLink(keeper), Client(trio.StapledStream(to_keeper, client_receives)))

    @classmethod
    def of_sockets(cls, here: socket.socket, there: socket.socket) -> "Connection":
        """One whose sends and receives take no turn of the scheduler where the kernel is ready for them."""
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(there))
        return cls(SocketLink(here), Client(trio.StapledStream(stream, stream)))


def one_way(*, lockstep: bool) -> tuple[trio.abc.SendStream, trio.abc.ReceiveStream]:
    return lockstep_stream_one_way_pair() if lockstep else memory_stream_one_way_pair()


def copying_session() -> ServerSession:
    """A session in which a client has started a stream."""
    session = ServerSession()
    session.feed(StartupMessage({"user": "test"}).encode())
    session.next_event()
    session.send(*WELCOME)
    assert session.next_event() is None
    session.feed(Query("START_REPLICATION 0/0").encode())
    session.next_event()
    session.send(CopyBothResponse())
    assert session.next_event() is None
    return session
