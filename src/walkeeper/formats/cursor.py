"""Bounded reading and writing of the integers, strings and slices that messages are made of.

Purpose: a message's layout reads as a list of its fields, and no layout can read outside its bytes.

Rules: every failure is ``Malformed`` and names the message that was being read.  Slices are views, never
copies.  A value too big for its field is a bug of ours (OverflowError), not of the peer.

Does not know any message.  On the hot path (``frames``, ``proposer.coalesce``) precompiled structs are used
instead.
"""

from typing import Literal, NoReturn, Self

from walkeeper.errors import Malformed
from walkeeper.messages import Slice

ByteOrder = Literal["big", "little"]


class Reader:
    """Reads ``data`` front to back; ``what`` is the name of the message, for errors."""

    __slots__ = ("_at", "_copy", "_view", "order", "what")

    def __init__(self, data: Slice, what: str, order: ByteOrder = "big") -> None:
        self._view = memoryview(data)
        self._copy: bytes | None = None
        self._at = 0
        self.what = what
        self.order: ByteOrder = order

    @property
    def remaining(self) -> int:
        """How many bytes have not been read."""
        return len(self._view) - self._at

    def fail(self, why: str) -> NoReturn:
        """Raises Malformed: ``why`` completes the sentence that begins with the message's name."""
        raise Malformed(f"{self.what}: {why}")

    def take(self, count: int) -> memoryview:
        """The next ``count`` bytes as a view.  Raises Malformed if there are fewer."""
        if not 0 <= count <= self.remaining:
            self.fail(f"{count} bytes wanted at offset {self._at}, {self.remaining} left")
        self._at += count
        return self._view[self._at - count : self._at]

    def rest(self) -> memoryview:
        """Everything that has not been read."""
        return self.take(self.remaining)

    def unsigned(self, width_bytes: int) -> int:
        """An unsigned integer of ``width_bytes`` bytes; 0 if that is 0, for fields that one version lacks."""
        return int.from_bytes(self.take(width_bytes), self.order)

    def _signed(self, width_bytes: int) -> int:
        return int.from_bytes(self.take(width_bytes), self.order, signed=True)

    def u8(self) -> int:
        return self.unsigned(1)

    def u16(self) -> int:
        return self.unsigned(2)

    def u32(self) -> int:
        return self.unsigned(4)

    def u64(self) -> int:
        return self.unsigned(8)

    def i16(self) -> int:
        return self._signed(2)

    def i32(self) -> int:
        return self._signed(4)

    def i64(self) -> int:
        return self._signed(8)

    def flag(self, width_bytes: int = 1) -> bool:
        """A truth value.  Raises Malformed for anything but 0 and 1."""
        value = self.unsigned(width_bytes)
        if value > 1:
            self.fail(f"a truth value must be 0 or 1, got {value}")
        return value == 1

    def cstring(self, *, errors: Literal["strict", "replace"] = "strict") -> str:
        """UTF-8 text up to a NUL, which is consumed.  Raises Malformed without one, and for invalid UTF-8.

        ``errors="replace"`` is for texts that are only shown to people.
        """
        if self._copy is None:  # a view cannot be searched; one copy serves all strings of the message
            self._copy = bytes(self._view)
        end = self._copy.find(0, self._at)
        if end < 0:
            self.fail(f"no end of the string that begins at offset {self._at}")
        raw, self._at = self._copy[self._at : end], end + 1
        try:
            return raw.decode("utf-8", errors)
        except UnicodeDecodeError as error:
            raise Malformed(f"{self.what}: not UTF-8: {raw!r}") from error

    def finish(self) -> None:
        """Raises Malformed if anything is left."""
        if self.remaining:
            self.fail(f"{self.remaining} bytes too many")


class Writer:
    """Collects the fields of one message; each method returns the writer, so that they chain."""

    __slots__ = ("_data", "_order")

    def __init__(self, order: ByteOrder = "big") -> None:
        self._data = bytearray()
        self._order: ByteOrder = order

    def __bytes__(self) -> bytes:
        return bytes(self._data)

    def raw(self, data: Slice) -> Self:
        self._data += data
        return self

    def unsigned(self, value: int, width_bytes: int) -> Self:
        return self.raw(value.to_bytes(width_bytes, self._order))

    def _signed(self, value: int, width_bytes: int) -> Self:
        return self.raw(value.to_bytes(width_bytes, self._order, signed=True))

    def u8(self, value: int) -> Self:
        return self.unsigned(value, 1)

    def u16(self, value: int) -> Self:
        return self.unsigned(value, 2)

    def u32(self, value: int) -> Self:
        return self.unsigned(value, 4)

    def u64(self, value: int) -> Self:
        return self.unsigned(value, 8)

    def i16(self, value: int) -> Self:
        return self._signed(value, 2)

    def i32(self, value: int) -> Self:
        return self._signed(value, 4)

    def i64(self, value: int) -> Self:
        return self._signed(value, 8)

    def cstring(self, text: str) -> Self:
        assert "\0" not in text, "a C string cannot hold NUL"
        return self.raw(text.encode() + b"\0")
