"""Who may be listened to now: one at a time of all who are no proposers.

Understanding a message costs far more than sending one, so whoever sends without end keeps a keeper busy; and the
proposers, for whom commits wait, would get one turn for as many of theirs as there are such clients.
"""

from typing import Final

import trio

MORSEL_BYTES: Final = 1024
"""What is received at once from whoever waits at a turnstile: some dozens of messages, a fraction of a millisecond."""


class Turnstile:
    """Lets one task through in each turn of the scheduler, first come, first served."""

    def __init__(self) -> None:
        self._lock = trio.Lock()

    async def go_through(self) -> None:
        """Wait in line, and for the next turn.

        Cancellation: at any time.
        """
        async with self._lock:
            await trio.lowlevel.checkpoint()
