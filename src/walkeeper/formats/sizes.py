"""Sizes and numbers as PostgreSQL writes them: ``16MB``, ``150005``.

Binary units, as in SHOW and in configuration files.  Does not know fractions.
Source: PostgreSQL, "Parameter Names and Values".
"""

import re
from typing import Final

from walkeeper.errors import Malformed

_SHIFTS: Final = {"TB": 40, "GB": 30, "MB": 20, "kB": 10, "B": 0}
"""By unit, the largest first."""

_SIZE: Final = re.compile(r"\s*([0-9]{1,12})\s*(B|kB|MB|GB|TB)?\s*")


def parse_size(text: str) -> int:
    """``16MB``, ``1 GB`` or a number of bytes -> bytes.  Raises Malformed."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise Malformed(f"expected a size such as 16MB, got {text!r}")
    return int(match[1]) << _SHIFTS[match[2] or "B"]


def parse_unsigned(text: str, bits: int) -> int:
    """Digits, and nothing else, of a number that ``bits`` hold.  Raises Malformed."""
    significant = text.lstrip("0") or text[-1:]
    readable = significant.isascii() and significant.isdigit() and len(significant) <= len(str(1 << bits))
    if not readable or int(significant) >> bits:
        raise Malformed(f"not an unsigned number of {bits} bits: {text!r}")
    return int(significant)


def format_size(size_bytes: int) -> str:
    """``16777216`` -> ``16MB``: in the largest unit that loses nothing."""
    return next(
        f"{size_bytes >> shift}{unit}" for unit, shift in _SHIFTS.items() if size_bytes % (1 << shift) == 0
    )
