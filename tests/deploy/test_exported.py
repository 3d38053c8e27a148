"""Whatever rules and dashboard ask for is shown by keepers and sidecars that run, with the labels that are asked for."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

import postgres
from certified import Pki
from deploy.monitoring import (
    KEEPERS,
    SIDECARS,
    Scraped,
    dashboard,
    filled,
    panels,
    recorded,
    rules,
    scrape,
    variable_queries,
)
from fix_postgres import NewCluster
from keeper_client import Client, Refused
from programs import END_SECONDS
from replicated import Replicated


@contextmanager
def reading(scene: Replicated, target: Path) -> Iterator[None]:
    """A reader of the first keeper's WAL."""
    target.mkdir()
    scene.primary.account.own(target)
    arguments = ["-D", str(target), "-d", scene.keepers_conninfo(scene.keepers[0]), "-w", "--no-loop"]
    process: subprocess.Popen[bytes] = scene.primary.spawn(
        "pg_receivewal", *arguments, output=scene.directory / "pg_receivewal.log"
    )
    try:
        yield
    finally:
        process.kill()
        process.wait(END_SECONDS)


@pytest.fixture
def scraped(new_cluster: NewCluster, work_directory: Path) -> Iterator[Scraped]:
    """A primary with a slot that has a limit; a sidecar and keepers with all that shows something only when it is on; a
    reader; and a client that was refused."""
    primary = new_cluster("primary")
    primary.initdb()
    primary.configure(max_slot_wal_keep_size="1GB")
    primary.start()
    certificates = work_directory / "tls"
    certificates.mkdir()
    pki = Pki.begin(certificates)
    tls = ["--ssl-cert-file", str(pki.files.certificate), "--ssl-key-file", str(pki.files.key)]
    [port, *peers] = postgres.free_ports(3)
    keeper_flags = ["--enable-tls-wal-service-api", "--accept-plaintext", *tls]
    keeper_flags += ["--peer-http", ",".join(f"127.0.0.1:{peer}" for peer in peers)]
    with ExitStack() as stack:
        scene = Replicated.begin(
            work_directory, primary, stack,
            keeper_flags=keeper_flags, sidecar_flags=["--listen-http", f"127.0.0.1:{port}"],
        )  # fmt: skip
        primary.sql("SELECT pg_switch_wal()")  # what segments take is known when a second one begins
        primary.sql("CREATE TABLE written (n int)")
        keeper = scene.keepers[0]
        with Client(keeper.pg_port) as stranger:
            stranger.start_up(scene.ttid)
            with pytest.raises(Refused):
                stranger.query("SHOW nothing")
        stack.enter_context(reading(scene, work_directory / "received"))
        shown: dict[str, dict[str, set[str]]] = {}

        def has(job: str, port: int, *names: str) -> bool:
            shown[job] = scrape("127.0.0.1", port)
            return set(names) <= shown[job].keys()

        scene.wait_until(
            partial(has, KEEPERS, keeper.http_port, "safekeeper_wal_readers", "safekeeper_disk_usage_bytes"),
            "a reader",
        )
        scene.wait_until(
            partial(
                has, SIDECARS, port, "walkeeper_sidecar_slot_retained_bytes", "walkeeper_sidecar_slot_limit_bytes"
            ),
            "a look at the slot",
        )
        yield Scraped(shown, recorded())


def test_all_that_is_asked_for_is_shown(scraped: Scraped) -> None:
    asked: list[tuple[str, list[str]]] = [(rule["expr"], []) for rule in rules()]
    asked += [
        (filled(target["expr"]), re.findall(r"{{(\w+)}}", target["legendFormat"]))
        for panel in panels(dashboard())
        for target in panel["targets"]
    ]
    asked += [(selector, [label]) for selector, label in variable_queries(dashboard())]
    assert [missing for query, labels in asked for missing in scraped.missing(query, *labels)] == []


SHOWN = Scraped({KEEPERS: {"a": {"l"}, "both": {"m"}}, SIDECARS: {"both": {"n"}}}, {"a:b"})


@pytest.mark.parametrize(
    ("query", "missing"),
    [
        ('sum by (l, instance) (a{job="walkeeper"})', []),
        ('both{job=~"walkeeper|walkeeper-sidecar"} + up + on (timeline_id) a:b', []),
        ('aa{job="walkeeper"}', ["nobody shows 'aa'"]),
        ('a{job="walkeeper-sidecar"}', ["nobody shows 'a'"]),
        ('a{job="another"}', ["nobody shows 'another'"]),
        ('a{job="walkeeper", m="1"}', ["a has no m"]),
        ('both{job=~"walkeeper|walkeeper-sidecar", m="1"}', ["both has no m"]),
        ('sum by (m) (a{job="walkeeper"})', ["nothing has m"]),
    ],
)
def test_what_is_misspelt_is_caught(query: str, missing: list[str]) -> None:
    assert [each.partition(": ")[0].partition(" of ")[0] for each in SHOWN.missing(query)] == missing


def test_a_legend_that_can_only_be_empty_is_caught() -> None:
    assert SHOWN.missing('a{job="walkeeper"}', "l") == []
    assert SHOWN.missing('a{job="walkeeper"}', "m") == ["""nothing has m: a{job="walkeeper"}"""]
