"""The rules are ones that Prometheus takes, each fires when it should and not when it must not, and each has a runbook."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.monitoring import (
    CASES,
    MANUAL,
    PLAIN,
    ROOT,
    RULES,
    alerts,
    load,
    plain_rules,
    promtool,
    rules,
)
from deploy.promql import parse
from walkeeper.control.catalogue import ALL

RUNBOOKS = "docs/operations.md#"
PARTS = ("Meaning", "Impact", "Diagnosis", "Mitigation")
SEVERITIES = {"critical", "warning"}

NOT_ALONE = {
    "safekeeper_wal_storage_limit_errors": "walkeeper_timeline_over_limit is 1 then, and says of which timeline",
    "walkeeper_slow_steps_total": "counted only after the event loop was late, which WalkeeperLoopLags tells",
}
"""Worth an alert, and told by that of another metric."""


# -- promtool ------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A directory with the rules as promtool reads them, and their cases."""
    (tmp_path / "rules.yaml").write_text(plain_rules())
    shutil.copy(CASES, tmp_path)
    return tmp_path


def test_prometheus_takes_the_rules(written: Path) -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", "rules.yaml", directory=written)


def test_every_case_comes_out_as_it_should(written: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", CASES.name, directory=written)


def test_a_rule_that_does_not_work_is_caught(written: Path) -> None:
    rules_path, cases_path = written / "rules.yaml", written / CASES.name
    broken = rules_path.read_text().replace("walkeeper_disk_refuses_wal{", "walkeeper_disk_refuse_wal{")
    assert broken != rules_path.read_text()
    rules_path.write_text(broken)
    of_it = [
        group
        for group in load(CASES)["tests"]
        if any(case["alertname"] == "WalkeeperDiskRefusesWal" for case in group["alert_rule_test"])
    ]
    cases_path.write_text(json.dumps({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": of_it}))
    with pytest.raises(AssertionError, match="WalkeeperDiskRefusesWal"):
        promtool("test", "rules", CASES.name, directory=written)


def test_the_rules_are_taken_from_the_operators_form_as_is_told() -> None:
    told = PLAIN.replace("rules.yaml", "deploy/monitoring/rules.yaml")
    assert PLAIN in RULES.read_text()
    assert told in (ROOT / "deploy" / "README.md").read_text()
    (taken,) = yaml.safe_load_all(plain_rules())
    assert taken == load(RULES)["spec"]


# -- cases ---------------------------------------------------------------------------------------------------


def cases() -> list[dict[str, Any]]:
    return [case for group in load(CASES)["tests"] for case in group.get("alert_rule_test", ())]


def test_every_rule_fires_in_a_case() -> None:
    fired = [(case["alertname"], alert["exp_labels"]) for case in cases() for alert in case["exp_alerts"]]
    silent = [
        (rule["alert"], rule["labels"])
        for rule in alerts()
        if not any(name == rule["alert"] and rule["labels"].items() <= labels.items() for name, labels in fired)
    ]
    assert silent == []


def test_every_alert_has_a_case_in_which_it_must_not_fire() -> None:
    assert {rule["alert"] for rule in alerts()} == {
        case["alertname"] for case in cases() if case["exp_alerts"] == []
    }


# -- what each rule says -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: "-".join([rule["alert"], *rule["labels"].values()]))
def test_an_alert_says_how_bad_it_is_what_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in SEVERITIES
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert "{{ $value" in rule["annotations"]["description"] or "{{ $labels" in rule["annotations"]["description"]
    assert rule["annotations"]["runbook_url"] == RUNBOOKS + slug(rule["alert"])


def test_rules_of_one_alert_can_be_told_apart() -> None:
    told = [(rule["alert"], tuple(sorted(rule["labels"].items()))) for rule in alerts()]
    assert len(told) == len(set(told))


def test_every_selector_says_whose_series_it_wants() -> None:
    names = {rule["record"] for rule in rules() if "record" in rule}
    loose = [
        (selector.name, rule["expr"])
        for rule in rules()
        for selector in parse(rule["expr"]).selectors
        if selector.job is None and selector.name not in names
    ]
    assert loose == []


def test_everything_that_is_worth_an_alert_has_one() -> None:
    selected = {selector.name for rule in rules() for selector in parse(rule["expr"]).selectors}
    named = selected | {re.sub("_(bucket|count|sum)$", "", name) for name in selected}
    worth = {name for name, declared in ALL.items() if declared.is_alert}
    assert worth - named == set(NOT_ALONE)


# -- runbooks ------------------------------------------------------------------------------------------------


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading: no signs but - and _, lower case, blanks become -."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def headings() -> list[str]:
    text = re.sub(r"^```.*?^```", "", MANUAL.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^#+ (.+)$", text, re.MULTILINE)


def runbooks() -> dict[str, str]:
    """The text below each heading of the manual's section about alerts."""
    section = MANUAL.read_text().partition("\n## Alerts\n")[2].partition("\n## ")[0]
    name, *rest = re.split(r"^### (.+)\n", section, flags=re.MULTILINE)[1:] or [""]
    return dict(zip([name, *rest[1::2]], rest[::2], strict=True))


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert list(runbooks()) == list(dict.fromkeys(rule["alert"] for rule in alerts()))


def test_a_runbook_is_found_where_its_alert_says() -> None:
    anchors = [slug(heading) for heading in headings()]
    assert [rule["alert"] for rule in alerts() if anchors.count(slug(rule["alert"])) != 1] == []


def test_links_within_the_manual_lead_somewhere() -> None:
    anchors = {slug(heading) for heading in headings()}
    named = set(re.findall(r"\]\(#([^)]+)\)", MANUAL.read_text()))
    assert named - anchors == set()


@pytest.mark.parametrize("name", list(dict.fromkeys(rule["alert"] for rule in alerts())))
def test_a_runbook_says_what_it_means_what_it_costs_how_to_look_and_what_to_do(name: str) -> None:
    text = runbooks()[name]
    assert [part for part in PARTS if f"**{part}.**" not in text] == []
    assert re.findall(r"\*\*(\w+)\.\*\*", text) == list(PARTS)
