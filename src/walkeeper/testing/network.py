"""A network in memory between named hosts: delays, cuts, partitions, hosts that vanish; all from one seed.

Bytes of one connection arrive in order, as with TCP; those of different connections overtake each other.  What a
partition holds back arrives when it is over, unless the connection has been given up meanwhile.  A host that goes down
may say so (reset) or not: then its peers believe in it (half-open) until the network gives the connection up.

    network = MemoryNetwork(Random(7))
    keeper = network.host("keeper1")
    with network.host("writer").home():       # what runs here, and what it starts, dials in this network
        ...
    network.cut(writer, keeper)               # one way
    network.heal()

Does not lose or change bytes within a connection, and knows no ports: an address is a host's name.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from math import inf
from random import Random
from typing import Final

import structlog
import trio

from walkeeper.links.conninfo import ConnectionInfo
from walkeeper.links.dial import network as dial
from walkeeper.links.link import FLOOD_BYTES_MAX, Link
from walkeeper.messages import Slice

WINDOW_BYTES: Final = 64 * 1024
"""How much is on its way in one direction before the sender has to wait, as the kernel's buffers have it."""

SEGMENT_BYTES_MAX: Final = 16 * 1024
"""Most that arrives at once."""

DELAY_SECONDS: Final = 0.0005
"""The usual time from host to host, on average."""

SYN_SECONDS: Final = (0.5, 1.5)
"""How often it is tried again to connect across a partition."""

GIVEN_UP_SECONDS: Final = (5.0, 60.0)
"""When a connection is given up whose other end does not answer any more."""

Overhear = Callable[["MemoryLink", bytes], None]


class Pipe:
    """One direction of a connection: what was sent, and when it arrives."""

    def __init__(self, network: "MemoryNetwork", sender: "Host", receiver: "Host") -> None:
        self.sender = sender
        self.receiver = receiver
        self.free_bytes = WINDOW_BYTES
        self.broken_at = inf
        self._network = network
        self._arrivals: deque[tuple[float, bytes]] = deque()  # b"": the end of the stream
        self._last_arrival = 0.0
        self._receiving: trio.CancelScope | None = None
        self._sending: trio.CancelScope | None = None

    def send(self, data: bytes) -> None:
        """Put ``data`` on its way; ``b""`` ends the stream.  What is held back by a partition has no arrival yet."""
        self.free_bytes -= len(data)
        self._arrivals.append((self._next_arrival(), data))
        self._retime()

    def _next_arrival(self) -> float:
        if self._network.is_cut(self.sender, self.receiver):
            return inf
        earliest = max(self._last_arrival, trio.current_time() + self._network.next_delay_seconds())
        self._last_arrival = earliest
        return earliest

    def thaw(self) -> None:
        """A partition has begun or ended: what is not there yet has another arrival."""
        now = trio.current_time()
        pending = [data for arrival, data in self._arrivals if arrival > now]
        arrived = [item for item in self._arrivals if item[0] <= now]
        self._arrivals = deque(arrived)
        self._arrivals.extend((self._next_arrival(), data) for data in pending)
        self._retime()

    def try_take(self, bytes_max: int) -> bytes | None:
        """What has arrived, ``bytes_max`` at most.  Raises trio.BrokenResourceError."""
        if self._arrivals and self._arrivals[0][0] <= trio.current_time():
            arrival, data = self._arrivals[0]
            if data:
                self._arrivals.popleft()
                if len(data) > bytes_max:
                    self._arrivals.appendleft((arrival, data[bytes_max:]))
                data = data[:bytes_max]
                self.free_bytes += len(data)
                if self._sending is not None:
                    self._sending.cancel(reason="there is room")
            return data
        self.require_whole()
        return None

    def require_whole(self) -> None:
        """Raises trio.BrokenResourceError for a connection that was reset or given up."""
        if self.broken_at <= trio.current_time():
            raise trio.BrokenResourceError("connection lost: reset by the network")

    @property
    def _due_at(self) -> float:
        """When the receiver has something to look at, as things stand."""
        return min(self.broken_at, self._arrivals[0][0] if self._arrivals else inf)

    async def wait_arrival(self) -> None:
        """Until something has arrived, or the connection is broken.  Cancellation: at any time.

        Who waits is woken when it is time, and not by every byte that is sent: turns of the scheduler are what a
        simulation is made of.  One task may wait, as with sockets: raises trio.BusyResourceError.
        """
        if self._receiving is not None:
            raise trio.BusyResourceError("another task is receiving here")
        self._receiving = scope = trio.CancelScope(deadline=self._due_at)
        try:
            with scope:
                await trio.sleep_forever()
        finally:
            self._receiving = None

    async def wait_room(self) -> None:
        """Until something may be sent, or the connection is broken.  As ``wait_arrival``."""
        if self._sending is not None:
            raise trio.BusyResourceError("another task is sending here")
        self._sending = scope = trio.CancelScope(deadline=self.broken_at)
        try:
            with scope:
                await trio.sleep_forever()
        finally:
            self._sending = None

    def break_at(self, when: float) -> None:
        self.broken_at = min(self.broken_at, when)
        self._retime()

    def break_now(self) -> None:
        """Reset: what is on its way is lost."""
        self._arrivals.clear()
        self.break_at(trio.current_time())

    def rouse(self) -> None:
        """Nobody is to wait any more: one end was closed."""
        for waiting in (self._receiving, self._sending):
            if waiting is not None:
                waiting.cancel(reason="closed")

    def _retime(self) -> None:
        """Whoever waits does so until another time."""
        if self._receiving is not None:
            self._receiving.deadline = self._due_at
        if self._sending is not None:
            self._sending.deadline = self.broken_at


class MemoryLink:
    """A ``links.link.Link``: one end of a connection."""

    def __init__(self, outgoing: Pipe, incoming: Pipe) -> None:
        self.outgoing = outgoing
        self.incoming = incoming
        self.is_closed = False
        self.overhear: Overhear = _not_overheard
        self._pending = bytearray()
        self._is_ended = False
        self.received_bytes = 0
        self.sent_bytes = 0

    @property
    def here(self) -> "Host":
        return self.outgoing.sender

    @property
    def there(self) -> "Host":
        return self.outgoing.receiver

    def try_receive(self, bytes_max: int = FLOOD_BYTES_MAX) -> bytes | None:
        self._require_open()
        data = self.incoming.try_take(bytes_max)
        self.received_bytes += len(data or b"")
        return data

    async def receive(self, bytes_max: int = FLOOD_BYTES_MAX) -> bytes:
        self._require_open()
        while True:
            await self.incoming.wait_arrival()
            if (data := self.try_receive(bytes_max)) is not None:
                return data

    @property
    def pending_bytes(self) -> int:
        return len(self._pending)

    def send_soon(self, *pieces: Slice) -> None:
        data = b"".join(pieces)
        self.overhear(self, data)
        self._pending += data
        self._send_now()

    def _send_now(self) -> None:
        self._require_open()
        self.outgoing.require_whole()
        while self._pending and self.outgoing.free_bytes > 0:
            size = min(self.outgoing.free_bytes, SEGMENT_BYTES_MAX, len(self._pending))
            self.outgoing.send(bytes(self._pending[:size]))
            del self._pending[:size]
            self.sent_bytes += size

    async def wait_sent(self) -> None:
        await trio.lowlevel.checkpoint()
        self._send_now()
        while self._pending:
            await self.outgoing.wait_room()
            self._send_now()

    def give_up_after(self, seconds: float) -> None:
        """The network knows by itself when a connection is given up."""

    async def send_eof(self) -> None:
        self._require_open()
        self._end()
        await trio.lowlevel.checkpoint()

    def _end(self) -> None:
        if not self._is_ended:
            self._is_ended = True
            self.outgoing.send(b"")

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """As the kernel closes a socket: the peer reads what was sent, and cannot send any more."""
        if not self.is_closed:
            self.is_closed = True
            self._end()
            self.incoming.break_at(trio.current_time() + self.outgoing._network.next_delay_seconds())
            self.outgoing.rouse()
            self.incoming.rouse()

    def _require_open(self) -> None:
        if self.is_closed:
            raise trio.BrokenResourceError("connection closed on this side")


def _not_overheard(_link: MemoryLink, _data: bytes) -> None:
    """Nobody listens."""


class MemoryListener:
    """A ``services.listener.Listener``: where clients come in at a host that is up."""

    def __init__(self, host: "Host") -> None:
        self._host = host
        self._to_accept, self._clients = trio.open_memory_channel[MemoryLink](inf)

    def offer(self, link: MemoryLink) -> None:
        self._to_accept.send_nowait(link)

    async def accept(self) -> tuple[Link, str]:
        link = await self._clients.receive()
        return link, link.there.name

    def close(self) -> None:
        self._host.listener = None


class Host:
    """A machine: where connections begin and end.  It is up until it goes down."""

    def __init__(self, network: "MemoryNetwork", name: str) -> None:
        self.name = name
        self.listener: MemoryListener | None = None
        self._network = network
        self._links: list[MemoryLink] = []

    def __str__(self) -> str:
        return self.name

    @contextmanager
    def home(self) -> Iterator[None]:
        """A block whose tasks, and those they start, are on this host: when they connect, and when they log."""
        token = dial.set(self._dial)
        try:
            with structlog.contextvars.bound_contextvars(host=self.name):
                yield
        finally:
            dial.reset(token)

    def listen(self) -> MemoryListener:
        self.listener = MemoryListener(self)
        return self.listener

    def _dial(self, info: ConnectionInfo) -> Awaitable[Link]:
        return self._network.connect(self, self._network.host(info.host))

    def add(self, link: MemoryLink) -> None:
        self._links = [each for each in self._links if not each.is_closed]
        self._links.append(link)

    def go_down(self, *, silently: bool) -> None:
        """Lose all connections; ``silently``: nobody is told, and peers find out by themselves."""
        self.listener = None
        links, self._links = self._links, []
        for link in links:
            link.is_closed = True
            self._network.lose(link, silently=silently)
            link.outgoing.rouse()
            link.incoming.rouse()


class MemoryNetwork:
    """All hosts, and what is between them."""

    def __init__(self, random: Random) -> None:
        self.delay_seconds = DELAY_SECONDS
        self.on_connect: Callable[[MemoryLink, MemoryLink], None] = lambda _client, _server: None
        self._random = random
        self._hosts: dict[str, Host] = {}
        self._cuts: set[tuple[str, str]] = set()
        self._pipes: list[Pipe] = []

    def host(self, name: str) -> Host:
        """The host of that name."""
        return self._hosts.setdefault(name, Host(self, name))

    def next_delay_seconds(self) -> float:
        return self._random.expovariate(1 / self.delay_seconds)

    # -- faults ---------------------------------------------------------------------------------------------

    def cut(self, sender: Host, receiver: Host) -> None:
        """Nothing gets from ``sender`` to ``receiver`` any more."""
        self._cuts.add((sender.name, receiver.name))
        self._retime()

    def heal(self) -> None:
        """Everything gets everywhere."""
        self._cuts.clear()
        self._retime()

    def is_cut(self, sender: Host, receiver: Host) -> bool:
        return (sender.name, receiver.name) in self._cuts

    def reset(self, one: Host, other: Host) -> None:
        """End all connections between two hosts, as a router that forgets them does."""
        for pipe in self._pipes:
            if {pipe.sender, pipe.receiver} == {one, other}:
                pipe.break_now()

    def lose(self, link: MemoryLink, *, silently: bool) -> None:
        """A host has lost its end of a connection."""
        for pipe in (link.outgoing, link.incoming):
            if silently:
                pipe.break_at(trio.current_time() + self._random.uniform(*GIVEN_UP_SECONDS))
            else:
                pipe.break_now()

    def _retime(self) -> None:
        now = trio.current_time()
        self._pipes = [pipe for pipe in self._pipes if pipe.broken_at > now]
        for pipe in self._pipes:
            pipe.thaw()

    # -- connecting -----------------------------------------------------------------------------------------

    async def connect(self, client: Host, server: Host) -> Link:
        """A connection.  Raises ConnectionRefusedError; across a cut it takes for ever.

        Cancellation: at any time; nothing has been offered to the server then.
        """
        await trio.sleep(self.next_delay_seconds())
        while self.is_cut(client, server) or self.is_cut(server, client):  # noqa: ASYNC110  as TCP does
            await trio.sleep(self._random.uniform(*SYN_SECONDS))
        if server.listener is None:
            raise ConnectionRefusedError(111, "Connection refused")
        there, back = Pipe(self, client, server), Pipe(self, server, client)
        self._pipes += [there, back]
        link, other = MemoryLink(there, back), MemoryLink(back, there)
        client.add(link)
        server.add(other)
        self.on_connect(link, other)
        server.listener.offer(other)
        return link
