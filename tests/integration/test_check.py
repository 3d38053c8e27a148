"""`walkeeper check` before a quorum is started, and beside one that runs."""

import json
from typing import Any

from programs import run_command
from replicated import Replicated, keepers_flag

COMMAND_SECONDS = 60.0


def check(scene: Replicated, *more: str) -> tuple[int, Any]:
    """Its exit code, and what is not ok."""
    directory = str(scene.keepers[0].data)
    asked = [
        "check",
        "-D",
        directory,
        "--primary",
        scene.primary.conninfo(),
        *keepers_flag(scene.keepers),
        "--json",
        *more,
    ]
    said = run_command(*asked, seconds=COMMAND_SECONDS)
    return said.returncode, json.loads(said.stdout)["verdicts"]


def test_a_quorum_that_runs_passes_and_what_is_broken_then_fails(scene: Replicated) -> None:
    scene.wait_everywhere()
    code, verdicts = check(scene)
    said = [f"{each['subject']}: {each['what']}" for each in verdicts]
    assert code == 0, said
    for words in (
        "that of keeper 1",
        "a keeper uses it now",
        "p99",
        "may replicate",
        "id 3, version",
        "3 of 3 keepers",
    ):
        assert any(words in line for line in said), words
    assert not [each for each in verdicts if each["grade"] == "warn" and each["subject"].startswith("keeper")]
    scene.primary.configure(synchronous_commit="local")
    scene.primary.reload()
    assert any("synchronous_commit" in each["what"] for each in check(scene)[1] if each["grade"] == "warn")
    assert check(scene, "--strict")[0] == 1
    scene.keepers[2].kill()
    code, verdicts = check(scene)
    assert code == 1
    assert [each["subject"] for each in verdicts if each["grade"] == "fail"] == [
        f"keeper {scene.keepers[2].address}"
    ]


def test_a_role_that_may_not_replicate_fails_with_what_to_do(scene: Replicated) -> None:
    scene.primary.sql("CREATE ROLE nobody LOGIN")
    conninfo = scene.primary.conninfo(user="nobody")
    said = run_command("check", "--primary", conninfo, seconds=COMMAND_SECONDS)
    assert said.returncode == 1
    assert "ALTER ROLE ... REPLICATION" in said.stdout
