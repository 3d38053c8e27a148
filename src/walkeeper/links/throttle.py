"""Log lines that others can bring about as often as they like: some, and how many there were besides.

Does not log, and counts nothing for good (``/metrics`` does): it says which line may be written.
"""

from dataclasses import dataclass
from typing import Final

import trio

THROTTLE_SECONDS: Final = 10.0
"""How long a kind of line is held back after there was enough of it: whoever watches still sees that it goes on."""


@dataclass(slots=True)
class _Window:
    """From the first line of a kind until ``ends_at``: how many were written, and how many were not."""

    ends_at: float
    said: int = 0
    unsaid: int = 0


class Throttle:
    """Lets through so many lines of each kind in ``THROTTLE_SECONDS``.

    A kind is a word of ours, never a client's: it is remembered for ever.
    """

    def __init__(self) -> None:
        self._windows: dict[str, _Window] = {}

    def admit(self, kind: str, lines_max: int = 1) -> dict[str, int] | None:
        """What a line of this kind has to say of those before it that were held back; None: it is held back, too."""
        now = trio.current_time()
        window = self._windows.get(kind)
        before: dict[str, int] = {}
        if window is None or now >= window.ends_at:
            if window is not None and window.unsaid:
                before = {"unsaid": window.unsaid}
            window = self._windows[kind] = _Window(now + THROTTLE_SECONDS)
        if window.said >= lines_max:
            window.unsaid += 1
            return None
        window.said += 1
        return before
