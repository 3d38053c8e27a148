"""Who is who: tenants, timelines, keepers.

A tenant id and a timeline id are 16 bytes each, printed as 32 lower-case hexadecimal digits.  Together
they name one WAL stream.  A *timeline* here is Neon's word for such a stream; PostgreSQL's own timeline id
(``tli``, a small number inside WAL pages and segment names) is something else and is always called that.
"""

from dataclasses import dataclass
from typing import Final, NewType, Self

NodeId = NewType("NodeId", int)
"""A keeper's number in its quorum: unsigned 64 bits, 0 is invalid."""

TimelineNumber = NewType("TimelineNumber", int)
"""PostgreSQL's timeline id (``xlp_tli``), 1 until the first promotion; 0 means not known yet."""

NO_TLI: Final = TimelineNumber(0)
"""There is no WAL yet, or no page has said."""

FIRST_TLI: Final = TimelineNumber(1)
"""What it is when no page has said otherwise: a writer that starts in mid-page is Neon's, always 1."""


@dataclass(frozen=True, slots=True, order=True)
class _Id:
    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != 16:
            raise ValueError(f"an id has 16 bytes, got {len(self.raw)}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """32 hexadecimal digits of either case -> id.  Raises ValueError for anything else."""
        if len(text) != 32 or not all(c in "0123456789abcdefABCDEF" for c in text):
            raise ValueError(f"not an id: {text!r} (expected 32 hexadecimal digits)")
        return cls(bytes.fromhex(text))

    def __str__(self) -> str:
        return self.raw.hex()

    def __bool__(self) -> bool:
        return any(self.raw)


class TenantId(_Id):
    """The owner of timelines."""

    __slots__ = ()


class TimelineId(_Id):
    """One WAL stream of a tenant."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, order=True)
class TenantTimelineId:
    """The full name of a WAL stream, printed ``tenant/timeline``."""

    tenant_id: TenantId
    timeline_id: TimelineId

    def __str__(self) -> str:
        return f"{self.tenant_id}/{self.timeline_id}"

    @classmethod
    def of_system(cls, system_id: int) -> "TenantTimelineId":
        """The name that a cluster's WAL gets when nobody chose one: PostgreSQL's system identifier, twice.

        It is written as 32 hexadecimal digits, zeroes first, so that ``printf %032x`` gives the same.
        """
        raw = system_id.to_bytes(16, "big")
        return cls(TenantId(raw), TimelineId(raw))
