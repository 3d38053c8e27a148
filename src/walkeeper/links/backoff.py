"""How long to wait before the next attempt: longer each time, and never the same for two who failed together."""

from dataclasses import dataclass
from random import uniform

JITTER = 0.5
"""By which part a pause may be shorter than its limit."""


@dataclass(slots=True)
class Backoff:
    """Doubles from ``first_seconds`` to ``most_seconds``."""

    first_seconds: float = 0.1
    most_seconds: float = 2.0
    failures: int = 0

    def next_pause_seconds(self) -> float:
        limit = min(self.first_seconds * 2.0**self.failures, self.most_seconds)
        self.failures = min(self.failures + 1, 30)
        return uniform(limit * (1 - JITTER), limit)

    def succeeded(self) -> None:
        self.failures = 0
