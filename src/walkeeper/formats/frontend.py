"""What a PostgreSQL client says after startup, as values.

Purpose: the frames of the frontend that a keeper understands and that the sidecar sends, in both directions.

Rules: the extended query protocol is recognised but not understood: ``ExtendedQuery`` says that a step of it
was tried.  Any tag that no frontend sends is Malformed.

Does not know what a query means (``commands``), or when a message may come (``session``).
Source: PostgreSQL, "Message Formats".
"""

from dataclasses import dataclass
from typing import Final, Self

from walkeeper.errors import Malformed
from walkeeper.formats.cursor import Reader, Writer
from walkeeper.formats.frames import Frame, FrameMessage
from walkeeper.messages import Slice


@dataclass(frozen=True, slots=True)
class Query(FrameMessage):
    """A simple query."""

    TAG = b"Q"
    text: str

    def body(self) -> bytes:
        return bytes(Writer().cstring(self.text))

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        reader = Reader(body, "Query")
        query = cls(reader.cstring())
        reader.finish()
        return query


@dataclass(frozen=True, slots=True)
class AuthenticationReply(FrameMessage):
    """The client's part of any authentication; what its bytes mean depends on what was asked."""

    TAG = b"p"
    data: bytes

    @classmethod
    def of_password(cls, password: bytes) -> Self:
        """A password, or its MD5 digest."""
        return cls(password + b"\0")

    @classmethod
    def of_sasl_mechanism(cls, mechanism: str, first: bytes) -> Self:
        """The chosen SASL mechanism and the first message of its exchange."""
        return cls(bytes(Writer().cstring(mechanism).i32(len(first)).raw(first)))

    def body(self) -> bytes:
        return self.data

    def sasl_mechanism(self) -> tuple[str, bytes]:
        """The chosen SASL mechanism and the first message of its exchange.  Raises Malformed."""
        reader = Reader(self.data, "SASLInitialResponse")
        mechanism = reader.cstring()
        first = bytes(reader.take(max(reader.i32(), 0)))
        reader.finish()
        return mechanism, first

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        return cls(bytes(body))


@dataclass(frozen=True, slots=True)
class CopyData(FrameMessage):
    """One message of a stream, in either direction.  ``payload`` may be a view into a receive buffer."""

    TAG = b"d"
    payload: Slice

    def body(self) -> Slice:
        return self.payload

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        return cls(body)


@dataclass(frozen=True, slots=True)
class CopyDone(FrameMessage):
    """The sender has ended its half of the stream."""

    TAG = b"c"


@dataclass(frozen=True, slots=True)
class CopyFail(FrameMessage):
    """The client gives the stream up."""

    TAG = b"f"
    reason: str

    def body(self) -> bytes:
        return bytes(Writer().cstring(self.reason))

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        return cls(Reader(body, "CopyFail").cstring(errors="replace"))


@dataclass(frozen=True, slots=True)
class Terminate(FrameMessage):
    """The client leaves."""

    TAG = b"X"


@dataclass(frozen=True, slots=True)
class Sync(FrameMessage):
    """The end of a series of extended query messages; the server must answer ReadyForQuery."""

    TAG = b"S"


@dataclass(frozen=True, slots=True)
class ExtendedQuery:
    """Parse, Bind, Describe, Execute, Close or Flush: a step of the extended query protocol."""

    tag: bytes


FrontendMessage = Query | AuthenticationReply | CopyData | CopyDone | CopyFail | Terminate | Sync | ExtendedQuery

_MESSAGES: Final[dict[bytes, type[FrameMessage]]] = {
    kind.TAG: kind for kind in (Query, AuthenticationReply, CopyData, CopyDone, CopyFail, Terminate, Sync)
}
_EXTENDED_QUERY_TAGS: Final = frozenset((b"P", b"B", b"D", b"E", b"C", b"H"))


def parse_frontend_message(frame: Frame) -> FrontendMessage:
    """Raises Malformed."""
    if frame.tag in _EXTENDED_QUERY_TAGS:
        return ExtendedQuery(frame.tag)
    kind = _MESSAGES.get(frame.tag)
    if kind is None:
        raise Malformed(f"no client message has the tag {frame.tag!r}")
    message = kind.parse(frame.body)
    assert isinstance(message, FrontendMessage)
    return message
