"""Clocks that a run cannot see, for tests that compare one run with another."""

from math import inf

import pytest

from walkeeper.storage import wal
from walkeeper.timeline import timelines


class StoppedClock:
    """In the place of the module ``time``."""

    def time_ns(self) -> int:
        return 1_700_000_000_000_000_000


@pytest.fixture
def steady_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a timeline was made is always the same, and WAL never comes too fast for a spare that is filled."""
    monkeypatch.setattr(timelines, "time", StoppedClock())
    monkeypatch.setattr(wal, "BULK_BYTES_PER_SECOND", inf)
