"""The dashboard is one that Grafana can lay out and people can read, and Prometheus can answer its queries."""

import json
from itertools import combinations
from pathlib import Path

from deploy.monitoring import DASHBOARD, Object, check_queries, dashboard, expressions, panels, variable_queries
from deploy.promql import parse

COLUMNS = 24
WITHOUT_JOB = {"ALERTS"}
VARIABLES = ["datasource", "namespace", "keeper", "timeline", "sidecar"]
ROWS = [
    "The quorum at a glance",
    "Commits",
    "Disks",
    "Readers and writers",
    "Elections",
    "Sidecars and slots",
    "Processes",
]


def test_it_is_written_as_a_program_would_write_it() -> None:
    assert DASHBOARD.read_text() == json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


def test_prometheus_can_read_every_query(tmp_path: Path) -> None:
    shown = dashboard()
    check_queries([*expressions(shown), *(selector for selector, _ in variable_queries(shown))], tmp_path)


def test_every_selector_says_whose_series_it_wants() -> None:
    loose = [
        query
        for query in expressions(dashboard())
        for selector in parse(query).selectors
        if selector.job is None and selector.name not in WITHOUT_JOB
    ]
    assert loose == []


def test_no_two_panels_have_the_same_number() -> None:
    numbers = [panel["id"] for panel in dashboard()["panels"]]
    assert len(numbers) == len(set(numbers))


def overlap(one: Object, other: Object) -> bool:
    return bool(
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )


def test_no_panel_lies_on_another_or_beside_the_page() -> None:
    everything = dashboard()["panels"]
    assert [
        panel["title"] for panel in everything if panel["gridPos"]["x"] + panel["gridPos"]["w"] > COLUMNS
    ] == []
    assert [
        (one["title"], other["title"])
        for one, other in combinations(everything, 2)
        if overlap(one["gridPos"], other["gridPos"])
    ] == []


def test_every_panel_says_what_it_shows_in_which_unit_and_every_query_what_is_whose() -> None:
    for panel in panels(dashboard()):
        assert panel["title"], panel["id"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]), panel["title"]


def test_its_rows_and_variables_are_these() -> None:
    shown = dashboard()
    assert [panel["title"] for panel in shown["panels"] if panel["type"] == "row"] == ROWS
    assert [variable["name"] for variable in shown["templating"]["list"]] == VARIABLES


def test_it_is_bound_to_no_grafana() -> None:
    shown = dashboard()
    assert "uid" not in shown
    assert "id" not in shown
    sources = [each["datasource"] for panel in panels(shown) for each in (panel, *panel["targets"])]
    sources += [each["datasource"] for each in shown["templating"]["list"] if each["type"] == "query"]
    assert {source["uid"] for source in sources} == {"${datasource}"}
