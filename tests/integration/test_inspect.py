"""`walkeeper inspect` on what a real keeper stored of a real primary, judged by pg_waldump."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import postgres
from programs import Keeper, format_lsn, run_command
from replicated import Replicated
from walkeeper.formats.segments import PARTIAL_SUFFIX

NewCluster = Callable[[str], postgres.Cluster]

INSPECT_SECONDS = 60.0

RECORD = re.compile(
    r"rmgr: (\S+) +len \(rec/tot\): +\d+/ *(\d+), tx: +(\d+), lsn: ([0-9A-F]+)/([0-9A-F]+), prev ([0-9A-F]+)/([0-9A-F]+)"
)


def inspect(keeper: Keeper, *, code: int) -> dict[str, Any]:
    """What the command says of a keeper with one timeline, and how it ends."""
    said = run_command("inspect", "-D", str(keeper.data), "--json", seconds=INSPECT_SECONDS)
    assert (said.returncode, "Traceback" in said.stderr) == (code, False), said.stderr
    document = json.loads(said.stdout)
    assert isinstance(document, dict)
    return document


def test_what_a_keeper_stored_is_whole_up_to_the_last_record_that_pg_waldump_sees(scene: Replicated) -> None:
    scene.pgbench("-i", "-s", "2", "-q")
    scene.pgbench("-n", "-c", "4", "-T", "3")
    scene.primary.sql("SELECT pg_switch_wal()")
    keeper = scene.keepers[0]
    at_work = inspect(keeper, code=0)
    assert at_work["in_use_by_pid"] == keeper.pid
    scene.pgbench("-n", "-c", "1", "-t", "20")
    scene.wait_everywhere()
    scene.sidecar.stop()
    flush_lsn = scene.flush_lsn(keeper)
    keeper.stop()

    document = inspect(keeper, code=0)
    (timeline,) = document["timelines"]
    (stretch,) = timeline["wal"]
    assert (document["ok"], document["in_use_by_pid"], timeline["remarks"]) == (True, None, [])
    assert stretch["end_lsn"] == format_lsn(flush_lsn)
    assert len(timeline["segments"]) > 10
    records = pg_waldump(scene, [keeper.data / str(scene.ttid) / each["name"] for each in timeline["segments"]])
    assert stretch["records"] == len(records)
    last = stretch["last_record"]
    keys = ("resource_manager", "length", "xid", "lsn", "prev_lsn")
    assert tuple(last[key] for key in keys) == records[-1]

    assert_a_flipped_byte_is_found(keeper, keeper.data / str(scene.ttid) / timeline["segments"][5]["name"])


def pg_waldump(scene: Replicated, segments: list[Path]) -> list[tuple[str, int, int, str, str]]:
    """The records in copies of the segments that have the names PostgreSQL gives them."""
    copies = scene.primary.directory / "copies"
    copies.mkdir()
    for segment in segments:
        (copies / segment.name.removesuffix(PARTIAL_SUFFIX)).write_bytes(segment.read_bytes())
    scene.primary.account.own(copies)
    first = segments[0].name.removesuffix(PARTIAL_SUFFIX)
    number = int(first[8:16], 16) << 32 | int(first[16:24], 16) << 20
    printed = scene.primary.wal_dump("-p", str(copies), "-s", format_lsn(number), check=False).stdout
    return [
        (found[1], int(found[2]), int(found[3]), lsn(found[4], found[5]), lsn(found[6], found[7]))
        for found in RECORD.finditer(printed)
    ]


def lsn(high: str, low: str) -> str:
    """Some versions of pg_waldump print zeroes in front."""
    return format_lsn(int(high, 16) << 32 | int(low, 16))


def assert_a_flipped_byte_is_found(keeper: Keeper, segment: Path) -> None:
    """And nothing else is said to be wrong."""
    content = bytearray(segment.read_bytes())
    content[500_000] ^= 1
    segment.write_bytes(content)
    (timeline,) = inspect(keeper, code=1)["timelines"]
    (problem,) = timeline["problems"]
    assert problem["file"] == segment.name
    assert problem["offset"] <= 500_000
    assert len(timeline["wal"]) == 2
