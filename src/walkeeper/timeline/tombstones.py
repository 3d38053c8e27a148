"""What was deleted, remembered for a while: whoever comes late must not make it again.

A timeline is buried by itself, or with its tenant.  If it was a configuration that excluded this keeper, a newer one may
bring it back; nothing else can.  Memory only, as in Neon: after a start nothing is remembered, and a timeline that is
then made again is not whole (invariants 47 to 49), so nobody takes it for the one that was deleted.

Does not delete and does not know what exists.  Source: Neon's ``timelines_global_map.rs``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import trio

from walkeeper.ids import TenantId, TenantTimelineId
from walkeeper.membership import Generation

Buried = TypeVar("Buried")

REMEMBERED_SECONDS: Final = 24 * 3600.0
"""Longer than anybody tries again, or a writer lives that nobody has told."""

TOMBSTONES_MAX: Final = 100_000
"""Of timelines, and of tenants: some ten megabytes.  Beyond, the oldest are forgotten."""


@dataclass(frozen=True, slots=True)
class Tombstone:
    """``generation``: of the configuration that excluded this keeper, None if that is not why."""

    since: float
    generation: Generation | None = None

    def withstands(self, generation: Generation | None) -> bool:
        """Whether a configuration of that generation, None for anybody else, leaves what was deleted in peace."""
        return generation is None or self.generation is None or generation <= self.generation


class Tombstones:
    """Of one keeper.  ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float] = trio.current_time) -> None:
        self._clock = clock
        self._timelines: dict[TenantTimelineId, Tombstone] = {}  # both in the order of their age
        self._tenants: dict[TenantId, Tombstone] = {}

    def bury(self, ttid: TenantTimelineId, generation: Generation | None = None) -> None:
        """Remember that the timeline was deleted, by a configuration of ``generation`` if that was it."""
        self._timelines.pop(ttid, None)
        self._timelines[ttid] = Tombstone(self._clock(), generation)
        self._forget_the_oldest()

    def bury_tenant(self, tenant_id: TenantId) -> None:
        """Remember that all timelines of the tenant were deleted, those that never existed too."""
        self._tenants.pop(tenant_id, None)
        self._tenants[tenant_id] = Tombstone(self._clock())
        self._forget_the_oldest()

    def unbury(self, ttid: TenantTimelineId) -> None:
        """The timeline exists again."""
        self._timelines.pop(ttid, None)

    def is_deleted(self, ttid: TenantTimelineId, generation: Generation | None = None) -> bool:
        """Whether the timeline itself was deleted, and ``generation`` does not bring it back."""
        self._forget_the_oldest()
        found = self._timelines.get(ttid)
        return found is not None and found.withstands(generation)

    def covers(self, ttid: TenantTimelineId, generation: Generation | None = None) -> bool:
        """The same, or its whole tenant was."""
        return self.is_deleted(ttid, generation) or ttid.tenant_id in self._tenants

    def _forget_the_oldest(self) -> None:
        _forget(self._timelines, self._clock() - REMEMBERED_SECONDS)
        _forget(self._tenants, self._clock() - REMEMBERED_SECONDS)


def _forget(graves: dict[Buried, Tombstone], before: float) -> None:
    while graves:
        oldest = next(iter(graves))
        if len(graves) <= TOMBSTONES_MAX and graves[oldest].since > before:
            return
        del graves[oldest]
