"""What deploy/monitoring/ holds, as data; promtool; and what a scrape shows.

Does not judge.
"""

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from deploy.promql import Query, parse

Object = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
RULES = MONITORING / "rules.yaml"
CASES = MONITORING / "rules_test.yaml"
DASHBOARD = MONITORING / "dashboard.json"
MANUAL = ROOT / "docs" / "operations.md"

PLAIN = "sed -n '/^spec:/,$s/^  //p' rules.yaml"
"""Makes of the rules what a Prometheus without the operator reads, as rules.yaml and deploy/README.md say."""

PROMTOOL_SECONDS = 300.0
ANSWER_SECONDS = 10.0

KEEPERS, SIDECARS = "walkeeper", "walkeeper-sidecar"
OF_TARGETS = {"job", "instance", "namespace", "pod"}
"""Labels that Prometheus adds.  ``namespace`` and ``pod`` only on Kubernetes; without them all keepers are one quorum."""
OF_PROMETHEUS = {"up": OF_TARGETS, "ALERTS": {"alertname", "alertstate", "severity"}}
"""Series of its own."""


def load(path: Path) -> Object:
    """The one document in a file."""
    [document] = yaml.safe_load_all(path.read_text())
    assert isinstance(document, dict)
    return document


def rules() -> list[Object]:
    """All of them, as they stand."""
    return [rule for group in load(RULES)["spec"]["groups"] for rule in group["rules"]]


def alerts() -> list[Object]:
    return [rule for rule in rules() if "alert" in rule]


def recorded() -> set[str]:
    """What rules add to what is scraped."""
    return {rule["record"] for rule in rules() if "record" in rule}


def plain_rules() -> str:
    """As a Prometheus without the operator reads them."""
    return subprocess.run(PLAIN, shell=True, cwd=MONITORING, check=True, capture_output=True, text=True).stdout


# -- promtool ------------------------------------------------------------------------------------------------


def promtool(*arguments: str, directory: Path) -> str:
    """Run it; what it says.  Raises AssertionError when it finds something, or is not there."""
    path = shutil.which("promtool")
    assert path is not None, (
        "there is no promtool on this machine, and without it nobody knows whether the alerts work."
        " On Debian and Ubuntu: apt-get install --no-install-recommends prometheus"
    )
    result = subprocess.run(
        [path, *arguments], cwd=directory, capture_output=True, text=True, timeout=PROMTOOL_SECONDS
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def check_queries(queries: Iterable[str], directory: Path) -> None:
    """Raises AssertionError unless Prometheus could read all of them."""
    made = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    assert made
    (directory / "queries.yaml").write_text(json.dumps({"groups": [{"name": "queries", "rules": made}]}))
    promtool("check", "rules", "queries.yaml", directory=directory)


# -- the dashboard -------------------------------------------------------------------------------------------


def dashboard() -> Object:
    shown = json.loads(DASHBOARD.read_text())
    assert isinstance(shown, dict)
    return shown


def panels(shown: Object) -> Iterator[Object]:
    """Those that show something, not the rows that they stand in."""
    for panel in shown["panels"]:
        if panel["type"] != "row":
            yield panel


def expressions(shown: Object) -> list[str]:
    """Every query of a panel, with its variables filled in."""
    return [filled(target["expr"]) for panel in panels(shown) for target in panel["targets"]]


def filled(query: str) -> str:
    """Grafana's own variables are durations, all others stand in matchers."""
    return re.sub(r"\$\w+", "5m", re.sub(r'"\$\w+"', '".*"', query))


_LABEL_VALUES = re.compile(r"label_values\((?P<selector>.+), *(?P<label>\w+)\)")


def variable_queries(shown: Object) -> Iterator[tuple[str, str]]:
    """Where variables take their values from: a selector and a label."""
    for variable in shown["templating"]["list"]:
        if variable["type"] == "query":
            match = _LABEL_VALUES.fullmatch(variable["query"]["query"])
            assert match, variable["name"]
            yield filled(match["selector"]), match["label"]


# -- what is scraped -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scraped:
    """Of each job, the labels that the series of a name have; and what rules record."""

    jobs: Mapping[str, Mapping[str, set[str]]]
    recorded: set[str]

    def labels(self, name: str, job: str | None) -> set[str]:
        """That every series of this name has in all these jobs.  Raises KeyError if one of them does not show it."""
        if name in OF_PROMETHEUS:
            return OF_PROMETHEUS[name]
        if name in self.recorded:
            return OF_TARGETS | {"tenant_id", "timeline_id"}
        assert job is not None, f"{name} could be anybody's: it needs a job"
        return OF_TARGETS | set.intersection(*(self.jobs[each][name] for each in job.split("|")))

    def missing(self, text: str, *labels: str) -> list[str]:
        """What a query names that is not there, and which of ``labels`` its series cannot have."""
        return list(self._missing(text, parse(text), set(labels)))

    def _missing(self, text: str, query: Query, wanted: set[str]) -> Iterator[str]:
        known: set[str] = set()
        for selector in query.selectors:
            try:
                labels = self.labels(selector.name, selector.job)
            except KeyError as missing:
                yield f"nobody shows {missing} of {selector.job}: {text}"
                continue
            known |= labels
            for label in sorted(selector.matchers.keys() - labels):
                yield f"{selector.name} has no {label}: {text}"
        for label in sorted((query.labels | wanted) - known):
            yield f"nothing has {label}: {text}"


def scrape(host: str, port: int) -> dict[str, set[str]]:
    """The names of all series that ``/metrics`` shows at this moment, each with its labels."""
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=ANSWER_SECONDS) as answer:
        text = answer.read().decode()
    found: dict[str, set[str]] = {}
    for metric in text_string_to_metric_families(text):
        for sample in metric.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found
