"""Log sequence numbers: byte positions in the WAL, and how PostgreSQL prints them.

An LSN is an unsigned 64-bit byte offset; 0 means *unknown*.  ``Lsn`` is a distinct type to the type
checker and a plain ``int`` at run time, so that arithmetic on the hot path costs nothing.

Does not know segments, pages or records: those are ``formats.segments`` and ``formats.xlog``.
Source: PostgreSQL ``access/xlogdefs.h`` (XLogRecPtr, LSN_FORMAT_ARGS).
"""

from typing import Final, NewType

Lsn = NewType("Lsn", int)

INVALID_LSN: Final = Lsn(0)
LSN_MAX: Final = Lsn(2**64 - 1)


def format_lsn(lsn: int) -> str:
    """``0x16B3748`` -> ``'0/16B3748'``: two upper-case hexadecimal halves without leading zeros."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> Lsn:
    """``'0/16B3748'`` -> ``0x16B3748``; blanks around the halves are allowed.

    Raises ValueError unless there is exactly one slash between two hexadecimal numbers of at most 32 bits.
    """
    halves = text.split("/")
    if len(halves) != 2:
        raise ValueError(f"not an LSN: {text!r} (expected two hexadecimal numbers such as 0/16B3748)")
    high, low = (_parse_half(half.strip(), text) for half in halves)
    return Lsn(high << 32 | low)


def _parse_half(half: str, text: str) -> int:
    if not half or len(half) > 8 or not all(c in "0123456789abcdefABCDEF" for c in half):
        raise ValueError(f"not an LSN: {text!r} (expected two hexadecimal numbers such as 0/16B3748)")
    return int(half, 16)
