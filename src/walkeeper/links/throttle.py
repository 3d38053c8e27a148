"""Log lines that others can bring about as often as they like: some, and how many there were besides.

Does not log and does not count what is counted anyway (``/metrics``): it says which line may be written.
"""

from collections import Counter
from typing import Final

import trio

THROTTLE_SECONDS: Final = 10.0
"""How long one kind of line is held back after there were enough of it: a person who watches still sees it go on."""


class Throttle:
    """Lets through ``lines`` of each kind, and no more of it for ``THROTTLE_SECONDS``.

    Kinds are ours, not a client's own words: one that was seen is remembered.
    """

    def __init__(self, lines: int = 1) -> None:
        self._lines = lines
        self._began: dict[str, float] = {}
        self._count: Counter[str] = Counter()

    def admit(self, kind: str) -> dict[str, int] | None:
        """None if a line of this kind is not to be written now, else what it has to say of those that were not.

        That is ``unsaid``, how many, if there were any.
        """
        now = trio.current_time()
        unsaid = 0
        if now - self._began.get(kind, now) >= THROTTLE_SECONDS or kind not in self._began:
            self._began[kind] = now
            unsaid = max(self._count[kind] - self._lines, 0)
            self._count[kind] = 0
        self._count[kind] += 1
        if self._count[kind] > self._lines:
            return None
        return {"unsaid": unsaid} if unsaid else {}
