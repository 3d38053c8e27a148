"""What a timeline needs besides its messages: re-opening after a blown fuse, saving, spare segments.

One task per timeline, asleep until something is to be done.  All of it goes through the timeline's own door.

Does not decide what is true; losing this task loses no promise.
"""

from typing import Final

import structlog
import trio

from walkeeper.errors import Closing, DurabilityLost, OutOfFiles, StorageError, TimelineUnavailable
from walkeeper.timeline.timeline import Timeline

REOPEN_SECONDS_MIN: Final = 0.1
REOPEN_SECONDS_MAX: Final = 30.0
"""Between attempts to read a timeline again: quick for a passing fault, calm for a broken disk."""

UPKEEP_PAUSE_SECONDS: Final = 1.0
"""After upkeep has failed: while a disk is full, every commit would have it try again."""

COUNT_SECONDS: Final = 1.0
"""Between two looks at the segments of a timeline that may not take more: an operator makes room."""

log = structlog.stdlib.get_logger()


async def keep_up(timeline: Timeline, save_seconds: float) -> None:
    """Run until cancelled, or until the timeline is deleted.  Raises DurabilityLost when an fsync failed: the process must end.

    ``save_seconds``: how long a control file may lag behind what is in memory.
    """
    while True:
        with trio.move_on_after(min(save_seconds, COUNT_SECONDS) if timeline.is_over_limit else save_seconds):
            await timeline.wait_attention()
        if timeline.is_blown:
            await reopen(timeline)
        if timeline.is_closing:
            return
        try:
            await timeline.save_if_ahead()
            await timeline.prepare_spare()
            if timeline.is_over_limit:
                await timeline.count_segments()
        except DurabilityLost:
            raise
        except (StorageError, TimelineUnavailable) as error:  # a blown fuse wakes this loop again
            log.warning("upkeep failed", ttid=str(timeline.ttid), error=str(error))
            await trio.sleep(UPKEEP_PAUSE_SECONDS)


async def reopen(timeline: Timeline) -> None:
    """Read the timeline from disk until that works, or until it is deleted."""
    pause_seconds = REOPEN_SECONDS_MIN
    while timeline.is_blown:
        if lost := timeline.durability_lost:
            raise lost
        log.error(
            "timeline is read again from disk", ttid=str(timeline.ttid), error=repr(timeline.statistics().blown_by)
        )
        try:
            await timeline.open()
        except DurabilityLost:
            raise
        except Closing:
            return
        except OutOfFiles:
            # Clients have them all, and will not for long: the disk is well.
            await trio.sleep(UPKEEP_PAUSE_SECONDS)
        except StorageError:
            await trio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, REOPEN_SECONDS_MAX)
        else:
            log.info("timeline is open again", ttid=str(timeline.ttid))
