"""Garbage that gets far: what is well-formed, with a few things wrong with it.  And what it costs to look at it."""

import sys
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from hypothesis import strategies as st

MAGIC_NUMBERS = [
    sign.to_bytes(width, order, signed=True)
    for width in (1, 2, 4, 8)
    for sign in (0, 1, -1, 1 << 8 * width - 2, (1 << 8 * width - 1) - 1, -1 << 8 * width - 1)
    for order in ("big", "little")
]
"""Ends and middles of integers: what announces a gigabyte, or less than nothing."""

TEXTS = [b"\0", b"'", b"\\", b"(", b"/", b"%00", b"\xff", b"\xf0\x9f\x90\x98", b"9" * 400, b"=", b",", b"\n"]
REPEATS_MAX = 300


@st.composite
def garbage(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """A seed after a few accidents, or noise."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=300))
    raw = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 4))):
        raw = _damaged(draw, raw, seeds)
    return raw


def _damaged(draw: st.DrawFn, raw: bytes, seeds: Sequence[bytes]) -> bytes:
    at, end = sorted((draw(st.integers(0, len(raw))), draw(st.integers(0, len(raw)))))
    match draw(st.sampled_from(["overwrite", "overwrite", "insert", "cut", "drop", "repeat", "splice"])):
        case "overwrite":
            piece = draw(st.sampled_from(MAGIC_NUMBERS + TEXTS) | st.binary(min_size=1, max_size=8))
            return raw[:at] + piece + raw[at + len(piece) :]
        case "insert":
            return raw[:at] + draw(st.sampled_from(MAGIC_NUMBERS + TEXTS) | st.binary(max_size=8)) + raw[at:]
        case "cut":
            return raw[:at]
        case "drop":
            return raw[:at] + raw[end:]
        case "repeat":
            return raw[:at] + raw[at : min(end, at + 40)] * draw(st.integers(2, REPEATS_MAX)) + raw[end:]
        case _:
            return raw[:at] + draw(st.sampled_from(seeds))[at:]


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one call: the most memory that it held, and the lines of Python that it ran."""

    peak_bytes: int
    lines: int


def cost_of(function: Callable[[bytes], object], data: bytes) -> Cost:
    """Whatever ``function`` raises is raised."""
    lines = 0

    def count(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return count

    before = sys.gettrace()
    tracemalloc.start()
    try:
        held, _ = tracemalloc.get_traced_memory()
        sys.settrace(count)
        function(data)
        sys.settrace(before)
        return Cost(tracemalloc.get_traced_memory()[1] - held, lines)
    finally:
        sys.settrace(before)
        tracemalloc.stop()
