"""The page about the metrics, the catalogue and a scrape say the same."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from prometheus_client.core import Metric

from metrics_page import LEFT_OUT, page
from shown_metrics import everything_shown, everything_shown_of_a_sidecar
from walkeeper.control.catalogue import ALL, OF_KEEPERS, OF_SIDECARS, TIMELINE, Declared

ROOT = Path(__file__).resolve().parents[3]
DOCS, SOURCE = ROOT / "docs", ROOT / "src"

LIBRARYS_LABELS = {"le"}


def name_of(metric: Metric) -> str:
    return f"{metric.name}_total" if metric.type == "counter" else str(metric.name)


def test_the_page_is_made_of_the_catalogue() -> None:
    assert (DOCS / "metrics.md").read_text() == page()


Shows = Callable[[], list[Metric]]

SHOWN = pytest.mark.parametrize(
    ("shows", "declared"),
    [(everything_shown, OF_KEEPERS), (everything_shown_of_a_sidecar, OF_SIDECARS)],
    ids=["keeper", "sidecar"],
)


@SHOWN
async def test_a_scrape_shows_what_is_declared_and_nothing_else(
    shows: Shows, declared: Sequence[Declared]
) -> None:
    shown = {name_of(metric): metric for metric in shows()}
    assert {name: metric.type for name, metric in shown.items()} == {each.name: each.kind for each in declared}
    labels = {
        name: {label for sample in metric.samples for label in sample.labels} - LIBRARYS_LABELS
        for name, metric in shown.items()
    }
    assert labels == {each.name: set(each.labels) for each in declared}


@SHOWN
async def test_every_metric_has_one_family(shows: Shows, declared: Sequence[Declared]) -> None:
    names = [name_of(metric) for metric in shows()]
    assert len(names) == len(declared)
    assert sorted(names) == sorted(set(names))


def test_whatever_is_about_a_timeline_has_its_labels_and_nothing_else_has() -> None:
    assert {declared.labels[:2] == TIMELINE for declared in ALL.values() if "tenant_id" in declared.labels} == {
        True
    }


def test_nothing_that_is_left_out_is_there() -> None:
    assert not {name for name, _ in LEFT_OUT} & set(ALL)


def alert_section() -> str:
    text = (DOCS / "operations.md").read_text()
    return text.partition("## What to alert on")[2].partition("\n## ")[0]


def test_operations_says_what_to_alert_on() -> None:
    named = set(re.findall(r"`([a-z_]+)`", alert_section())) & set(ALL)
    assert named == {name for name, declared in ALL.items() if declared.is_alert}


SIDECARS_ROOMS = {"sidecar", "proposer", "links"}
KEEPERS_ROOMS = {"daemon", "services", "control", "timeline", "links", "auth", "storage", "acceptor"}


def source_of(rooms: set[str]) -> str:
    paths = [path for room in rooms for path in (SOURCE / "walkeeper" / room).rglob("*.py")]
    return "".join(path.read_text() for path in paths)


def test_what_the_log_says_of_it_is_what_it_says() -> None:
    sidecar, keeper = source_of(SIDECARS_ROOMS), source_of(KEEPERS_ROOMS)
    rows = [row.split(" | ") for row in alert_section().splitlines() if row.startswith("| `")]
    assert rows
    for name, _, said, _ in rows:
        source = sidecar if said.startswith("sidecar: ") else keeper
        phrases = re.findall(r"`([^`]+)`", said)
        assert phrases or "level error" in said, name
        assert [phrase for phrase in phrases if f'"{phrase}"' not in source] == [], name
