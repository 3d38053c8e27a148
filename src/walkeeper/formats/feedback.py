"""A pageserver's feedback: named values, the same in every message that carries it.

Purpose: the key/value block that ends an AppendResponse and makes up a Neon status update.

Rules: always big-endian, even inside little-endian protocol 2.  Unknown keys are skipped by their length, a known
key of another width is Malformed.  The two optional values are written only when they say something.

Does not know the messages around it.  Source: Neon's PageserverFeedback.
"""

from typing import Final

from walkeeper.formats.cursor import Reader, Writer
from walkeeper.lsn import Lsn
from walkeeper.messages import PageserverFeedback

_WIDTHS: Final = {
    "current_timeline_size": 8,
    "last_received_lsn": 8,
    "disk_consistent_lsn": 8,
    "remote_consistent_lsn": 8,
    "reply_time": 8,
    "shard_number": 4,
    "corruption_detected": 1,
}
"""Bytes of each value, by our name for it."""

_NAMES: Final = {
    "ps_writelsn": "last_received_lsn",
    "ps_flushlsn": "disk_consistent_lsn",
    "ps_applylsn": "remote_consistent_lsn",
    "ps_replytime": "reply_time",
    "replytime": "reply_time",
}
"""The wire's names where they are not ours."""


def encode_pageserver_feedback(feedback: PageserverFeedback) -> bytes:
    pairs: list[tuple[str, Writer]] = [
        ("current_timeline_size", Writer().u64(feedback.current_timeline_size)),
        ("ps_writelsn", Writer().u64(feedback.last_received_lsn)),
        ("ps_flushlsn", Writer().u64(feedback.disk_consistent_lsn)),
        ("ps_applylsn", Writer().u64(feedback.remote_consistent_lsn)),
        ("ps_replytime", Writer().i64(feedback.reply_time)),
    ]
    if feedback.shard_number:
        pairs.append(("shard_number", Writer().u32(feedback.shard_number)))
    if feedback.corruption_detected:
        pairs.append(("corruption_detected", Writer().u8(1)))
    block = Writer().u8(len(pairs))
    for key, value in pairs:
        raw = bytes(value)
        block.cstring(key).i32(len(raw)).raw(raw)
    return bytes(block)


def parse_pageserver_feedback(data: memoryview) -> PageserverFeedback:
    """Reads the block that fills ``data``.  Raises Malformed."""
    reader = Reader(data, "pageserver feedback")
    values: dict[str, int] = {}
    for _ in range(reader.u8()):
        key = reader.cstring()
        value = reader.take(reader.i32())
        name = _NAMES.get(key, key)
        if name not in _WIDTHS:
            continue
        if len(value) != _WIDTHS[name]:
            reader.fail(f"{key} has {_WIDTHS[name]} bytes, got {len(value)}")
        values[name] = int.from_bytes(value, "big", signed=name == "reply_time")
    reader.finish()
    return PageserverFeedback(
        values.get("current_timeline_size", 0),
        Lsn(values.get("last_received_lsn", 0)),
        Lsn(values.get("disk_consistent_lsn", 0)),
        Lsn(values.get("remote_consistent_lsn", 0)),
        values.get("reply_time", 0),
        values.get("shard_number", 0),
        bool(values.get("corruption_detected", 0)),
    )
