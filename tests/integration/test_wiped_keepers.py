"""A keeper that lost its disk has forgotten its promises, too: it never helps to form the majority that breaks them."""

import signal
import subprocess
from pathlib import Path

import pytest

import postgres
from compared_wal import compare_wal
from programs import Keeper, parse_lsn, run_command, run_tool
from replicated import Replicated
from walkeeper.formats.segments import PARTIAL_SUFFIX, parse_segment_name

FENCED = 3
HANGS_SECONDS = 1.5  # long for a commit whose WAL is on two keepers already

MIB = 1 << 20

OLDEST_WAL = "SELECT min(name) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'"

COMMIT = """
    BEGIN;
    INSERT INTO t VALUES (1);
    SELECT pg_current_wal_insert_lsn();  -- its commit is behind
    COMMIT;
"""


def test_sync_with_a_wiped_keeper_and_one_that_lags_waits_for_the_third_and_loses_no_commit(
    scene: Replicated,
) -> None:
    wiped, whole, lagging = scene.keepers
    arguments = scene.sync_arguments()
    scene.primary.sql("CREATE TABLE t (n int)")
    scene.wait_everywhere()
    lagging.kill()
    acknowledged_lsn = parse_lsn(scene.primary.sql(COMMIT))
    scene.sidecar.kill()
    scene.primary.kill()
    whole.kill()
    wiped.wipe()
    restart(wiped, lagging)

    said = run_command(*arguments, "--timeout", "5s", seconds=30)
    assert (said.returncode, said.stdout) == (1, "")
    (line,) = [line for line in said.stderr.splitlines() if line.startswith("walkeeper: ")]
    assert line.index(wiped.address) < line.index("lost its disk") < line.index(whole.address)

    restart(whole)
    assert parse_lsn(run_tool(*arguments, seconds=30)) > acknowledged_lsn
    scene.primary.start()
    scene.sidecar.start()
    scene.wait_sync()
    scene.primary.sql("INSERT INTO t VALUES (2)")
    scene.wait_everywhere()


def test_a_wiped_keeper_that_was_told_of_a_leader_vouches_no_more_than_before(scene: Replicated) -> None:
    """All that it has by then is the leader's word for where the WAL begins."""
    wiped, whole, lagging = scene.keepers
    arguments = scene.sync_arguments()
    scene.primary.sql("CREATE TABLE t (n int)")
    scene.wait_everywhere()
    lagging.kill()
    acknowledged_lsn = parse_lsn(scene.primary.sql(COMMIT))
    scene.sidecar.kill()
    scene.sidecar.start()  # it has no WAL in memory any more that is on keepers already
    scene.wait_sync()
    whole.kill()
    wiped.wipe()
    restart(wiped)
    scene.wait_until(lambda: scene.flush_lsn(wiped) > 0, "a leader")
    assert scene.flush_lsn(wiped) < acknowledged_lsn
    scene.sidecar.kill()
    scene.primary.kill()
    restart(lagging)

    said = run_command(*arguments, "--timeout", "5s", seconds=30)
    assert (said.returncode, said.stdout) == (1, "")
    (line,) = [line for line in said.stderr.splitlines() if line.startswith("walkeeper: ")]
    assert line.index(wiped.address) < line.index("lost its disk") < line.index(whole.address)

    restart(whole)
    assert parse_lsn(run_tool(*arguments, seconds=30)) > acknowledged_lsn


def test_a_fenced_writer_gets_no_acknowledgement_through_a_wiped_keeper(scene: Replicated) -> None:
    wiped, witness, lagging = scene.keepers
    scene.primary.sql("CREATE TABLE t (n int)")
    scene.wait_everywhere()
    lagging.kill()
    scene.sidecar.signal(signal.SIGSTOP)
    run_tool(*scene.sync_arguments(), seconds=30)  # by the other two, who from now on refuse the writer
    witness.kill()
    wiped.wipe()
    restart(wiped, lagging)
    scene.sidecar.signal(signal.SIGCONT)

    begun = [commit_that_waits(scene, 1, wiped, lagging)]
    begun.append(commit_that_waits(scene, 2, wiped, lagging))  # WAL that is newer than the wiped keeper's arrival
    with pytest.raises(subprocess.TimeoutExpired):
        begun[0].wait(HANGS_SECONDS)
    restart(witness)
    assert scene.sidecar.wait() == FENCED
    assert scene.primary.sql("SELECT count(*) FROM t") == "0"
    scene.primary.kill()
    assert all(psql.wait(postgres.COMMAND_SECONDS) != 0 for psql in begun)


def test_a_wiped_keeper_is_whole_again_though_the_primary_has_recycled_the_wal_that_it_lacks(
    scene: Replicated,
) -> None:
    wiped, donor, _ = scene.keepers
    names = (str(scene.ttid.tenant_id), str(scene.ttid.timeline_id))
    scene.primary.configure(wal_keep_size=0, min_wal_size="2MB", max_wal_size="4MB")
    scene.primary.reload()
    scene.pgbench("-i", "-q", "-s", "2")
    scene.wait_everywhere()
    wiped.wipe()
    scene.pgbench("-n", "-c", "2", "-t", "200")
    scene.primary.sql("SELECT pg_switch_wal(); CHECKPOINT")
    scene.pgbench("-n", "-c", "1", "-t", "1")
    oldest, *_ = donor.segments(*names)
    scene.wait_until(lambda: scene.primary.sql(OLDEST_WAL) > oldest.name, "the end of the oldest segment")
    restart(wiped)
    scene.wait_everywhere()
    end_lsn = scene.flush_lsn(wiped)
    compared = compare_wal(scene.primary, wiped.segments(*names), end_lsn, MIB)
    assert compared.whole_segments > 20
    for ours, theirs in zip(wiped.segments(*names), donor.segments(*names), strict=True):
        assert ours.name == theirs.name
        assert same_up_to(ours, theirs, end_lsn), ours.name
    status = wiped.ask(f"/v1/tenant/{names[0]}/timeline/{names[1]}")
    assert status["is_whole"]


def test_a_wiped_keeper_is_filled_from_the_one_whose_disk_has_changed_nothing(scene: Replicated) -> None:
    damaged, wiped, sound = scene.keepers  # of donors that have the same the first one is asked
    names = (str(scene.ttid.tenant_id), str(scene.ttid.timeline_id))
    scene.primary.configure(wal_keep_size=0, min_wal_size="2MB", max_wal_size="4MB")
    scene.primary.reload()
    scene.pgbench("-i", "-q", "-s", "1")
    scene.primary.sql("SELECT pg_switch_wal(); CHECKPOINT")
    scene.wait_everywhere()
    oldest, *_ = sound.segments(*names)
    scene.wait_until(lambda: scene.primary.sql(OLDEST_WAL) > oldest.name, "the end of the oldest segment")
    scene.sidecar.kill()
    damaged.kill()
    wiped.wipe()
    spoilt = damaged.segments(*names)[3]
    flip_byte(spoilt)
    restart(damaged, wiped)
    scene.sidecar.start()  # with no WAL in memory
    scene.wait_everywhere()
    end_lsn = scene.flush_lsn(wiped)
    for ours, theirs in zip(wiped.segments(*names), sound.segments(*names), strict=True):
        assert ours.name == theirs.name
        assert same_up_to(ours, theirs, end_lsn), ours.name
    assert not same_up_to(wiped.segments(*names)[3], spoilt, end_lsn)
    (told,) = [line for line in scene.sidecar.log.splitlines() if "donor's WAL is damaged" in line]
    assert damaged.address in told
    scene.wait_until(lambda: wiped.ask(f"/v1/tenant/{names[0]}/timeline/{names[1]}")["is_whole"], "a whole keeper")


def flip_byte(segment: Path) -> None:
    """One of a record, in the middle: neither the padding of records nor the reserved parts of a page header."""
    wal = bytearray(segment.read_bytes())
    at = next(at for at in range(MIB // 2 + 100, MIB) if wal[at])
    wal[at] ^= 1
    segment.write_bytes(wal)


def same_up_to(ours: Path, theirs: Path, end_lsn: int) -> bool:
    """Whether two files of the same segment hold the same WAL up to there."""
    parsed = parse_segment_name(ours.name.removesuffix(PARTIAL_SUFFIX), MIB)
    assert parsed is not None
    length = min(MIB, end_lsn - parsed.segno * MIB)
    return ours.read_bytes()[:length] == theirs.read_bytes()[:length]


def commit_that_waits(scene: Replicated, waiting: int, *keepers: Keeper) -> "subprocess.Popen[bytes]":
    """Begin a commit; return when so many wait for their acknowledgements, and when these keepers have all their WAL."""
    psql = scene.start_sql("INSERT INTO t VALUES (1)")
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    scene.wait_until(lambda: scene.primary.sql(query) == str(waiting), "a commit that waits")
    lsn = parse_lsn(scene.primary.flush_lsn())
    scene.wait_until(lambda: all(scene.flush_lsn(keeper) >= lsn for keeper in keepers), "its WAL on keepers")
    return psql


def restart(*keepers: Keeper) -> None:
    for keeper in keepers:
        keeper.start()
    for keeper in keepers:
        keeper.wait_ready()
