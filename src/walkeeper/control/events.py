"""What has happened of late: the log lines that an operator would look for, a few of them, for the status page.

Kept are warnings, errors, and those of ``NOTEWORTHY``; of a line only the fields of ``FIELDS``, which hold no secrets: why
somebody was denied access, and tracebacks, stay in the log.

Does not write the log: its structlog configuration passes every line by here.
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, Final

from walkeeper.control.models import Json

EVENTS_MAX: Final = 100
"""Enough for a bad night's last hour, and some 30 KiB."""

CHARACTERS_MAX: Final = 300
"""Of a field: what peers bring about may be long."""

NOTEWORTHY: Final = frozenset(
    {
        "caught up with the other keepers",
        "certificate reloaded",
        "connection lost",
        "data directory claimed",
        "keys reloaded",
        "leader accepted",
        "leaving when the others are enough",
        "listening",
        "peer is back",
        "peer lost",
        "proposer begins",
        "proposer ends",
        "reader sent away",
        "reloaded",
        "stopping",
        "timeline created",
        "timeline deleted",
        "timeline found on disk",
        "timeline is open again",
        "users reloaded",
    }
)
"""Lines of information that are events: changes of who is there, who leads, and what there is."""

FIELDS: Final = (
    "application", "connection", "error", "expires", "free_bytes", "http", "id", "keeper", "kind", "operation", "peer", "pg",
    "port", "protocol", "seconds", "signal", "subject", "task", "term", "unsaid", "version", "what",
)  # fmt: skip


class EventJson(Json, frozen=True):
    """``at``: seconds since 1970; ``number`` counts all of this process's events from 1."""

    number: int
    at: float
    level: str
    text: str
    ttid: str | None
    fields: dict[str, str]


class Events:
    """The last ``EVENTS_MAX`` of them."""

    def __init__(self) -> None:
        self._kept: deque[EventJson] = deque(maxlen=EVENTS_MAX)
        self._numbers = count(1)

    def note(self, line: Mapping[str, Any]) -> None:
        """Keep a log line if it is an event.  On any thread."""
        level, text = str(line.get("level", "info")), str(line.get("event", ""))
        if level in ("warning", "error", "critical") or text in NOTEWORTHY:
            ttid = line.get("ttid")
            fields = {name: _shortened(line[name]) for name in FIELDS if line.get(name) is not None}
            self._kept.append(
                EventJson(
                    next(self._numbers),
                    time.time(),
                    level,
                    _shortened(text),
                    None if ttid is None else _shortened(ttid),
                    fields,
                )
            )

    def latest(self) -> Sequence[EventJson]:
        """The newest first."""
        return list(self._kept)[::-1]


def _shortened(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= CHARACTERS_MAX else f"{text[:CHARACTERS_MAX]} ..."
