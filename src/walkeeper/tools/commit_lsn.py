"""``walkeeper commit-lsn``: up to where WAL is committed for certain, for scripts that fail over.

The highest commit LSN that a majority of the keepers reports.  It is a lower bound: a writer acknowledges when a quorum
has fsynced, and tells the keepers of that commit a moment later.  ``walkeeper sync`` makes it exact.

Changes nothing on any keeper.
"""

from collections.abc import Sequence
from typing import Final

from walkeeper.ids import TenantTimelineId
from walkeeper.links.address import Address
from walkeeper.links.poll import ask_nothing_more, poll, unknown_timeline
from walkeeper.lsn import Lsn

APPLICATION_NAME: Final = "walkeeper_commit_lsn"


async def read_commit_lsn(keepers: Sequence[Address], ttid: TenantTimelineId) -> Lsn:
    """The highest LSN that a majority reports as committed; 0 while nothing is.

    Raises Unreachable, which names each keeper's trouble, without a majority that has the timeline, and ConfigError if
    keepers that are there have never heard of it.
    """
    result = await poll(keepers, ttid, ask_nothing_more, application_name=APPLICATION_NAME)
    if result.is_unknown:
        raise unknown_timeline(ttid)
    if (lsn := result.commit_lsn) is None:
        raise result.missing()
    return lsn
