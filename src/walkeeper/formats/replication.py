"""What flows over a START_REPLICATION stream: WAL and keepalives one way, standby messages the other.

Purpose: these messages as values; each is the payload of one CopyData.

Rules: everything is big-endian; sizes are exact.  WAL is never copied: ``encode_xlog_data_head`` gives what goes
before it, and a parsed ``XLogData`` holds a view.  Hot standby feedback gives full transaction ids, which the wire
has as two halves in the wrong order.

Does not decide what may be sent.  Times are microseconds since 2000-01-01.
Source: PostgreSQL, "Streaming Replication Protocol"; ``replication/walprotocol.h``; the status update is Neon's.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import Final

from walkeeper.errors import Malformed
from walkeeper.formats.cursor import Reader, Writer
from walkeeper.formats.feedback import encode_pageserver_feedback, parse_pageserver_feedback
from walkeeper.lsn import Lsn
from walkeeper.messages import HotStandbyFeedback, PageserverFeedback, Slice

_XLOG_DATA_HEAD: Final = Struct(">cQQq")
_STANDBY_STATUS: Final = Struct(">cQQQqB")
_EPOCH_UNIX_SECONDS: Final = 946_684_800
"""2000-01-01 00:00 UTC, where PostgreSQL's time begins."""

_HALF_BITS: Final = 32
_HALF_MASK: Final = 0xFFFF_FFFF
_FIRST_NORMAL_XID: Final = 3
"""FirstNormalTransactionId of ``access/transam.h``."""


@dataclass(frozen=True, slots=True)
class XLogData:
    """WAL from ``wal_start`` on.  ``wal_end`` is the end of what the sender has, not of this piece."""

    wal_start: Lsn
    wal_end: Lsn
    send_time: int
    wal: Slice


@dataclass(frozen=True, slots=True)
class PrimaryKeepalive:
    """The sender is alive and has WAL up to ``wal_end``."""

    wal_end: Lsn
    send_time: int
    reply_requested: bool


@dataclass(frozen=True, slots=True)
class StandbyStatusUpdate:
    """How far a standby has written, flushed and applied."""

    write_lsn: Lsn
    flush_lsn: Lsn
    apply_lsn: Lsn
    client_time: int
    reply_requested: bool = False


SenderMessage = XLogData | PrimaryKeepalive
StandbyMessage = StandbyStatusUpdate | HotStandbyFeedback | PageserverFeedback


def postgres_microseconds(unix_nanoseconds: int) -> int:
    """The time of all these messages: microseconds since 2000-01-01, rounded down."""
    return unix_nanoseconds // 1000 - _EPOCH_UNIX_SECONDS * 1_000_000


def unix_seconds(microseconds: int) -> float:
    """A time of these messages in seconds since 1970."""
    return _EPOCH_UNIX_SECONDS + microseconds / 1_000_000


def format_time(microseconds: int) -> str:
    """A time of these messages as RFC 3339 has it, in UTC.  What a peer made up beyond all calendars is cut to them."""
    epoch = datetime.fromtimestamp(_EPOCH_UNIX_SECONDS, UTC)
    try:
        time = epoch + timedelta(microseconds=microseconds)
    except OverflowError:
        time = datetime.max.replace(tzinfo=UTC) if microseconds > 0 else datetime.min.replace(tzinfo=UTC)
    return time.isoformat().replace("+00:00", "Z")


# -- from the sender ------------------------------------------------------------------------------------------


def encode_xlog_data_head(wal_start: Lsn, wal_end: Lsn, send_time: int) -> bytes:
    """What goes before the WAL of an XLogData."""
    return _XLOG_DATA_HEAD.pack(b"w", wal_start, wal_end, send_time)


def encode_keepalive(message: PrimaryKeepalive) -> bytes:
    body = Writer().raw(b"k").u64(message.wal_end).i64(message.send_time)
    return bytes(body.u8(message.reply_requested))


def parse_sender_message(payload: memoryview) -> SenderMessage:
    """Raises Malformed, for unknown messages too."""
    tag = bytes(payload[:1])
    if tag == b"w":
        return _parse_xlog_data(payload)
    if tag != b"k":
        raise Malformed(f"replication stream: neither WAL nor a keepalive, tag {tag!r}")
    reader = Reader(payload[1:], "keepalive")
    keepalive = PrimaryKeepalive(Lsn(reader.u64()), reader.i64(), reader.flag())
    reader.finish()
    return keepalive


def _parse_xlog_data(payload: memoryview) -> XLogData:
    if len(payload) < _XLOG_DATA_HEAD.size:
        raise Malformed(f"XLogData: {len(payload)} bytes cannot hold its header")
    _, wal_start, wal_end, send_time = _XLOG_DATA_HEAD.unpack_from(payload)
    return XLogData(wal_start, wal_end, send_time, payload[_XLOG_DATA_HEAD.size :])


# -- from the standby -----------------------------------------------------------------------------------------


def encode_standby_message(message: StandbyMessage) -> bytes:
    match message:
        case StandbyStatusUpdate(write_lsn, flush_lsn, apply_lsn, client_time, asks):  # one for each commit
            return _STANDBY_STATUS.pack(b"r", write_lsn, flush_lsn, apply_lsn, client_time, asks)
        case HotStandbyFeedback():
            body = Writer().raw(b"h").i64(message.timestamp)
            body.u64(_swap_halves(message.xmin)).u64(_swap_halves(message.catalog_xmin))
        case PageserverFeedback():
            block = encode_pageserver_feedback(message)
            body = Writer().raw(b"z").u64(len(block)).raw(block)
    return bytes(body)


def parse_standby_message(payload: memoryview) -> StandbyMessage | None:
    """None for an empty payload and for messages of unknown kind, which a keeper ignores.  Raises Malformed."""
    match bytes(payload[:1]):
        case b"r":
            return _parse_standby_status(Reader(payload[1:], "standby status update"))
        case b"h":
            return _parse_hot_standby_feedback(Reader(payload[1:], "hot standby feedback"))
        case b"z":
            reader = Reader(payload[1:], "Neon status update")
            reader.u64()  # a length that nobody checks
            return parse_pageserver_feedback(reader.rest())
        case _:
            return None


def _parse_standby_status(reader: Reader) -> StandbyStatusUpdate:
    write_lsn, flush_lsn, apply_lsn = (Lsn(reader.u64()) for _ in range(3))
    status = StandbyStatusUpdate(write_lsn, flush_lsn, apply_lsn, reader.i64(), reader.flag())
    reader.finish()
    return status


def _parse_hot_standby_feedback(reader: Reader) -> HotStandbyFeedback:
    feedback = HotStandbyFeedback(reader.i64(), _full_xid(reader.u64()), _full_xid(reader.u64()))
    reader.finish()
    return feedback


def _full_xid(value: int) -> int:
    """The full transaction id (epoch, xid) of the wire's (xid, epoch); 0 for ids that are none, whatever their epoch.

    A standby that needs nothing sends id 0 with the epoch of that moment.
    """
    full = _swap_halves(value)
    return full if full & _HALF_MASK >= _FIRST_NORMAL_XID else 0


def _swap_halves(value: int) -> int:
    """The wire has (xid, epoch), a full transaction id is (epoch, xid)."""
    return (value & _HALF_MASK) << _HALF_BITS | value >> _HALF_BITS
