"""PostgreSQL's framing: cutting a byte stream into frames, and making frames.

A frame is a tag byte, a big-endian length that counts itself but not the tag, and a body.  Startup packets,
the first thing a client sends, lack the tag.

Rules: bodies are views into the received buffers, which therefore must never change after ``feed``; only a
frame that straddles two receives is joined, by copying that frame alone.  Whoever keeps a body pins its
buffer.  Memory held for an unfinished frame never exceeds what was received of it, nor ``FRAME_BYTES_MAX``.

Does not know what bodies mean: ``startup``, ``frontend`` and ``backend`` do.
Source: PostgreSQL, "Message Formats"; ``libpq/pqformat.c``, ``libpq/pqcomm.h``.
"""

from struct import Struct
from typing import Any, ClassVar, Final, NamedTuple, Self

from walkeeper.errors import Malformed
from walkeeper.formats.cursor import Reader
from walkeeper.messages import Slice

FRAME_BYTES_MAX: Final = 1024 * 1024
"""Longest frame accepted.  WAL comes in at most 131144 bytes (an AppendRequest of protocol 2); the rest is for
term histories, 16 bytes for each election a timeline has ever seen: room for 65 000."""

STARTUP_BYTES_MAX: Final = 10_000
"""Longest startup packet (MAX_STARTUP_PACKET_LENGTH), accepted from strangers."""

PASSWORD_BYTES_MAX: Final = 10_000
"""Longest frame of a stranger that shows who it is: many may do so at once."""

PAYLOADS_MAX: Final = 256
"""Most payloads that are taken at once.  One receive can bring hundreds of thousands, and the scheduler has no turn
meanwhile; so many take under a millisecond, appends among them included."""

_STARTUP_LENGTHS: Final = range(8, STARTUP_BYTES_MAX + 1)
_TLS_HANDSHAKE: Final = 0x16
_COPY_DATA: Final = b"d"

_HEADER: Final = Struct(">cI")
_STARTUP_HEADER: Final = Struct(">I")
_LENGTH_BYTES: Final = 4
_LENGTHS: Final = range(_LENGTH_BYTES, FRAME_BYTES_MAX)
"""What the length field may say: it counts itself, but not the tag."""


class Frame(NamedTuple):
    """One frame: its tag (one byte) and its body."""

    tag: bytes
    body: memoryview


class FrameMessage:
    """A value that travels as one tagged frame.  Subclasses say their tag and the layout of their body."""

    __slots__ = ()
    TAG: ClassVar[bytes]

    def body(self) -> Slice:
        return b""

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        """Raises Malformed."""
        Reader(body, cls.__name__).finish()
        return cls()

    def encode(self) -> bytes:
        """The whole frame."""
        return encode_frame(self.TAG, self.body())


def encode_frame(tag: bytes, body: Slice) -> bytes:
    return b"".join((_HEADER.pack(tag, _LENGTH_BYTES + len(body)), body))


def encode_copy_data_head(payload_bytes: int) -> bytes:
    """The head of a CopyData frame whose payload is sent from its own buffers, uncopied."""
    return _HEADER.pack(_COPY_DATA, _LENGTH_BYTES + payload_bytes)


class FrameParser:
    """Is fed receive buffers, gives frames.

    Take until there is nothing to take, then feed: the ``next_*`` methods return None when the bytes of what
    they look for have not all arrived.
    """

    __slots__ = ("_at", "_partial", "_starved", "_view")

    def __init__(self) -> None:
        self._view = memoryview(b"")
        self._at = 0
        self._partial = bytearray()
        self._starved = True

    def feed(self, received: Slice) -> None:
        """Hands over a buffer.  Only while ``is_starved``."""
        assert self._starved, "feed only when there was nothing left to take"
        self._view, self._at, self._starved = memoryview(received), 0, False

    @property
    def is_starved(self) -> bool:
        """Whether nothing can be taken until more is fed: a ``next_*`` method has returned None, or all is gone."""
        return self._starved

    @property
    def is_between_frames(self) -> bool:
        """Whether nothing at all is buffered, so that the stream may end or change to TLS here."""
        return not self._partial and self._at == len(self._view)

    def next_frame(self, bytes_max: int = FRAME_BYTES_MAX) -> Frame | None:
        """The next frame, of ``bytes_max`` at most.  Raises Malformed for an impossible length, when the header is there."""
        header = self._peek(_HEADER)
        if header is None:
            return None
        tag, length = header
        if not _LENGTH_BYTES <= length < bytes_max:
            raise _impossible_length(tag, length)
        whole = self._take(1 + length)
        return None if whole is None else Frame(tag, whole[_HEADER.size :])

    def copy_payloads(self) -> list[memoryview]:
        """The payloads of all complete CopyData frames up to the first frame of another kind, ``PAYLOADS_MAX`` at most.

        An empty list says to look at ``next_frame``.  This is the hot path: one call per receive.
        Raises Malformed for an impossible length.
        """
        payloads: list[memoryview] = []
        if self._partial:
            joined = self.next_frame() if self._partial.startswith(_COPY_DATA) else None
            if joined is None:
                return payloads
            payloads.append(joined.body)
        self._cut_copy_data(payloads)
        return payloads

    def _cut_copy_data(self, payloads: list[memoryview]) -> None:
        view, at, end = self._view, self._at, len(self._view)
        unpack, header_bytes = _HEADER.unpack_from, _HEADER.size
        for _ in range(PAYLOADS_MAX - len(payloads)):
            if end - at < header_bytes:
                break
            tag, length = unpack(view, at)
            if tag != _COPY_DATA:
                break
            if length not in _LENGTHS:
                raise _impossible_length(tag, length)
            stop = at + 1 + length
            if stop > end:
                break
            payloads.append(view[at + header_bytes : stop])
            at = stop
        self._at = at
        self._starved = at == end

    def next_startup(self) -> memoryview | None:
        """The next startup packet without its length.  Raises Malformed for an impossible length.

        A TLS handshake that begins without asking (as PostgreSQL 17's ``sslnegotiation=direct`` does) gives
        its first byte alone, which no startup packet is short enough to be.
        """
        header = self._peek(_STARTUP_HEADER)
        if header is None:
            return None
        (length,) = header
        if length >> 24 == _TLS_HANDSHAKE:
            return self._take(1)
        if length not in _STARTUP_LENGTHS:
            raise Malformed(f"a startup packet has 8 to {STARTUP_BYTES_MAX} bytes, got {length}")
        whole = self._take(length)
        return None if whole is None else whole[_STARTUP_HEADER.size :]

    def next_byte(self) -> bytes | None:
        """The unframed byte by which a server answers a request for encryption."""
        taken = self._take(1)
        return None if taken is None else bytes(taken)

    def take_rest(self) -> bytes:
        """All that is buffered, which is gone then: it belongs to another protocol."""
        rest = b"".join((self._partial, self._view[self._at :]))
        self._partial, self._at, self._starved = bytearray(), len(self._view), True
        return rest

    def _peek(self, layout: Struct) -> tuple[Any, ...] | None:
        """The fields of ``layout`` at the front, which stay there."""
        if self._partial:
            return layout.unpack_from(self._partial) if self._top_up(layout.size) else None
        if len(self._view) - self._at >= layout.size:
            return layout.unpack_from(self._view, self._at)
        self._stash()
        return None

    def _take(self, count: int) -> memoryview | None:
        """The next ``count`` bytes, which are gone then."""
        if self._partial:
            return self._take_joined(count)
        stop = self._at + count
        if stop > len(self._view):
            self._stash()
            return None
        taken, self._at = self._view[self._at : stop], stop
        return taken

    def _take_joined(self, count: int) -> memoryview | None:
        if not self._top_up(count):
            return None
        whole, self._partial = self._partial, self._partial[count:]
        return memoryview(whole)[:count]

    def _top_up(self, count: int) -> bool:
        """Brings the joined bytes to ``count`` at least; says whether there were enough."""
        missing = count - len(self._partial)
        if missing > 0:
            piece = self._view[self._at : self._at + missing]
            self._partial += piece
            self._at += len(piece)
        self._starved = len(self._partial) < count
        return not self._starved

    def _stash(self) -> None:
        """Keeps the beginning of a frame until the next buffer comes."""
        self._partial += self._view[self._at :]
        self._at = len(self._view)
        self._starved = True


def _impossible_length(tag: bytes, length: int) -> Malformed:
    return Malformed(
        f"a frame with tag {tag!r} has a length of {_LENGTHS.start} to {_LENGTHS.stop - 1}, got {length}"
    )
