"""`walkeeper why-blocked` beside a real primary, a real sidecar and real keepers: it names what has been broken."""

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from programs import run_command
from replicated import LOOKS_MAX, NAME, Replicated, keepers_flag

COMMAND_SECONDS = 60.0

CONNECTIONS_MAX = 200  # more than a primary allows
STARTUP = b"\0\0\0\x17\0\3\0\0user\0postgres\0\0"
assert STARTUP[3] == len(STARTUP)


def ask(scene: Replicated, *more: str) -> Any:
    """What it found; its exit code must say the same."""
    asked = ["why-blocked", *keepers_flag(scene.keepers), "--primary", scene.primary.conninfo(), "--json", *more]
    said = run_command(*asked, seconds=COMMAND_SECONDS)
    found = json.loads(said.stdout)
    assert said.returncode == found["is_blocked"], said.stderr
    return found


def finds(scene: Replicated, who: str, *words: str) -> bool:
    """Whether something of `who` is blocked, in these words."""
    lines = [
        f"{each['who']}: {each['what']}"
        for each in ask(scene)["findings"]
        if each["gravity"] == "blocked" and each["who"] == who
    ]
    return any(all(word in line for word in words) for line in lines)


@contextmanager
def a_commit_that_waits(scene: Replicated) -> Iterator[None]:
    with scene.start_sql("CREATE TABLE waits AS SELECT 1") as client:
        try:
            yield
        finally:
            client.kill()


def waits(scene: Replicated) -> bool:
    return any("SyncRep" in each["what"] and each["since"] for each in ask(scene)["findings"])


def test_nothing_is_blocked_while_all_are_there_and_one_dead_keeper_is_a_risk(scene: Replicated) -> None:
    scene.wait_everywhere()
    scene.wait_until(lambda: ask(scene)["findings"] == [], "nothing to be found")
    scene.keepers[2].kill()
    found = ask(scene)
    assert not found["is_blocked"]
    assert [(each["gravity"], each["who"]) for each in found["findings"]] == [
        ("risk", f"keeper {scene.keepers[2].address}")
    ]


def test_without_a_majority_the_dead_keepers_and_the_commits_that_wait_are_named(scene: Replicated) -> None:
    for keeper in scene.keepers[1:]:
        keeper.kill()
    with a_commit_that_waits(scene):
        scene.wait_until(lambda: waits(scene), "a commit that waits")
        assert finds(scene, "quorum", "of 3 keepers can acknowledge", "2 are needed")
        for keeper in scene.keepers[1:]:
            assert finds(scene, f"keeper {keeper.address}", "Connection refused")
        assert finds(scene, f"sidecar {NAME}", "has acknowledged up to")


def test_a_keeper_that_is_stopped_is_named_without_an_answer(scene: Replicated) -> None:
    dead, hung, _ = scene.keepers
    dead.kill()
    hung.signal(signal.SIGSTOP)
    assert finds(scene, f"keeper {hung.address}", "no answer within")
    hung.signal(signal.SIGCONT)
    scene.wait_until(lambda: not ask(scene)["is_blocked"], "a majority")


def test_a_sidecar_that_hangs_and_one_that_has_gone_are_named(scene: Replicated) -> None:
    scene.sidecar.signal(signal.SIGSTOP)
    with a_commit_that_waits(scene):
        scene.wait_until(
            lambda: finds(scene, f"sidecar {NAME}", "has said nothing to the primary"), "a sidecar that is silent"
        )
        assert waits(scene)
        scene.sidecar.kill()
        assert any(finds(scene, f"sidecar {NAME}", "not connected") for _ in range(LOOKS_MAX))
        for keeper in scene.keepers:
            assert finds(scene, f"keeper {keeper.address}", "no writer streams to it")


def test_a_primary_that_is_down_and_keepers_alone_are_told_apart(scene: Replicated) -> None:
    system_id = str(scene.primary.system_identifier())
    scene.primary.stop("immediate")
    found = ask(scene, "--system-id", system_id)
    assert ("blocked", "primary") in [(each["gravity"], each["who"]) for each in found["findings"]]


def test_without_primary_and_system_id_it_says_which_keepers_answer_and_what_is_missing(scene: Replicated) -> None:
    scene.keepers[2].kill()
    scene.primary.stop("immediate")
    found = ask(scene)
    assert (found["tenant_id"], found["timeline_id"]) == (None, None)
    primary, dead, note = found["findings"]
    assert (primary["gravity"], primary["who"]) == ("blocked", "primary")
    assert (dead["gravity"], dead["who"]) == ("risk", f"keeper {scene.keepers[2].address}")
    assert f"({scene.keepers[0].address}, {scene.keepers[1].address})" in note["what"]
    assert "--system-id" in note["remedy"]


def test_a_primary_that_has_no_connection_left_does_not_hide_the_keepers(scene: Replicated) -> None:
    with ExitStack() as stack:
        for _ in range(CONNECTIONS_MAX):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", scene.primary.port)))
            client.sendall(STARTUP)
            if b"too many clients" in client.recv(1000):
                break
        found = ask(scene)
    primary, note = found["findings"]
    assert "too many clients" in primary["what"]
    assert "3 of 3 keepers answer" in note["what"]


def test_a_stream_of_before_a_promotion_is_not_taken_for_that_of_the_primary(scene: Replicated) -> None:
    scene.wait_everywhere()
    scene.sidecar.kill()
    scene.primary.stop("immediate")
    (scene.primary.data / "standby.signal").touch()
    scene.primary.account.own(scene.primary.data / "standby.signal")
    scene.primary.start()
    scene.primary.sql("SELECT pg_promote()")
    (note,) = [each for each in ask(scene)["findings"] if each["who"] == "quorum"]
    assert note["gravity"] == "note"
    assert "timeline id 1, and the primary is on 2" in note["what"]
    assert "--timeline" in note["remedy"]
