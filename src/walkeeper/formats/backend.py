"""What a PostgreSQL server says after startup, as values.

Purpose: the frames of the backend that a keeper sends and that the sidecar understands, in both directions.

Rules: the keeper's ErrorResponse has exactly the three fields that Neon's clients know; one that was received
keeps all of them.  Result columns are text.

Does not know SQLSTATEs or when a message may come.
Source: PostgreSQL, "Message Formats" and "Error and Notice Message Fields"; ``libpq/protocol.h``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

from walkeeper.errors import Malformed
from walkeeper.formats.authentication import AUTHENTICATION_TAG, Authentication, parse_authentication
from walkeeper.formats.cursor import Reader, Writer
from walkeeper.formats.frames import Frame, FrameMessage
from walkeeper.formats.frontend import CopyData, CopyDone

TEXT_OID: Final = 25
INT4_OID: Final = 23


@dataclass(frozen=True, slots=True)
class ParameterStatus(FrameMessage):
    """A setting of the server, told unasked."""

    TAG = b"S"
    name: str
    value: str

    def body(self) -> bytes:
        return bytes(Writer().cstring(self.name).cstring(self.value))

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        reader = Reader(body, "ParameterStatus")
        status = cls(reader.cstring(errors="replace"), reader.cstring(errors="replace"))
        reader.finish()
        return status


@dataclass(frozen=True, slots=True)
class BackendKeyData(FrameMessage):
    """What a CancelRequest for this connection would need."""

    TAG = b"K"
    process_id: int
    secret: bytes

    def body(self) -> bytes:
        return bytes(Writer().u32(self.process_id).raw(self.secret))

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        reader = Reader(body, "BackendKeyData")
        return cls(reader.u32(), bytes(reader.rest()))


@dataclass(frozen=True, slots=True)
class ReadyForQuery(FrameMessage):
    """The server waits for a query.  ``status``: I idle, T in a transaction, E in a failed one."""

    TAG = b"Z"
    status: bytes = b"I"

    def body(self) -> bytes:
        return self.status

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        reader = Reader(body, "ReadyForQuery")
        ready = cls(bytes(reader.take(1)))
        reader.finish()
        return ready


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a result: name, type, and the type's width in bytes (-1: it varies)."""

    name: str
    type_oid: int = TEXT_OID
    type_bytes: int = -1


@dataclass(frozen=True, slots=True)
class RowDescription(FrameMessage):
    """The shape of the rows that follow."""

    TAG = b"T"
    columns: tuple[Column, ...]

    def body(self) -> bytes:
        body = Writer().u16(len(self.columns))
        for column in self.columns:
            body.cstring(column.name).i32(0).i16(0).u32(column.type_oid).i16(column.type_bytes).i32(-1).i16(0)
        return bytes(body)

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        reader = Reader(body, "RowDescription")
        description = cls(tuple(_parse_column(reader) for _ in range(reader.u16())))
        reader.finish()
        return description


def _parse_column(reader: Reader) -> Column:
    name = reader.cstring(errors="replace")
    reader.take(6)  # table and attribute number
    column = Column(name, reader.u32(), reader.i16())
    reader.take(6)  # type modifier and format
    return column


@dataclass(frozen=True, slots=True)
class DataRow(FrameMessage):
    """One row; None is NULL."""

    TAG = b"D"
    values: tuple[bytes | None, ...]

    @classmethod
    def of(cls, *values: str | None) -> Self:
        return cls(tuple(None if value is None else value.encode() for value in values))

    def body(self) -> bytes:
        body = Writer().u16(len(self.values))
        for value in self.values:
            if value is None:
                body.i32(-1)
            else:
                body.i32(len(value)).raw(value)
        return bytes(body)

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        reader = Reader(body, "DataRow")
        row = cls(tuple(_parse_value(reader) for _ in range(reader.u16())))
        reader.finish()
        return row


def _parse_value(reader: Reader) -> bytes | None:
    length = reader.i32()
    return None if length == -1 else bytes(reader.take(length))


@dataclass(frozen=True, slots=True)
class CommandComplete(FrameMessage):
    """A command has ended well; ``command`` names it."""

    TAG = b"C"
    command: str

    def body(self) -> bytes:
        return bytes(Writer().cstring(self.command))

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        reader = Reader(body, "CommandComplete")
        complete = cls(reader.cstring(errors="replace"))
        reader.finish()
        return complete


@dataclass(frozen=True, slots=True)
class EmptyQueryResponse(FrameMessage):
    """Instead of CommandComplete, for a query without a command."""

    TAG = b"I"


@dataclass(frozen=True, slots=True)
class _Report(FrameMessage):
    """A text for people and a code for programs.

    ``more`` holds the other fields by their one-letter names (D detail, H hint, V severity untranslated, ...).
    """

    message: str
    sqlstate: str
    severity: str = "ERROR"
    more: tuple[tuple[str, str], ...] = ()

    def body(self) -> bytes:
        body = Writer()
        for name, value in (("S", self.severity), ("C", self.sqlstate), ("M", self.message), *self.more):
            body.raw(name.encode("latin-1")).cstring(value.replace("\0", "\N{REPLACEMENT CHARACTER}"))
        return bytes(body.u8(0))

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        reader = Reader(body, cls.__name__)
        fields = dict(_parse_report_fields(reader))
        reader.finish()
        severity, sqlstate, message = (fields.pop(name, "") for name in "SCM")
        return cls(message, sqlstate, severity, tuple(fields.items()))

    def field(self, name: str) -> str:
        """One of the other fields, empty if it is absent."""
        return dict(self.more).get(name, "")

    @property
    def detail(self) -> str:
        return self.field("D")

    @property
    def hint(self) -> str:
        return self.field("H")


def _parse_report_fields(reader: Reader) -> Iterator[tuple[str, str]]:
    while name := reader.u8():
        yield chr(name), reader.cstring(errors="replace")


@dataclass(frozen=True, slots=True)
class ErrorResponse(_Report):
    """What was asked has failed."""

    TAG = b"E"


@dataclass(frozen=True, slots=True)
class NoticeResponse(_Report):
    """A remark; may come at any time."""

    TAG = b"N"


@dataclass(frozen=True, slots=True)
class CopyBothResponse(FrameMessage):
    """From here both sides stream CopyData.  Format and columns mean nothing for replication: zeros, ignored."""

    TAG = b"W"

    def body(self) -> bytes:
        return bytes(3)

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        Reader(body, "CopyBothResponse").take(3)
        return cls()


BackendMessage = (
    Authentication
    | ParameterStatus
    | BackendKeyData
    | ReadyForQuery
    | RowDescription
    | DataRow
    | CommandComplete
    | EmptyQueryResponse
    | ErrorResponse
    | NoticeResponse
    | CopyBothResponse
    | CopyData
    | CopyDone
)

_MESSAGES: Final[dict[bytes, type[FrameMessage]]] = {
    kind.TAG: kind
    for kind in (
        ParameterStatus,
        BackendKeyData,
        ReadyForQuery,
        RowDescription,
        DataRow,
        CommandComplete,
        EmptyQueryResponse,
        ErrorResponse,
        NoticeResponse,
        CopyBothResponse,
        CopyData,
        CopyDone,
    )
}


def parse_backend_message(frame: Frame) -> BackendMessage:
    """Raises Malformed."""
    if frame.tag == AUTHENTICATION_TAG:
        return parse_authentication(frame.body)
    kind = _MESSAGES.get(frame.tag)
    if kind is None:
        raise Malformed(f"no server message expected here has the tag {frame.tag!r}")
    message = kind.parse(frame.body)
    assert isinstance(message, BackendMessage)
    return message
