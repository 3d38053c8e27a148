"""`walkeeper status` and `walkeeper commit-lsn` against real keepers."""

import json
from collections.abc import Callable
from typing import Any

import postgres
from programs import parse_lsn, run_command, run_tool
from replicated import Replicated, keepers_flag

NewCluster = Callable[[str], postgres.Cluster]

COMMAND_SECONDS = 60.0


def arguments(scene: Replicated, command: str, *more: str) -> list[str]:
    return [command, *keepers_flag(scene.keepers), "--system-id", str(scene.primary.system_identifier()), *more]


def status(scene: Replicated) -> Any:
    return json.loads(run_tool(*arguments(scene, "status", "--json"), seconds=COMMAND_SECONDS))


def test_status_shows_the_keepers_who_writes_to_them_and_who_reads(scene: Replicated) -> None:
    scene.pgbench("-i", "-q")
    scene.wait_everywhere()
    target = scene.directory / "received"
    target.mkdir()
    scene.primary.account.own(target)
    conninfo = scene.keepers_conninfo(scene.keepers[1])
    reading = ["-D", str(target), "-d", conninfo, "-w", "--no-loop"]
    with scene.primary.spawn("pg_receivewal", *reading, output=scene.directory / "pg_receivewal.log") as reader:
        scene.wait_until(lambda: bool(status(scene)["keepers"][1]["senders"]), "a reader")
        found = status(scene)
        reader.kill()
    assert [keeper["node_id"] for keeper in found["keepers"]] == [1, 2, 3]
    assert len({keeper["flush_lsn"] for keeper in found["keepers"]}) == 1
    assert {keeper["lag_bytes"] for keeper in found["keepers"]} == {0}
    for keeper in found["keepers"]:
        (receiver,) = keeper["receivers"]
        assert (receiver["application_name"], receiver["status"]) == ("walkeeper", "Streaming")
        assert receiver["peer"].startswith("127.0.0.1:")
    (sender,) = found["keepers"][1]["senders"]
    assert sender["application_name"] == "pg_receivewal"
    assert found["quorum"]["is_reached"]


def test_a_dead_keeper_is_a_row_and_two_are_exit_code_1(scene: Replicated) -> None:
    dead, hung, _ = scene.keepers
    dead.kill()
    found = status(scene)
    assert dead.address in found["keepers"][0]["trouble"]
    assert [keeper["trouble"] for keeper in found["keepers"][1:]] == [None, None]
    table = run_tool(*arguments(scene, "status"), seconds=COMMAND_SECONDS)
    assert all(keeper.address in table for keeper in scene.keepers)
    scene.sidecar.kill()
    hung.kill()
    said = run_command(*arguments(scene, "status"), seconds=COMMAND_SECONDS)
    assert said.returncode == 1
    assert scene.keepers[2].address in said.stdout
    assert dead.address in said.stderr
    assert hung.address in said.stderr


def test_commit_lsn_is_a_lower_bound_and_exact_after_a_sync(scene: Replicated) -> None:
    scene.pgbench("-i", "-q")
    acknowledged_lsn = parse_lsn(scene.primary.flush_lsn())
    bound = parse_lsn(run_tool(*arguments(scene, "commit-lsn"), seconds=COMMAND_SECONDS))
    assert 0 < bound <= parse_lsn(scene.primary.flush_lsn())
    exact = run_tool(*arguments(scene, "commit-lsn", "--sync"), seconds=COMMAND_SECONDS)
    assert parse_lsn(exact) >= max(bound, acknowledged_lsn)
    assert run_tool(*arguments(scene, "commit-lsn"), seconds=COMMAND_SECONDS) == exact
    assert run_tool(*scene.sync_arguments(), seconds=COMMAND_SECONDS) == exact


def test_without_a_quorum_commit_lsn_names_each_trouble(scene: Replicated) -> None:
    for keeper in scene.keepers[:2]:
        keeper.kill()
    said = run_command(*arguments(scene, "commit-lsn"), seconds=COMMAND_SECONDS)
    assert (said.returncode, said.stdout) == (1, "")
    assert all(keeper.address in said.stderr for keeper in scene.keepers[:2])
    assert said.stderr.count("\n") == 1
