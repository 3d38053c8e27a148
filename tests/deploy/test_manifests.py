"""The manifests that kubectl renders agree with Kubernetes, with each other and with the code; wrong ones are caught."""

import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from deploy.findings import CONTAINER_USER, PORT_NAMES, SECRETS, findings
from deploy.manifests import OVERLAYS, ROOT, Manifests, load, program, render
from deploy.mutants import GONE, MUTANTS, Mutant, in_dev, in_production

KUBERNETES = ("1.35", "1.36", "1.37")  # the oldest that is supported, and the two newest
VALIDATION_SECONDS = 60.0
OF_OTHERS = "ServiceMonitor"  # no object of Kubernetes itself


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_fits(overlay: str) -> None:
    assert findings(load(overlay)) == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_what_is_wrong_is_caught(mutant: Mutant) -> None:
    found = findings(mutant.make())
    assert [each for each in found if mutant.said in each], found


def validate(manifests: Manifests, version: str, directory: Path) -> str:
    """What is wrong in the eyes of Kubernetes; nothing if it would take all of it."""
    own = [each for each in manifests.objects if each["kind"] != OF_OTHERS]
    path = directory / "manifests.yaml"
    path.write_text(yaml.safe_dump_all(own))
    command = [program("kubernetes-validate"), "--kubernetes-version", version, "--strict", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=VALIDATION_SECONDS)
    assert "Couldn't find" not in result.stdout + result.stderr
    return "" if result.returncode == 0 else result.stdout + result.stderr


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_takes_them(overlay: str, version: str, tmp_path: Path) -> None:
    assert validate(load(overlay), version, tmp_path) == ""


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [("spec.replicaz", 3, "replicaz"), ("spec.replicas", "three", "three"), ("spec.template", GONE, "template")],
)
def test_kubernetes_does_not_take_others(path: str, value: Any, said: str, tmp_path: Path) -> None:
    assert said in validate(in_dev(path, value, "").make(), KUBERNETES[0], tmp_path)


def is_service_monitor(document: Any) -> bool:
    schema = json.loads((Path(__file__).parent / "servicemonitor.schema.json").read_text())
    return jsonschema_rs.validator_for(schema).is_valid(document)


@pytest.mark.parametrize("overlay", ["dev", "sidecar-example"])
def test_a_plain_cluster_takes_all_of_it(overlay: str) -> None:
    assert f"kind: {OF_OTHERS}" not in render(overlay)
    assert f"kind: {OF_OTHERS}" in render("production")


def test_service_monitors_are_what_the_prometheus_operator_knows() -> None:
    monitors = [each for overlay in OVERLAYS for each in load(overlay).of(OF_OTHERS)]
    assert len(monitors) == 2
    assert all(map(is_service_monitor, monitors))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.endpoint", []),
        ("spec.endpoints.0.targetport", "metrics"),
        ("spec.endpoints.0.interval", "15"),
        ("spec.endpoints.0.relabelings.0.source", ["a"]),
        ("spec.selector", {"app": "walkeeper"}),
        ("apiVersion", "monitoring.coreos.com/v2"),
    ],
)
def test_service_monitors_that_it_does_not_know_are_caught(path: str, value: Any) -> None:
    wrong = in_production(path, value, "", "ServiceMonitor/walkeeper").make()
    assert not is_service_monitor(wrong.one(OF_OTHERS, "walkeeper"))


def test_how_each_secret_is_made_is_told() -> None:
    told = (ROOT / "deploy" / "README.md").read_text()
    missing = [name for name in SECRETS if f"generic {name} " not in told]
    assert missing == []
    assert [key for keys in SECRETS.values() for key in keys if f"{key}=" not in told] == []


def test_rendering_hides_nothing_that_a_container_is_told() -> None:
    generators = ("Generator:", "helmCharts:", "replacements:", "envFrom:", "configMapKeyRef:")
    sources = sorted((ROOT / "deploy" / "kustomize").rglob("*.yaml"))
    assert [str(path) for path in sources for word in generators if word in path.read_text()] == []
    assert all(render(overlay) for overlay in OVERLAYS)


def test_the_image_is_what_manifests_take_it_for() -> None:
    words = [line.split() for line in (ROOT / "deploy" / "Containerfile").read_text().splitlines()]
    said = {word[0]: word[1:] for word in words if word}  # the last of a kind, which is the last stage's
    assert said["USER"] == [f"{CONTAINER_USER}:{CONTAINER_USER}"]
    assert said["ENTRYPOINT"] == ['["walkeeper"]']
    assert said["EXPOSE"] == [str(number) for _, number in PORT_NAMES.values()]


def test_a_secret_among_the_manifests_is_caught() -> None:
    manifests = load("production")
    manifests.objects.append({"kind": "Secret", "metadata": {"name": "walkeeper-tls", "namespace": "walkeeper"}})
    assert "a Secret is among the manifests" in findings(manifests)


def test_a_keeper_without_a_zone_starts() -> None:
    manifests = load("production")
    pod, container = next(manifests.ours())
    nowhere = type(pod)(pod.owner, pod.ordinal, zone="")
    assert nowhere.said(container).options["availability-zone"] is None


def test_a_database_is_restored_where_the_example_keeps_it_and_as_it_runs() -> None:
    example = load("sidecar-example")
    restore, postgres = example.one("Pod", "restore")["spec"], example.one("StatefulSet", "postgres")["spec"]
    (claim,) = [each["metadata"]["name"] for each in example.of("PersistentVolumeClaim")]
    (template,) = postgres["volumeClaimTemplates"]
    assert claim == f"{template['metadata']['name']}-postgres-0"
    assert [each["persistentVolumeClaim"]["claimName"] for each in restore["volumes"]] == [claim]
    (there,), here = restore["containers"], postgres["template"]["spec"]["containers"][0]
    assert there["image"] == here["image"]
    assert there["env"][0] == here["env"][0]
    assert there["volumeMounts"][0] == here["volumeMounts"][0]
    assert restore["securityContext"].items() <= postgres["template"]["spec"]["securityContext"].items()
    assert all(each["metadata"].get("name") != "restore" for each in yaml.safe_load_all(render("sidecar-example")))
