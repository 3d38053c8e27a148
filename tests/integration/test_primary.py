"""An unmodified PostgreSQL that commits through the sidecar to three keepers."""

import re
import signal
import subprocess

import pytest

import postgres
from compared_wal import compare_wal, count_records
from programs import Keeper, parse_lsn, run_command, run_tool
from replicated import Replicated, new_sidecar
from walkeeper.formats.segments import segment_start

MIB = 1 << 20
FENCED = 3

PAUSE_SECONDS_MAX = 1.5
"""What a commit may take while a keeper hangs: an fsync on a busy machine, and never a heartbeat's deadline of 10 s."""

HANGS_SECONDS = 1.5  # long for a commit; one that is still not done is held up


def test_after_a_load_every_keeper_has_the_primarys_wal_byte_for_byte_and_pg_waldump_reads_it(
    scene: Replicated,
) -> None:
    scene.pgbench("-i", "-s", "2", "-q")
    scene.pgbench("-n", "-c", "4", "-T", "4")
    scene.primary.sql("SELECT pg_switch_wal(); CREATE TABLE behind_the_switch (n int)")
    scene.pgbench("-n", "-c", "1", "-t", "20")
    end_lsn = scene.wait_everywhere()
    for keeper in scene.keepers:
        segments = keeper.segments(str(scene.ttid.tenant_id), str(scene.ttid.timeline_id))
        begin_lsn = segment_start(end_lsn, MIB) - (len(segments) - 1) * MIB
        found = compare_wal(scene.primary, segments, end_lsn, MIB)
        assert (found.whole_segments, found.partial_segments) == (len(segments) - 1, 1)
        assert found.whole_segments >= 10
        assert found.records == count_records(scene.primary, scene.primary.wal, begin_lsn, end_lsn) > 10_000
        assert found.equal_bytes == end_lsn - begin_lsn


# -------------------------------------------------------------------------------------------- keepers that hang


def test_a_keeper_that_hangs_delays_no_commit_and_catches_up(scene: Replicated) -> None:
    scene.pgbench("-i", "-q")
    hung = scene.keepers[0]
    with paused(hung):
        scene.pgbench("-n", "-c", "4", "-T", "4", "--log", "--log-prefix=hung")
    (log,) = scene.primary.directory.glob("hung.*")
    pauses = [seconds_of(line) for line in log.read_text().splitlines()]
    assert len(pauses) > 100
    assert max(pauses) < PAUSE_SECONDS_MAX
    scene.wait_everywhere()


def seconds_of(line: str) -> float:
    """How long a transaction took: the third field of pgbench's log, in microseconds."""
    return int(line.split()[2]) / 1e6


class paused:  # noqa: N801  reads as a word in its `with`
    """A keeper that does nothing for a while, like one on a machine that swaps."""

    def __init__(self, *keepers: Keeper) -> None:
        self._keepers = keepers

    def __enter__(self) -> None:
        for keeper in self._keepers:
            keeper.signal(signal.SIGSTOP)

    def __exit__(self, *_: object) -> None:
        for keeper in self._keepers:
            keeper.signal(signal.SIGCONT)


def test_without_a_majority_no_commit_returns_and_with_one_again_it_does(scene: Replicated) -> None:
    scene.primary.sql("CREATE TABLE t (n int)")
    with paused(*scene.keepers[:2]):
        psql = scene.start_sql("INSERT INTO t VALUES (1)")
        with pytest.raises(subprocess.TimeoutExpired):
            psql.wait(HANGS_SECONDS)
        assert scene.primary.sql("SELECT count(*) FROM t") == "0"
    assert psql.wait(postgres.COMMAND_SECONDS) == 0
    assert scene.primary.sql("SELECT count(*) FROM t") == "1"


# ------------------------------------------------------------------------------------------------ two sidecars


def test_a_second_sidecar_fences_the_first_and_commits_go_on(scene: Replicated) -> None:
    scene.primary.sql("CREATE TABLE t (n int)")
    first = scene.sidecar
    with new_sidecar(scene.directory / "second.log", scene.primary, scene.keepers) as second:
        second.start()
        assert first.wait() == FENCED
        assert_last_line(first.log, "fenced")
        scene.sidecar = second
        scene.wait_sync()
        scene.primary.sql("INSERT INTO t VALUES (1)")
        scene.wait_everywhere()


def assert_last_line(log: str, word: str) -> None:
    """The last words are one line, the only one that is not the log's."""
    (line,) = [line for line in log.splitlines() if line.startswith("walkeeper: ")]
    assert line == log.splitlines()[-1]
    assert word in line
    assert "Traceback" not in log


def test_sync_fences_the_writer_and_prints_the_end_of_what_was_acknowledged(scene: Replicated) -> None:
    scene.pgbench("-i", "-q")
    acknowledged_lsn = parse_lsn(scene.primary.flush_lsn())
    printed = run_tool(*scene.sync_arguments(), seconds=30)
    assert re.fullmatch(r"[0-9A-F]+/[0-9A-F]+\n", printed)
    end_lsn = parse_lsn(printed)
    assert end_lsn >= acknowledged_lsn
    assert scene.sidecar.wait() == FENCED
    assert_last_line(scene.sidecar.log, "fenced")
    assert run_tool(*scene.sync_arguments(), seconds=30) == printed
    for keeper in scene.keepers:
        status = keeper.ask(f"/v1/tenant/{scene.ttid.tenant_id}/timeline/{scene.ttid.timeline_id}")
        assert (parse_lsn(status["flush_lsn"]), parse_lsn(status["commit_lsn"])) == (end_lsn, end_lsn)


def test_after_a_sync_a_sidecar_goes_on_from_there(scene: Replicated) -> None:
    scene.primary.sql("CREATE TABLE t (n int)")
    run_tool(*scene.sync_arguments(), seconds=30)
    assert scene.sidecar.wait() == FENCED
    with new_sidecar(scene.directory / "next.log", scene.primary, scene.keepers) as scene.sidecar:
        scene.sidecar.start()
        scene.wait_sync()
        scene.primary.sql("INSERT INTO t VALUES (1)")
        scene.wait_everywhere()
        assert scene.sidecar.stop() == 0


def test_sync_without_a_majority_gives_up_in_one_line(scene: Replicated) -> None:
    for keeper in scene.keepers[:2]:
        keeper.kill()
    said = run_command(*scene.sync_arguments(), "--timeout", "2s", seconds=30)
    assert said.returncode == 1
    assert said.stdout == ""
    (line,) = [line for line in said.stderr.splitlines() if line.startswith("walkeeper: ")]
    assert scene.keepers[0].address in line
