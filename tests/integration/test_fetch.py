"""`walkeeper fetch`: PostgreSQL restores from what keepers have, and is never told that WAL ends where it does not."""

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import postgres
from programs import PROGRAM, Keeper, format_lsn, parse_lsn, plain_environment, run_command, run_tool
from replicated import Replicated, keepers_flag
from restore_command import Call, RestoreCommand
from walkeeper.formats.segments import PARTIAL_SUFFIX, segment_name

NewCluster = Callable[[str], postgres.Cluster]

MIB = 1 << 20
NO_SUCH_FILE, CANNOT_TELL = 1, 126
COMMAND_SECONDS = 60.0
SOME_SEGMENT = "000000010000000000000001"


def fetch_arguments(scene: Replicated, *more: str) -> list[str]:
    ttid = scene.ttid
    named = ["--tenant", str(ttid.tenant_id), "--timeline", str(ttid.timeline_id)]
    return [*keepers_flag(scene.keepers), *named, "--timeout", "3s", *more]


def fetch(scene: Replicated, file: str, path: Path, *more: str) -> int:
    done = run_command("fetch", file, str(path), *fetch_arguments(scene, *more), seconds=COMMAND_SECONDS)
    assert "Traceback" not in done.stderr
    assert bool(done.returncode) == (done.stderr.count("\n") == 1)
    return done.returncode


def name_of(lsn: int) -> str:
    return segment_name(1, lsn // MIB, MIB)


def spool_of(scene: Replicated, directory: Path) -> Path:
    return directory / f"walkeeper-ahead.{scene.ttid.tenant_id}.{scene.ttid.timeline_id}"


# -- restoring -----------------------------------------------------------------------------------------------


def lose_primary(scene: Replicated) -> int:
    """The primary is gone with its disk; what it had acknowledged ends where `walkeeper sync` says, which is returned."""
    sync = scene.sync_arguments()
    scene.primary.kill()
    scene.sidecar.kill()
    scene.primary.delete_data()
    return parse_lsn(run_tool(*sync, seconds=COMMAND_SECONDS))


def end_of_replay(cluster: postgres.Cluster) -> int:
    """Where the promoted server left the old timeline."""
    last = max(cluster.wal.glob("*.history")).read_text().rstrip().splitlines()[-1]
    return parse_lsn(last.split("\t")[1])


def test_a_restore_reaches_every_acknowledged_commit_also_when_a_keeper_dies_meanwhile(
    scene: Replicated, new_cluster: NewCluster
) -> None:
    scene.pgbench("-i", "-q", "-s", "2")
    backup = scene.primary.base_backup(scene.directory / "backup", with_wal=False)
    scene.pgbench("-n", "-c", "4", "-T", "4")
    acknowledged = scene.primary.sql("SELECT count(*), sum(delta) FROM pgbench_history")
    end_lsn = lose_primary(scene)
    assert end_lsn % MIB, "it ends in an unfinished segment"

    def kill_one(_call: Call) -> None:
        if sum(each.code == 0 for each in command.calls) == 3:
            scene.keepers[0].kill()

    restored = new_cluster("restored")
    restored.adopt_backup(backup)
    with RestoreCommand(restored, fetch_arguments(scene, "--ahead", "2MB"), kill_one) as command:
        command.recover()
    assert end_of_replay(restored) == end_lsn
    assert restored.sql("SELECT count(*), sum(delta) FROM pgbench_history") == acknowledged
    given = [call.file for call in command.calls if call.code == 0]
    assert len(given) > 6
    assert given[-1] == name_of(end_lsn)
    assert {call.code for call in command.calls} == {0, NO_SUCH_FILE}
    assert not spool_of(scene, restored.wal).exists()


def test_postgresql_stops_when_a_majority_of_the_keepers_is_down(
    scene: Replicated, new_cluster: NewCluster
) -> None:
    scene.pgbench("-i", "-q")
    backup = scene.primary.base_backup(scene.directory / "backup", with_wal=False)
    scene.pgbench("-n", "-c", "2", "-T", "2")
    end_lsn = lose_primary(scene)

    def kill_two(call: Call) -> None:
        if call.code == 0:
            scene.keepers[0].kill()
            scene.keepers[1].kill()

    restored = new_cluster("restored")
    restored.adopt_backup(backup)
    with RestoreCommand(restored, fetch_arguments(scene, "--ahead", "0"), kill_two) as command:
        with pytest.raises(postgres.PostgresFailed):
            command.recover()
    assert name_of(end_lsn) not in {call.file for call in command.calls}
    assert command.calls[-1].code == CANNOT_TELL
    assert scene.keepers[0].address in command.calls[-1].said
    assert scene.keepers[1].address in command.calls[-1].said
    assert "FATAL" in restored.log
    assert not list(restored.wal.glob("*.history"))


@pytest.fixture
def promoted(work_directory: Path, new_cluster: NewCluster) -> Iterator[Replicated]:
    """As `scene`, but the primary is on its second timeline id."""
    primary = new_cluster("primary")
    primary.initdb(segment_mib=1)
    primary.configure(max_slot_wal_keep_size="1GB", wal_keep_size="1GB", max_wal_size="2GB", autovacuum="off")
    primary.start()
    primary.stop()
    (work_directory / "empty").mkdir()
    primary.recover_from(work_directory / "empty")
    primary.start()
    primary.wait_until_promoted()
    primary.sql("SELECT pg_switch_wal(); CHECKPOINT")
    with ExitStack() as stack:
        yield Replicated.begin(work_directory, primary, stack)


def test_a_restore_on_a_later_timeline_id_needs_no_history_file(
    promoted: Replicated, new_cluster: NewCluster
) -> None:
    backup = promoted.primary.base_backup(promoted.directory / "backup", with_wal=False)
    promoted.primary.sql("CREATE TABLE t AS SELECT generate_series(1, 30000) n")
    promoted.wait_everywhere()
    end_lsn = lose_primary(promoted)
    restored = new_cluster("restored")
    restored.adopt_backup(backup)
    with RestoreCommand(restored, fetch_arguments(promoted)) as command:
        command.recover()
    assert end_of_replay(restored) == end_lsn
    assert restored.sql("SELECT count(*) FROM t") == "30000"
    asked = {call.file: call.code for call in command.calls}
    assert asked["00000002.history"] == asked["00000003.history"] == NO_SUCH_FILE
    assert any(file.startswith("00000002") and code == 0 for file, code in asked.items())


# -- damage --------------------------------------------------------------------------------------------------


def flip_bit_in_every_segment(scene: Replicated, keeper: Keeper) -> None:
    """One in the middle of each of a keeper's segments but the unfinished one, on its disk."""
    for path in keeper.segments(str(scene.ttid.tenant_id), str(scene.ttid.timeline_id)):
        if path.suffix != PARTIAL_SUFFIX:
            with path.open("r+b") as file:
                file.seek(MIB // 2 + 100)
                (byte,) = file.read(1)
                file.seek(MIB // 2 + 100)
                file.write(bytes([byte ^ 1]))


@pytest.fixture
def backed_up(scene: Replicated) -> Path:
    """A base backup, and some segments of commits behind it."""
    scene.primary.sql("CREATE TABLE t (n int, filler text)")
    backup = scene.primary.base_backup(scene.directory / "backup", with_wal=False)
    scene.primary.sql("INSERT INTO t SELECT n, repeat('x', 300) FROM generate_series(1, 8000) n")
    scene.primary.sql("SELECT pg_switch_wal(); INSERT INTO t VALUES (0, '')")
    scene.wait_everywhere()
    return backup


@pytest.mark.parametrize("ahead", ["0", "2MB"])
def test_a_restore_reaches_every_commit_while_one_keeper_has_undamaged_wal(
    scene: Replicated, backed_up: Path, new_cluster: NewCluster, ahead: str
) -> None:
    end_lsn = lose_primary(scene)
    for keeper in scene.keepers[:2]:
        flip_bit_in_every_segment(scene, keeper)
    restored = new_cluster("restored")
    restored.adopt_backup(backed_up)
    with RestoreCommand(restored, fetch_arguments(scene, "--ahead", ahead)) as command:
        command.recover()
    assert end_of_replay(restored) == end_lsn
    assert restored.sql("SELECT count(*) FROM t") == "8001"


def test_postgresql_stops_where_all_copies_are_damaged(
    scene: Replicated, backed_up: Path, new_cluster: NewCluster
) -> None:
    lose_primary(scene)
    for keeper in scene.keepers:
        flip_bit_in_every_segment(scene, keeper)
    restored = new_cluster("restored")
    restored.adopt_backup(backed_up)
    with RestoreCommand(restored, fetch_arguments(scene)) as command:
        with pytest.raises(postgres.PostgresFailed):
            command.recover()
    last = command.calls[-1]
    assert last.code == CANNOT_TELL
    assert all(f"{keeper.address} has damaged WAL in {last.file}" in last.said for keeper in scene.keepers)
    assert "FATAL" in restored.log
    assert not list(restored.wal.glob("*.history"))


# -- one file at a time --------------------------------------------------------------------------------------


@pytest.fixture
def filled(scene: Replicated) -> Replicated:
    """Some segments, the last of which is not finished; nobody writes any more."""
    scene.pgbench("-i", "-q")
    scene.primary.sql("SELECT pg_switch_wal(); CREATE TABLE behind_the_switch (n int)")
    scene.wait_everywhere()
    scene.sidecar.kill()
    run_tool(*scene.sync_arguments(), seconds=COMMAND_SECONDS)
    return scene


def commit_lsn(scene: Replicated) -> int:
    arguments = [*keepers_flag(scene.keepers), "--system-id", str(scene.primary.system_identifier())]
    return parse_lsn(run_tool("commit-lsn", *arguments, seconds=COMMAND_SECONDS))


def first_segment(scene: Replicated) -> int:
    """The LSN at which the keepers' first segment begins."""
    (keeper, *_), ttid = scene.keepers, scene.ttid
    return int(keeper.segments(str(ttid.tenant_id), str(ttid.timeline_id))[0].name[8:], 16) * MIB


def test_segments_are_the_primarys_and_the_unfinished_one_is_filled_with_zeroes(
    filled: Replicated, tmp_path: Path
) -> None:
    end_lsn = commit_lsn(filled)
    first = first_segment(filled)
    for begin_lsn in range(first, end_lsn, MIB):
        assert fetch(filled, name_of(begin_lsn), tmp_path / "got", "--ahead", "2MB") == 0
        got, length = (tmp_path / "got").read_bytes(), min(MIB, end_lsn - begin_lsn)
        assert got[:length] == (filled.primary.wal / name_of(begin_lsn)).read_bytes()[:length]
        assert got[length:] == bytes(MIB - length)
    assert length < MIB
    assert [path.name for path in tmp_path.iterdir()] == ["got"]


def test_what_certainly_does_not_exist_ends_with_1(filled: Replicated, tmp_path: Path) -> None:
    end_lsn = commit_lsn(filled)
    absent = [
        name_of(end_lsn + MIB), name_of(end_lsn + 5000 * MIB), name_of(first_segment(filled) - MIB),
        segment_name(2, end_lsn // MIB, MIB), name_of(end_lsn - MIB) + PARTIAL_SUFFIX,
        "00000002.history", name_of(end_lsn) + ".00000028.backup",
    ]  # fmt: skip
    assert [fetch(filled, name, tmp_path / "got") for name in absent] == [NO_SUCH_FILE] * len(absent)
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_segment_has_two_names_or_only_the_one_with_partial(
    filled: Replicated, tmp_path: Path
) -> None:
    name = name_of(commit_lsn(filled))
    assert fetch(filled, name + PARTIAL_SUFFIX, tmp_path / "a", "--no-partial") == 0
    assert fetch(filled, name, tmp_path / "b", "--no-partial") == NO_SUCH_FILE
    assert fetch(filled, name, tmp_path / "b") == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_segment_that_was_read_ahead_is_given_while_no_keeper_runs(filled: Replicated, tmp_path: Path) -> None:
    first = first_segment(filled)
    assert fetch(filled, name_of(first), tmp_path / "got", "--ahead", "2MB") == 0
    for keeper in filled.keepers:
        keeper.kill()
    for begin_lsn in (first + MIB, first + 2 * MIB):
        assert fetch(filled, name_of(begin_lsn), tmp_path / "got") == 0
        assert (tmp_path / "got").read_bytes() == (filled.primary.wal / name_of(begin_lsn)).read_bytes()
    assert not spool_of(filled, tmp_path).exists()
    (tmp_path / "got").unlink()
    assert fetch(filled, name_of(first + 3 * MIB), tmp_path / "got") == CANNOT_TELL
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_entry_of_the_spool_is_thrown_away_and_fetched_anew(filled: Replicated, tmp_path: Path) -> None:
    first = first_segment(filled)
    assert fetch(filled, name_of(first), tmp_path / "got", "--ahead", "1MB") == 0
    (entry,) = spool_of(filled, tmp_path).iterdir()
    wal = bytearray(entry.read_bytes())
    wal[MIB // 2] ^= 1
    entry.write_bytes(wal)
    name = name_of(first + MIB)
    done = run_command(
        "fetch", name, str(tmp_path / "got"), *fetch_arguments(filled, "--ahead", "0"), seconds=COMMAND_SECONDS
    )
    assert done.returncode == 0
    assert entry.name in done.stderr
    assert (tmp_path / "got").read_bytes() == (filled.primary.wal / name).read_bytes()
    assert not entry.exists()


def test_calls_at_once_for_one_path_never_mix_their_files(filled: Replicated, tmp_path: Path) -> None:
    """They share the spool, too.  What one of them says to have given is whole; another may have given it since."""
    first = first_segment(filled)
    names = [name_of(first), name_of(first + MIB)]
    whole = {(filled.primary.wal / name).read_bytes() for name in names}
    for _ in range(3):
        calls = [
            subprocess.Popen(
                [PROGRAM, "fetch", name, str(tmp_path / "got"), *fetch_arguments(filled, "--ahead", "2MB")],
                env=plain_environment(), stderr=subprocess.DEVNULL,
            )
            for name in names * 2
        ]  # fmt: skip
        assert {call.wait(COMMAND_SECONDS) for call in calls} <= {0, CANNOT_TELL}
        assert (tmp_path / "got").read_bytes() in whole
        assert {path.name for path in tmp_path.iterdir()} <= {"got", spool_of(filled, tmp_path).name}
    for begin_lsn in (first + MIB, first + 2 * MIB):
        assert fetch(filled, name_of(begin_lsn), tmp_path / "got", "--ahead", "0") == 0
        assert (tmp_path / "got").read_bytes() == (filled.primary.wal / name_of(begin_lsn)).read_bytes()


def test_segments_that_a_majority_has_lost_come_from_the_keeper_that_has_them(
    filled: Replicated, tmp_path: Path
) -> None:
    name = name_of(first_segment(filled) + MIB)
    directories = [
        keeper.data / str(filled.ttid.tenant_id) / str(filled.ttid.timeline_id) for keeper in filled.keepers
    ]
    for directory in directories[:2]:
        (directory / name).unlink()
    assert fetch(filled, name, tmp_path / "got") == 0
    (directories[2] / name).unlink()
    assert fetch(filled, name, tmp_path / "got") == NO_SUCH_FILE


def test_nobody_is_believed_about_the_end_of_the_wal_alone(filled: Replicated, tmp_path: Path) -> None:
    """Two keepers are left, of which one was down during the last commits and the sync."""
    end_lsn = commit_lsn(filled)
    behind, _, away = filled.keepers
    behind.kill()
    filled.sidecar.start()
    filled.wait_sync()
    filled.primary.sql("SELECT pg_switch_wal(); CREATE TABLE newer (n int)")
    filled.sidecar.kill()
    newer_lsn = parse_lsn(run_tool(*filled.sync_arguments(), seconds=COMMAND_SECONDS))
    away.kill()
    behind.start()
    behind.wait_ready()
    assert fetch(filled, name_of(end_lsn), tmp_path / "got") == CANNOT_TELL
    assert fetch(filled, name_of(newer_lsn), tmp_path / "got") == CANNOT_TELL
    assert list(tmp_path.iterdir()) == []
    assert fetch(filled, name_of(end_lsn - MIB), tmp_path / "got") == 0
    assert run_tool(*filled.sync_arguments(), seconds=COMMAND_SECONDS).strip() == format_lsn(newer_lsn)
    assert fetch(filled, name_of(newer_lsn), tmp_path / "got") == 0


WRONG = {
    "a name that PostgreSQL never asks for": ["postgresql.conf", "got"],
    "a missing word": [SOME_SEGMENT],
    "an unknown flag": [SOME_SEGMENT, "got", "--ahed", "1"],
    "a bad value": [SOME_SEGMENT, "got", "--ahead", "much"],
    "an unknown timeline": [SOME_SEGMENT, "got"],
    "a directory that is missing": [SOME_SEGMENT, "/nonexistent/got"],
}


@pytest.mark.parametrize("arguments", WRONG.values(), ids=WRONG)
def test_a_mistake_is_never_taken_for_the_end_of_the_wal(keepers: list[Keeper], arguments: list[str]) -> None:
    said = run_command("fetch", *arguments, *keepers_flag(keepers), "--system-id", "7", seconds=COMMAND_SECONDS)
    assert said.returncode == CANNOT_TELL
    assert said.stderr.count("\n") == 1
    assert "Traceback" not in said.stderr


def test_a_standard_error_that_takes_nothing_does_not_change_the_exit_code(keepers: list[Keeper]) -> None:
    """The disk that holds PostgreSQL's log is full."""
    command = [PROGRAM, "fetch", SOME_SEGMENT, "got", *keepers_flag(keepers), "--system-id", "7"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, env=plain_environment(), stderr=full, timeout=COMMAND_SECONDS)
    assert done.returncode == CANNOT_TELL


def test_a_signal_ends_it_as_a_signal(keepers: list[Keeper], tmp_path: Path) -> None:
    """A PostgreSQL that shuts down must not read from the exit code that WAL has ended."""
    for keeper in keepers:
        keeper.signal(signal.SIGSTOP)
    command = [PROGRAM, "fetch", SOME_SEGMENT, str(tmp_path / "got"), *keepers_flag(keepers), "--system-id", "7"]
    with subprocess.Popen(command, env=plain_environment(), stderr=subprocess.DEVNULL) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(COMMAND_SECONDS) == -signal.SIGTERM
