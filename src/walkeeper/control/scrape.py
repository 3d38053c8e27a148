"""What every process of ours shows of itself, and how a scrape of it is answered.

Everything hangs off one ``ProcessMetrics``; there is no global registry.  A scrape runs on the event loop and lets other
tasks run between two metrics.  Does not know what else is measured: ``metrics`` does for keepers, ``sidecar_metrics`` for
sidecars.
"""

import resource
import threading
from collections.abc import Iterator
from typing import Final, TypeVar

import trio
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from walkeeper.control.instruments import Counts, family, one_value

C = TypeVar("C", bound=Collector)

CONTENT_TYPE: Final = "text/plain; version=0.0.4"

DISK_BLOCK_BYTES: Final = 512
"""The unit of ru_inblock and ru_oublock (getrusage(2))."""

SAMPLES_PER_TURN_MAX: Final = 100
"""Rendered before other tasks run again, some tenths of a millisecond's worth: a scrape must not hold up commits."""


class ProcessMetrics:
    """The registry that a scrape reads, with what is shown of any process."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        self._scrapes = self._add(Counts("libmetrics_metric_handler_requests_total"))
        self._log_lines = self._add(Counts("libmetrics_tracing_event_count", "error", "warn", "info", "debug"))
        self._lost_lines = self._add(Counts("walkeeper_log_lines_lost_total"))
        self._add(BuildInfo(version))
        self._add(ProcessUsage())
        ProcessCollector(registry=self.registry)

    def _add(self, collector: C) -> C:
        """Show it from now on."""
        self.registry.register(collector)
        return collector

    def log_event(self, level: str) -> None:
        """On any thread."""
        self._log_lines.count("warn" if level == "warning" else level)

    def log_line_lost(self) -> None:
        """On any thread."""
        self._lost_lines.count()

    def route(self) -> Route:
        async def scrape(_request: Request) -> Response:
            self._scrapes.count()
            return Response(await render(self.registry), media_type=CONTENT_TYPE)

        return Route("/metrics", scrape, methods=["GET"])


async def render(registry: Collector) -> bytes:
    """Prometheus's text format.

    Cancellation: at any time.
    """
    pieces = []
    texts = LabelTexts()
    for metric in registry.collect():
        for piece in render_in_turns(metric, texts):
            pieces.append(piece)
            await trio.lowlevel.checkpoint()
    return "".join(pieces).encode()


def render_in_turns(metric: Metric, texts: "LabelTexts") -> Iterator[str]:
    """One metric, some samples at a time.

    prometheus_client writes what stands before the samples.  These it writes ten times as slowly as need be, which in a
    keeper of a thousand timelines is a quarter of a second.
    """
    samples, metric.samples = metric.samples, []
    yield generate_latest(One(metric)).decode()
    for first in range(0, len(samples), SAMPLES_PER_TURN_MAX):
        some = samples[first : first + SAMPLES_PER_TURN_MAX]
        yield "".join([f"{each.name}{texts.of(each.labels)} {float(each.value)!r}\n" for each in some])


class LabelTexts:
    """Labels as text.  Series that share a dictionary share its text; it is kept, so that no other can be taken for it."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[dict[str, str], str]] = {}

    def of(self, labels: dict[str, str]) -> str:
        if not labels:
            return ""
        known = self._known.get(id(labels))
        if known is None:
            pairs = ",".join(f'{name}="{escape(value)}"' for name, value in sorted(labels.items()))
            known = self._known[id(labels)] = (labels, f"{{{pairs}}}")
        return known[1]


def escape(value: str) -> str:
    """As the text format has it in labels."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


class One(Collector):
    """A collector of one metric."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


class BuildInfo(Collector):
    """A gauge that is always 1 and says in its labels what is running."""

    def __init__(self, version: str) -> None:
        self._version = version

    def collect(self) -> Iterator[Metric]:
        metric = family("libmetrics_build_info")
        labels = {"revision": self._version, "build_tag": f"walkeeper-{self._version}"}
        metric.add_sample(metric.name, labels, 1)
        yield metric


class ProcessUsage(Collector):
    """What getrusage(2) and the interpreter know, beyond prometheus_client's own process metrics."""

    def collect(self) -> Iterator[Metric]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        io = family("libmetrics_disk_io_bytes_total")
        io.add_sample(io.name, {"io_operation": "read"}, usage.ru_inblock * DISK_BLOCK_BYTES)
        io.add_sample(io.name, {"io_operation": "write"}, usage.ru_oublock * DISK_BLOCK_BYTES)
        yield io
        yield one_value("libmetrics_maxrss_kb", usage.ru_maxrss)
        yield one_value("process_threads", threading.active_count())
