"""SIGUSR1, SIGHUP and a service manager, with a keeper that runs."""

import signal
import socket
from pathlib import Path

import pytest

from fix_keepers import NewKeeper
from minted import Mint
from programs import PROGRAM, Keeper, Program, ProgramFailed
from replicated import LOOKS_MAX

SECONDS = 20.0


def wait_log(program: Program, words: str) -> str:
    for _ in range(LOOKS_MAX):
        if words in program.log:
            return program.log
        program.pause()
    raise ProgramFailed(f"{words} was never logged\n{program.log}")


def test_sigusr1_and_the_api_show_what_every_task_waits_for(keeper: Keeper) -> None:
    keeper.signal(signal.SIGUSR1)
    log = wait_log(keeper, "dump tasks")
    for words in ("look at queues", "wait_for_stop", "reload"):
        assert words in log
    found = keeper.ask("/v1/debug/tasks")
    assert {"dump tasks", "reload", "turn peaks"} <= {each["name"] for each in found["tasks"]}
    assert keeper.stop() == 0


def test_a_sidecar_that_looks_for_its_primary_shows_its_tasks_too(work_directory: Path) -> None:
    command = [PROGRAM, "propose", "--primary", "host=127.0.0.1 port=1 user=u", "--keepers", "127.0.0.1:1"]
    with Program("sidecar", command, work_directory / "sidecar.log") as sidecar:
        sidecar.start()
        wait_log(sidecar, "127.0.0.1:1")
        sidecar.signal(signal.SIGUSR1)
        assert "wait_for_stop" in wait_log(sidecar, "dump tasks")
        assert sidecar.stop() == 0


def test_a_service_manager_hears_of_the_start_a_reload_life_and_the_end(
    new_keeper: NewKeeper, work_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = work_directory / "keys"
    keys.mkdir()
    Mint.ed25519().write(keys / "one")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(SECONDS)
        manager.bind(str(work_directory / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(work_directory / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        keeper = new_keeper(1, "--http-auth-public-key-path", str(keys), "--auth-key-reload-period", "0s")

        def hear(words: str) -> str:
            """What it says with these words; other things before that are let go by."""
            while words not in (said := manager.recv(1000).decode()):
                pass
            return said

        keeper.start()
        hear("READY=1")
        assert hear("WATCHDOG=1").splitlines() == ["WATCHDOG=1", "STATUS=serving 0 timelines"]
        Mint.rsa().write(keys / "two")
        keeper.signal(signal.SIGHUP)
        assert hear("RELOADING=1").splitlines()[1].startswith("MONOTONIC_USEC=")
        assert hear("READY=1") == "READY=1"
        log = wait_log(keeper, "needs_restart")
        assert "keys reloaded" in log
        keeper.signal(signal.SIGSTOP)
        manager.settimeout(2.0)
        with pytest.raises(TimeoutError):
            hear("nothing of the kind")
        keeper.signal(signal.SIGCONT)
        manager.settimeout(SECONDS)
        hear("WATCHDOG=1")
        keeper.signal(signal.SIGTERM)
        hear("STOPPING=1")
        assert keeper.wait() == 0
