"""What ``walkeeper fetch`` is asked for.  Loads little: most calls find their segment in the spool."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from walkeeper.ids import TenantTimelineId
from walkeeper.links.address import Address
from walkeeper.messages import ServerInfo

APPLICATION_NAME: Final = "walkeeper_fetch"


@dataclass(frozen=True, slots=True)
class FetchConfig:
    """The file that is wanted, and from whom.

    ``server`` and ``system_id`` are what the operator knows, None if nothing was said.  ``ahead_bytes``: how much WAL
    to read ahead.  ``may_be_unfinished``: whether the segment in which the WAL ends goes by its plain name too.
    ``timeout_seconds``: for a majority to answer.
    """

    keepers: tuple[Address, ...]
    ttid: TenantTimelineId
    file: str
    path: Path
    server: ServerInfo | None
    system_id: int | None
    ahead_bytes: int
    may_be_unfinished: bool
    timeout_seconds: float
