"""Keepers that know each other: ready is who has caught up, and of several that leave a majority stays."""

import signal
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import postgres
from certified import IP, Pki
from fix_postgres import NewCluster
from programs import ANSWER_SECONDS, Keeper, ProgramFailed, run_tool
from replicated import KEEPERS, Replicated

TOOL_SECONDS = 60.0
LEAVE_SECONDS = 60.0
LEAVES_SECONDS = 20.0  # two of settling, and what the machine needs
SETTLES_SECONDS = 5.0  # whoever may go has gone by then
CAUGHT_UP = "caught up with the other keepers"


@pytest.fixture
def scene(work_directory: Path, new_cluster: NewCluster) -> Iterator[Replicated]:
    """A primary whose commits wait for two of three keepers, all of which have one list of all three.

    They ask the first two over HTTPS, and the third over plain HTTP.
    """
    pki = Pki.begin(work_directory)
    primary = new_cluster("primary")
    primary.initdb(segment_mib=1)
    primary.configure(max_slot_wal_keep_size="1GB", wal_keep_size="1GB", autovacuum="off")
    primary.start()
    ports = iter(postgres.free_ports(3 * KEEPERS))
    pg_ports, http_ports, https_ports = ([next(ports) for _ in range(KEEPERS)] for _ in range(3))
    peers = [*(f"https://{IP}:{port}" for port in https_ports[:-1]), f"{IP}:{http_ports[-1]}"]
    flags = ["--peer-http", ",".join(peers), "--ssl-ca-file", str(pki.root)]
    flags += ["--ssl-cert-file", str(pki.files.certificate), "--ssl-key-file", str(pki.files.key)]
    flags += ["--leave-timeout", f"{LEAVE_SECONDS:.0f}s"]
    with ExitStack() as stack:
        keepers = [
            stack.enter_context(
                Keeper.prepare(
                    work_directory, number, pg_port, http_port, "--listen-https", f"{IP}:{https_port}", *flags
                )
            )
            for number, (pg_port, http_port, https_port) in enumerate(
                zip(pg_ports, http_ports, https_ports, strict=True), 1
            )
        ]
        yield Replicated.begin_with(work_directory, primary, keepers, stack)


def why_not(keeper: Keeper, probe: str = "/readyz") -> str:
    """The text of a probe; empty when it is fine, and of a keeper that does not answer."""
    try:
        with urllib.request.urlopen(
            f"http://{keeper.host}:{keeper.http_port}{probe}", timeout=ANSWER_SECONDS
        ) as answer:
            assert answer.status == 200
            return ""
    except urllib.error.HTTPError as error:
        with error:
            return error.read().decode()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return ""


def wait_until(keeper: Keeper, holds: Callable[[], bool]) -> None:
    for _ in range(600):
        if holds():
            return
        keeper.pause()
    raise AssertionError(f"it never was so\n{keeper.log[-2000:]}")


def is_ready(keeper: Keeper) -> bool:
    return keeper.status("/readyz") == 200


def test_a_wiped_keeper_is_alive_and_not_ready_until_a_sync_has_filled_it(scene: Replicated) -> None:
    wiped, *others = scene.keepers
    arguments = scene.sync_arguments()
    wait_until(wiped, lambda: all(map(is_ready, scene.keepers)))
    scene.pgbench("-i", "-q")
    scene.wait_everywhere()
    scene.sidecar.kill()
    scene.primary.kill()
    wiped.wipe()
    wiped.start()
    wait_until(wiped, lambda: "cannot be used here" in why_not(wiped))
    assert f"[-] {CAUGHT_UP}: keeper " in why_not(wiped)
    assert str(scene.ttid) in why_not(wiped)
    assert wiped.status("/livez") == 200
    assert all(is_ready(keeper) for keeper in others)
    run_tool(*arguments, seconds=TOOL_SECONDS)
    wait_until(wiped, lambda: is_ready(wiped))
    assert "behind the other keepers: not ready" in wiped.log
    assert CAUGHT_UP in wiped.log.partition("behind the other keepers")[2]


def test_a_keeper_that_was_away_is_ready_when_the_sidecar_has_filled_it(scene: Replicated) -> None:
    away = scene.keepers[2]
    away.kill()
    scene.pgbench("-i", "-q")
    scene.sidecar.signal(signal.SIGSTOP)
    away.start()
    wait_until(away, lambda: CAUGHT_UP in why_not(away))
    scene.sidecar.signal(signal.SIGCONT)
    wait_until(away, lambda: is_ready(away))
    scene.wait_everywhere()


def test_of_two_that_are_stopped_at_once_the_highest_leaves_first_and_the_other_when_it_is_back(
    scene: Replicated,
) -> None:
    first, second, third = scene.keepers
    scene.primary.sql("CREATE TABLE t (n int)")
    wait_until(first, lambda: all(map(is_ready, scene.keepers)))
    for keeper in (second, third):
        keeper.signal(signal.SIGTERM)
    wait_until(second, lambda: "leaving" in why_not(second))
    assert third.wait(LEAVES_SECONDS) == 0
    assert second.is_running
    assert "leaving" in why_not(second)
    assert second.status("/livez") == 200
    assert is_ready(first)
    scene.primary.sql("INSERT INTO t VALUES (1)")
    third.start()
    assert second.wait(LEAVES_SECONDS) == 0
    assert is_ready(third)
    scene.primary.sql("INSERT INTO t VALUES (2)")
    assert "may be no quorum" not in second.log + third.log


def test_a_second_signal_ends_one_that_waits_at_once(scene: Replicated) -> None:
    first, _, third = scene.keepers
    first.kill()
    third.signal(signal.SIGTERM)
    wait_until(third, lambda: "leaving" in why_not(third))
    third.signal(signal.SIGTERM)
    assert third.wait(ANSWER_SECONDS) == -signal.SIGTERM


def test_nobody_leaves_on_the_word_of_one_that_is_ready_and_whose_disk_is_full(scene: Replicated) -> None:
    first, second, _ = scene.keepers
    wait_until(first, lambda: all(map(is_ready, scene.keepers)))
    scene.primary.sql("CREATE TABLE t (n int)")
    scene.wait_everywhere()
    second.kill()
    full = ["--max-global-disk-usage-ratio", "0.001", "--global-disk-check-interval", "1s"]
    second.command = [*second.command, *full]
    second.start()
    wait_until(second, lambda: "WAL is refused" in second.log and is_ready(second))
    first.signal(signal.SIGTERM)
    with pytest.raises(ProgramFailed, match="did not end"):
        first.wait(SETTLES_SECONDS)
    assert is_ready(second)
    scene.primary.sql("INSERT INTO t VALUES (1)")
    first.kill()
