"""What a sidecar shows to those who scrape it, and what it answers to probes.

A sidecar is another room, so what it says of itself is described here by its shape; the daemon joins the two.

Does not remember anything but how long acknowledgements took.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from walkeeper.control.health import Check
from walkeeper.control.instruments import Distribution, family, one_value
from walkeeper.control.scrape import ProcessMetrics

ACK_SECONDS: Final = (
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
"""Up to what a new election may take."""


class Sight(Protocol):
    """How a sidecar stands at one moment.  None: not known, or that there is no such thing."""

    @property
    def is_leading(self) -> bool: ...
    @property
    def term(self) -> int: ...
    @property
    def keepers(self) -> Mapping[str, int]:
        """How many are in which state."""

    @property
    def keepers_needed(self) -> int: ...
    @property
    def received_lsn(self) -> int: ...
    @property
    def commit_lsn(self) -> int: ...
    @property
    def waiting_seconds(self) -> float: ...
    @property
    def elections(self) -> int: ...
    @property
    def sessions_ended(self) -> int: ...
    @property
    def commits_wait(self) -> bool | None: ...
    @property
    def slot_retained_bytes(self) -> int | None: ...
    @property
    def slot_limit_bytes(self) -> int | None: ...
    @property
    def slot_look_failures(self) -> int: ...


class SidecarCollector(Collector):
    """Everything about the sidecar, as ``look`` sees it at one moment."""

    def __init__(self, look: Callable[[], Sight]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        sight = self._look()
        yield one_value("walkeeper_sidecar_leading", sight.is_leading)
        yield one_value("walkeeper_sidecar_term", sight.term)
        keepers = family("walkeeper_sidecar_keepers")
        for state, count in sight.keepers.items():
            keepers.add_sample(keepers.name, {"state": state}, count)
        yield keepers
        yield one_value("walkeeper_sidecar_keepers_needed", sight.keepers_needed)
        yield one_value("walkeeper_sidecar_received_lsn", sight.received_lsn)
        yield one_value("walkeeper_sidecar_commit_lsn", sight.commit_lsn)
        yield one_value("walkeeper_sidecar_waiting_seconds", sight.waiting_seconds)
        yield one_value("walkeeper_sidecar_elections_total", sight.elections)
        yield one_value("walkeeper_sidecar_sessions_ended_total", sight.sessions_ended)
        yield one_value("walkeeper_sidecar_slot_look_failures_total", sight.slot_look_failures)
        for name, value in (
            ("walkeeper_sidecar_commits_wait", sight.commits_wait),
            ("walkeeper_sidecar_slot_retained_bytes", sight.slot_retained_bytes),
            ("walkeeper_sidecar_slot_limit_bytes", sight.slot_limit_bytes),
        ):
            if value is not None:
                yield one_value(name, value)


class SidecarMetrics(ProcessMetrics):
    """The instruments of a sidecar."""

    def __init__(self, version: str) -> None:
        super().__init__(version)
        self._ack_seconds = self._add(Distribution("walkeeper_sidecar_ack_seconds", ACK_SECONDS))

    def acknowledged(self, seconds: float) -> None:
        """A majority has WAL that came so long ago."""
        self._ack_seconds.observe(seconds)

    def watch(self, look: Callable[[], Sight]) -> None:
        """Show this sidecar from now on."""
        self._add(SidecarCollector(look))


class SidecarReadiness:
    """``/readyz`` of a sidecar: what it waits for before commits do not wait for it.

    ``awaits`` says what there is to wait for, in order, and why it is not so yet, empty when it is.
    """

    state: Final = "serving"
    """When it is told to stop it ends at once."""

    def __init__(self, awaits: Callable[[], Sequence[tuple[str, str]]]) -> None:
        self._awaits = awaits

    def checks(self) -> Sequence[Check]:
        return [Check(name, problem) for name, problem in self._awaits()]
