"""What the sidecar is told.  Parsed by whoever starts it; nothing here reads flags, files or the environment."""

from dataclasses import dataclass
from typing import Final

from walkeeper.ids import TenantId, TenantTimelineId, TimelineId
from walkeeper.links.address import Address
from walkeeper.links.conninfo import ConnectionInfo
from walkeeper.proposer.proposer import Pace
from walkeeper.sidecar.name import DEFAULT_NAME

WINDOW_BYTES: Final = 64 * 1024 * 1024
"""The newest WAL, in memory: what keepers may lag before another keeper has to help them, and four usual segments."""

PACE: Final = Pace(heartbeat_seconds=1.0, silence_seconds=10.0, commit_news_seconds=0.02)
"""Under load a commit's news travel with the next WAL; alone they cost each keeper a message, so they wait a moment."""


@dataclass(frozen=True, slots=True)
class ProposeConfig:
    """``tenant_id`` and ``timeline_id`` default to the primary's system identifier (``TenantTimelineId.of_system``).

    ``unsafe_slot`` allows a slot that may fill the primary's disk while the keepers are away.
    """

    primary: ConnectionInfo
    keepers: tuple[Address, ...]
    tenant_id: TenantId | None = None
    timeline_id: TimelineId | None = None
    slot_name: str = DEFAULT_NAME
    unsafe_slot: bool = False
    window_bytes: int = WINDOW_BYTES
    pace: Pace = PACE

    @property
    def application_name(self) -> str:
        """How the sidecar is called in ``pg_stat_replication`` and ``synchronous_standby_names``."""
        return self.primary.application_name or DEFAULT_NAME

    def ttid(self, system_id: int) -> TenantTimelineId:
        derived = TenantTimelineId.of_system(system_id)
        return TenantTimelineId(self.tenant_id or derived.tenant_id, self.timeline_id or derived.timeline_id)
