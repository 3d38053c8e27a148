"""What is counted while the work is done, and shown when somebody scrapes.

prometheus_client's own instruments cost some microseconds for each observation, several times what these do, and every
commit is observed more than once.

An instrument is called from any thread where its docstring says so, else on the event loop.
"""

import threading
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final, Protocol

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from walkeeper.control.catalogue import ALL

NAMES_MAX: Final = 32
"""Application names and availability zones that get series of their own: clients choose them, and may choose many."""

NAME_CHARACTERS_MAX: Final = 63
"""As PostgreSQL cuts names."""

OTHER: Final = "other"
UNKNOWN: Final = "unknown"


def family(name: str) -> Metric:
    """An empty metric, as it is declared."""
    declared = ALL[name]
    return Metric(
        name.removesuffix("_total") if declared.kind == "counter" else name, declared.meaning, declared.kind
    )


def one_value(name: str, value: float) -> Metric:
    """A metric without labels."""
    metric = family(name)
    metric.add_sample(name, {}, value)
    return metric


class Distribution(Collector):
    """A histogram without labels.  Observed on any thread."""

    def __init__(self, name: str, buckets: Sequence[float]) -> None:
        self._name = name
        self._buckets = buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, value: float) -> None:
        with self._lock:
            self._counts[bisect_left(self._buckets, value)] += 1
            self._sum += value

    def collect(self) -> Iterator[Metric]:
        metric = HistogramMetricFamily(self._name, ALL[self._name].meaning, labels=())
        self.add_to(metric, ())
        yield metric

    def add_to(self, metric: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Show it as the part of ``metric`` with those labels."""
        with self._lock:
            counts, total = self._counts[:], self._sum
        bounds = [*(str(float(bound)) for bound in self._buckets), "+Inf"]
        metric.add_metric(labels, list(zip(bounds, map(float, accumulate(counts)), strict=True)), total)


class Distributions(Collector):
    """A histogram with one label, which has few values.  Observed on any thread."""

    def __init__(self, name: str, buckets: Sequence[float]) -> None:
        self._name = name
        self._buckets = buckets
        self._parts: dict[str, Distribution] = {}
        self._lock = threading.Lock()

    def observe(self, of: str, value: float) -> None:
        with self._lock:
            part = self._parts.setdefault(of, Distribution(self._name, self._buckets))
        part.observe(value)

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            parts = sorted(self._parts.items())
        metric = HistogramMetricFamily(self._name, ALL[self._name].meaning, labels=ALL[self._name].labels)
        for of, part in parts:
            part.add_to(metric, (of,))
        yield metric


class Counts(Collector):
    """A counter with one label, or none.  ``values`` are those of the label that are shown before anything was counted;
    there may be others, but only a few.  Counted on any thread.
    """

    def __init__(self, name: str, *values: str) -> None:
        self._name = name
        self._labels = ALL[name].labels
        self._tally: Tally[str] = Tally(dict.fromkeys(values if self._labels else ("",), 0))
        self._lock = threading.Lock()

    def count(self, of: str = "") -> None:
        with self._lock:
            self._tally[of] += 1

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            tally = sorted(self._tally.items())
        metric = family(self._name)
        for of, count in tally:
            metric.add_sample(self._name, dict.fromkeys(self._labels, of), count)
        yield metric


class Peak(Collector):
    """The largest value of late: since the last turn or in the time before it.  Noted on any thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._latest = self._before = 0.0
        self._lock = threading.Lock()

    def note(self, value: float) -> None:
        if value > self._latest:
            with self._lock:
                self._latest = max(self._latest, value)

    def turn(self) -> None:
        """Forget what was before the last turn."""
        with self._lock:
            self._before, self._latest = self._latest, 0.0

    @property
    def value(self) -> float:
        return max(self._before, self._latest)

    def collect(self) -> Iterator[Metric]:
        yield one_value(self._name, self.value)


class Names:
    """The first ``NAMES_MAX`` names that come, as they are; all others are one."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def bounded(self, name: str | None) -> str:
        if not name:
            return UNKNOWN
        name = name[:NAME_CHARACTERS_MAX]
        if name not in self._known:
            if len(self._known) >= NAMES_MAX:
                return OTHER
            self._known.add(name)
        return name


class Traffic(Protocol):
    """A connection, of which bytes are counted."""

    @property
    def received_bytes(self) -> int: ...

    @property
    def sent_bytes(self) -> int: ...


Peer = tuple[str, str]
"""Availability zone and application name."""


class PgIo(Collector):
    """The bytes of all connections that there are and were, by who is at the other end: known, or gone."""

    def __init__(self, availability_zone: str | None) -> None:
        self._zone = availability_zone or UNKNOWN
        self._names = Names()
        self._zones = Names()
        self._there: dict[Traffic, Peer | None] = {}
        self._gone: Tally[tuple[Peer, str]] = Tally()

    def begin(self, traffic: Traffic) -> None:
        self._there[traffic] = None

    def identify(self, traffic: Traffic, application_name: str | None, availability_zone: str | None) -> None:
        self._there[traffic] = (
            self._zones.bounded(availability_zone),
            self._names.bounded(application_name),
        )

    def end(self, traffic: Traffic) -> None:
        _add(self._gone, traffic, self._there.pop(traffic) or (UNKNOWN, UNKNOWN))

    def collect(self) -> Iterator[Metric]:
        tally = self._gone.copy()
        for traffic, peer in self._there.items():
            if peer is not None:  # else its bytes would move from one series to another, and a counter go back
                _add(tally, traffic, peer)
        metric = family("safekeeper_pg_io_bytes_total")
        for ((zone, name), direction), count in sorted(tally.items()):
            labels = {"client_az": zone, "sk_az": self._zone, "app_name": name, "dir": direction}
            metric.add_sample("safekeeper_pg_io_bytes_total", labels | {"same_az": self._is_same(zone)}, count)
        yield metric

    def _is_same(self, zone: str) -> str:
        if UNKNOWN in (zone, self._zone):
            return UNKNOWN
        return "true" if zone == self._zone else "false"


def _add(tally: Tally[tuple[Peer, str]], traffic: Traffic, peer: Peer) -> None:
    tally[peer, "read"] += traffic.received_bytes
    tally[peer, "write"] += traffic.sent_bytes
