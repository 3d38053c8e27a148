"""What operators write on a command line, as values: durations, sizes, switches, numbers.

Every parser takes text and raises ValueError with a sentence that says what was expected; who wrote the text,
and where, is known to ``options``.

Source of the durations: Rust's *humantime* (``1h 30m``), which Neon's flags use.
"""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from walkeeper.errors import Malformed
from walkeeper.formats.sizes import parse_size, parse_unsigned
from walkeeper.ids import NodeId
from walkeeper.links.conninfo import SslMode

_DAY: Final = 86_400.0
_UNITS: Final = (
    (1e-9, ("ns", "nsec", "nanos")),
    (1e-6, ("us", "usec", "micros")),
    (1e-3, ("ms", "msec", "millis")),
    (1.0, ("s", "sec", "secs", "second", "seconds")),
    (60.0, ("m", "min", "mins", "minute", "minutes")),
    (3600.0, ("h", "hr", "hrs", "hour", "hours")),
    (_DAY, ("d", "day", "days")),
    (7 * _DAY, ("w", "week", "weeks")),
    (30.44 * _DAY, ("M", "month", "months")),
    (365.25 * _DAY, ("y", "year", "years")),
)
_SECONDS_OF_UNIT: Final = {name: seconds for seconds, names in _UNITS for name in names}
_DURATION_PART: Final = re.compile(r"\s*([0-9]+)\s*([A-Za-z]+)\s*")

MEMORY_BYTES_MIN: Final = 16 << 20


def parse_duration_seconds(text: str) -> float:
    """``300s``, ``5000 ms`` or ``1h 30m`` -> seconds."""
    parts = list(_DURATION_PART.finditer(text))
    if not parts or "".join(part[0] for part in parts) != text:
        raise ValueError(f"expected a duration with its unit, such as 300s or 1h 30m, got {text!r}")
    return sum(int(part[1]) * _seconds_of(part[2]) for part in parts)


def parse_limit_seconds(text: str) -> float:
    """A duration that something may take at most; one of 0 is no limit, as PostgreSQL has it."""
    return parse_duration_seconds(text) or math.inf


def _seconds_of(unit: str) -> float:
    if unit not in _SECONDS_OF_UNIT:
        raise ValueError(f"unknown unit of time {unit!r}; there are ns, us, ms, s, m, h, d, w, M (months) and y")
    return _SECONDS_OF_UNIT[unit]


def parse_node_id(text: str) -> NodeId:
    """A keeper's number, 1 to 2^64-1."""
    return NodeId(parse_positive(text))


def parse_positive(text: str) -> int:
    """A whole number from 1 to 2**64 - 1."""
    try:
        number = parse_unsigned(text, 64)
    except Malformed:
        number = 0
    if not number:
        raise ValueError(f"expected a whole number above 0 of at most 64 bits, got {text!r}")
    return number


def parse_size_bytes(text: str) -> int:
    """``16MB``, ``1GB`` or a number of bytes, as PostgreSQL has them."""
    try:
        return parse_size(text)
    except Malformed as error:
        raise ValueError(str(error)) from None


def parse_memory_bytes(text: str) -> int:
    """The same, and enough for some readers, of which each needs half a MiB."""
    size = parse_size_bytes(text)
    if size < MEMORY_BYTES_MIN:
        raise ValueError(f"{text} is too little memory: at least {MEMORY_BYTES_MIN >> 20}MB")
    return size


def parse_ratio(text: str) -> float:
    """A part of the whole: ``0.95``."""
    try:
        ratio = float(text)
    except ValueError:
        ratio = math.nan
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"expected a number from 0 to 1, such as 0.95, got {text!r}")
    return ratio


def parse_switch(text: str) -> bool:
    """``true`` or ``false``, nothing else."""
    if text not in ("true", "false"):
        raise ValueError(f"expected true or false, got {text!r}")
    return text == "true"


def parse_text(text: str) -> str:
    """Anything but nothing."""
    if not text:
        raise ValueError("must not be empty")
    return text


def parse_text_if_any(text: str) -> str | None:
    """The same, and nothing is nothing said: what fills in a variable may have nothing to put there."""
    return text or None


def parse_find(text: str) -> str:
    """A part of ``tenant/timeline``, or nothing."""
    find = text.lower()
    if not set(find) <= set("0123456789abcdef/"):
        raise ValueError(f"expected a part of TENANT/TIMELINE, hexadecimal digits, got {text!r}")
    return find


def parse_path(text: str) -> Path:
    return Path(parse_text(text))


def parse_sslmode(text: str) -> SslMode:
    """libpq's word for how much TLS is wanted."""
    return SslMode(one_of([each.value for each in SslMode])(text))


def one_of(choices: Sequence[str]) -> Callable[[str], str]:
    """A parser that accepts exactly these words."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"expected {' or '.join(choices)}, got {text!r}")
        return text

    return parse
