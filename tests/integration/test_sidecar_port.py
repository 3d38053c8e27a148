"""The sidecar of a real PostgreSQL, looked at over HTTP."""

import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import postgres
import programs
from fix_postgres import NewCluster
from replicated import Replicated, keepers_flag, new_sidecar
from walkeeper.control.catalogue import OF_SIDECARS

MIB = 1 << 20
LOAD_SECONDS = 6
ENDS_SECONDS = 3.0
"""For a sidecar to end: an answer may go on for a second, and the interpreter has to end, too."""


@dataclass
class Port:
    """A sidecar's ``--listen-http``."""

    number: int

    @property
    def flags(self) -> list[str]:
        return ["--listen-http", f"127.0.0.1:{self.number}"]

    def ask(self, path: str) -> tuple[int, str]:
        """Status and text of the answer; 0 when there is none."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.number}{path}", timeout=5) as answer:
                return int(answer.status), answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return 0, ""

    def scrape(self) -> dict[str, float]:
        """Every sample: by its name, and by ``name{value}`` if it has one label."""
        found: dict[str, float] = {}
        for metric in text_string_to_metric_families(self.ask("/metrics")[1]):
            for sample in metric.samples:
                labels = "".join(f"{{{value}}}" for value in sample.labels.values())
                found[f"{sample.name}{labels}"] = sample.value
        return found

    def value(self, name: str) -> float:
        return self.scrape().get(f"walkeeper_sidecar_{name}", -1.0)


@pytest.fixture
def port() -> Port:
    (number,) = postgres.free_ports(1)
    return Port(number)


@pytest.fixture
def scene(work_directory: Path, new_cluster: NewCluster, port: Port) -> Iterator[Replicated]:
    """Everything runs, and commits wait for two of three keepers."""
    primary = new_cluster("primary")
    primary.initdb(segment_mib=1)
    primary.configure(max_slot_wal_keep_size="1GB", max_wal_size="2GB", autovacuum="off")
    primary.start()
    with ExitStack() as stack:
        yield Replicated.begin(work_directory, primary, stack, sidecar_flags=port.flags)


def test_what_a_scrape_shows_under_load_and_when_things_go_wrong(scene: Replicated, port: Port) -> None:
    scene.wait_until(lambda: port.ask("/readyz")[0] == 200, "a sidecar that is ready")
    scene.wait_until(lambda: port.value("keepers{acknowledging}") == 3, "three keepers")
    scene.wait_until(lambda: port.value("commits_wait") == 1, "a look at the settings")
    warnings = scene.sidecar.log.count("commits do not wait for keepers")
    scene.pgbench("-i", "-q")
    seen = scrape_under_load(scene, port)
    assert [each["walkeeper_sidecar_commit_lsn"] for each in seen] == sorted(
        each["walkeeper_sidecar_commit_lsn"] for each in seen
    )
    assert max(each["walkeeper_sidecar_waiting_seconds"] for each in seen) < LOAD_SECONDS
    first, last = seen[0], seen[-1]
    assert last["walkeeper_sidecar_commit_lsn"] > first["walkeeper_sidecar_commit_lsn"]
    assert last["walkeeper_sidecar_ack_seconds_count"] > first["walkeeper_sidecar_ack_seconds_count"] + 50
    assert last["walkeeper_sidecar_ack_seconds_sum"] < LOAD_SECONDS * 1.5
    assert (last["walkeeper_sidecar_leading"], last["walkeeper_sidecar_keepers_needed"]) == (1, 2)
    assert (last["walkeeper_sidecar_elections_total"], last["walkeeper_sidecar_sessions_ended_total"]) == (1, 0)
    assert 0 <= last["walkeeper_sidecar_slot_retained_bytes"] < last["walkeeper_sidecar_slot_limit_bytes"]
    assert last["walkeeper_sidecar_slot_limit_bytes"] == 1 << 30
    assert {name.partition("{")[0] for name in last} >= {
        each.name for each in OF_SIDECARS if each.kind != "histogram"
    }

    scene.primary.configure(synchronous_standby_names="")
    scene.primary.reload()
    for keeper in scene.keepers[:2]:
        keeper.kill()
    scene.primary.sql("CREATE TABLE much AS SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
    scene.wait_until(lambda: port.value("commits_wait") == 0, "a look at the settings")
    scene.wait_until(lambda: port.value("slot_retained_bytes") > 15 * MIB, "a look at the slot")
    kept = "SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), restart_lsn) FROM pg_replication_slots"
    assert port.value("slot_retained_bytes") == pytest.approx(float(scene.primary.sql(kept)), abs=MIB)
    assert scene.sidecar.log.count("commits do not wait for keepers") == warnings + 1
    status, told = port.ask("/readyz")
    assert status == 503
    assert [keeper.address in told for keeper in scene.keepers] == [True, True, False]
    assert port.ask("/livez")[0] == 200
    assert port.value("waiting_seconds") > 1
    assert port.value("keepers{lost}") == 2

    for keeper in scene.keepers[:2]:
        keeper.start()
    scene.wait_until(lambda: port.ask("/readyz")[0] == 200, "a majority")
    scene.wait_everywhere()
    assert port.value("waiting_seconds") == 0


def scrape_under_load(scene: Replicated, port: Port) -> list[dict[str, float]]:
    """What is seen while four clients commit."""
    words = [*scene.primary.client_arguments(), "-n", "-c", "4", "-T", str(LOAD_SECONDS), "postgres"]
    load = scene.primary.spawn("pgbench", *words, output=scene.directory / "load.log")
    seen = []
    while load.poll() is None:
        seen.append(port.scrape())
        scene.sidecar.pause(0.2)
    assert load.returncode == 0
    assert len(seen) > LOAD_SECONDS
    return seen


def test_a_client_that_does_not_read_does_not_keep_a_sidecar_from_ending(scene: Replicated, port: Port) -> None:
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", port.number))
        deaf.sendall(
            b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 5_000
        )  # some ten times what kernels keep of answers
        assert port.ask("/livez")[0] == 200
        began = time.monotonic()
        assert scene.sidecar.stop() == 0
        assert time.monotonic() - began < ENDS_SECONDS


def test_the_port_is_there_before_the_primary_is_and_says_what_is_missing(
    work_directory: Path, new_cluster: NewCluster, port: Port
) -> None:
    primary = new_cluster("primary")
    primary.initdb()
    (nobody,) = postgres.free_ports(1)
    keeper = programs.Keeper.prepare(work_directory, 1, nobody, nobody)
    with new_sidecar(work_directory / "sidecar.log", primary, [keeper], *port.flags) as sidecar:
        sidecar.start()
        while "session ended" not in sidecar.log:
            sidecar.pause()
        assert keepers_flag([keeper])[1] not in port.ask("/readyz")[1]
        status, told = port.ask("/readyz")
        assert status == 503
        assert told.startswith("[-] primary reached: ")
        assert "not yet" not in told.splitlines()[0]
        assert port.ask("/livez") == (200, "ok\n")
        assert port.value("leading") == 0
        assert sidecar.stop() == 0
