"""PostgreSQL's own readers of WAL, served by keepers: pg_receivewal, and hot standbys."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import pytest

import postgres
from keeper_client import Client
from programs import END_SECONDS, Keeper, run_tool
from replicated import Replicated
from walkeeper.formats.frontend import Query
from walkeeper.formats.segments import PARTIAL_SUFFIX

SYNC_SECONDS = 60.0
LOAD_SECONDS = 4

PAUSE_SECONDS_MAX = 1.5
"""What a commit may take while readers hang: an fsync on a busy machine, and no deadline of anything."""

NewCluster = Callable[[str], postgres.Cluster]

FOLLOW_SECONDS = 24
KILL_SECONDS = 6
"""The short form of two minutes with a kill every twenty seconds."""

KILLED_MIN = 2
"""So many kills there are even where a keeper takes seconds to start."""


@contextmanager
def running(process: "subprocess.Popen[bytes]") -> Iterator["subprocess.Popen[bytes]"]:
    """A program that is killed at the end if it still runs."""
    try:
        yield process
    finally:
        process.kill()
        process.wait(END_SECONDS)


# -- pg_receivewal -------------------------------------------------------------------------------------------


def receive(scene: Replicated, target: Path, *more: str) -> "subprocess.Popen[bytes]":
    """Start pg_receivewal on the first keeper."""
    conninfo = scene.keepers_conninfo(scene.keepers[0])
    arguments = ["-D", str(target), "-d", conninfo, "-w", "--no-loop", *more]
    return scene.primary.spawn("pg_receivewal", *arguments, output=scene.directory / "pg_receivewal.log")


def test_what_pg_receivewal_gets_from_a_keeper_is_the_primarys_wal_also_after_it_was_killed(
    scene: Replicated, work_directory: Path
) -> None:
    target = work_directory / "received"
    target.mkdir()
    scene.primary.account.own(target)
    with running(receive(scene, target)):
        scene.pgbench("-i", "-q")
        scene.pgbench("-n", "-c", "2", "-T", "2")
    scene.pgbench("-i", "-q")  # nobody receives: it has to catch up
    with running(receive(scene, target)):
        scene.pgbench("-n", "-c", "2", "-T", "2")
        scene.primary.sql("SELECT pg_switch_wal()")
        scene.primary.sql("CREATE TABLE behind_the_switch (n int)")
        last = scene.primary.sql("SELECT pg_walfile_name(pg_current_wal_lsn())")
        scene.wait_until((target / (last + PARTIAL_SUFFIX)).exists, "the newest segment")
    whole = sorted(path for path in target.iterdir() if path.suffix != PARTIAL_SUFFIX)
    assert len(whole) > 10
    assert whole[-1].name < last
    for path in whole:
        assert path.read_bytes() == (scene.primary.wal / path.name).read_bytes(), path.name


def test_pg_receivewal_stops_where_it_was_told_to(scene: Replicated, work_directory: Path) -> None:
    target = work_directory / "received"
    target.mkdir()
    scene.primary.account.own(target)
    scene.pgbench("-i", "-q")
    with running(receive(scene, target, "--endpos", scene.primary.flush_lsn())) as process:
        scene.primary.sql("CREATE TABLE more (n int)")
        assert process.wait(END_SECONDS) == 0
    log = (scene.directory / "pg_receivewal.log").read_text()
    assert "unexpected" not in log


# -- hot standbys --------------------------------------------------------------------------------------------


@pytest.fixture
def standby(scene: Replicated, new_cluster: NewCluster) -> postgres.Cluster:
    """A standby that knows nobody but the keepers."""
    scene.pgbench("-i", "-q")
    standby = new_cluster("standby")
    standby.adopt_backup(scene.primary.base_backup(scene.directory / "backup"))
    standby.follow(
        scene.keepers_conninfo(), hot_standby_feedback="on", wal_receiver_status_interval="1s",
        wal_retrieve_retry_interval="500ms",
    )  # fmt: skip
    standby.start()
    return standby


def dump(cluster: postgres.Cluster) -> str:
    """All the data there is; without the lines that pg_dump makes up anew each time."""
    said = cluster.run("pg_dump", *cluster.client_arguments(), "postgres").stdout
    return "\n".join(line for line in said.split("\n") if not line.startswith("\\"))


def wait_replayed(standby: postgres.Cluster, lsn: str) -> None:
    standby.sql(
        f"DO $$ BEGIN FOR i IN 1..600 LOOP EXIT WHEN pg_last_wal_replay_lsn() >= '{lsn}'; PERFORM pg_sleep(0.05);"
        f" END LOOP; ASSERT pg_last_wal_replay_lsn() >= '{lsn}', 'at ' || pg_last_wal_replay_lsn(); END $$"
    )


def test_a_standby_follows_through_keepers_that_are_killed_and_ends_with_the_primarys_data(
    scene: Replicated, standby: postgres.Cluster
) -> None:
    arguments = [*scene.primary.client_arguments(), "-n", "-c", "2", "-T", str(FOLLOW_SECONDS), "postgres"]
    with running(scene.primary.spawn("pgbench", *arguments, output=scene.directory / "pgbench.log")) as load:
        killed = 0
        while load.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                load.wait(KILL_SECONDS)
                break
            keeper = scene.keepers[killed % len(scene.keepers)]
            keeper.kill()
            keeper.start()
            keeper.wait_ready()
            killed += 1
        assert load.wait(END_SECONDS) == 0
        assert killed >= KILLED_MIN
    expected = dump(scene.primary)
    arguments = scene.sync_arguments()
    scene.sidecar.kill()
    scene.primary.kill()
    wait_replayed(standby, run_tool(*arguments, seconds=SYNC_SECONDS).strip())
    assert dump(standby) == expected


def test_what_a_query_on_a_standby_needs_is_kept_by_the_primary_and_let_go_with_the_standby(
    scene: Replicated, standby: postgres.Cluster
) -> None:
    needed = "SELECT coalesce(xmin::text, 'nothing') FROM pg_replication_slots WHERE slot_name = 'walkeeper'"
    scene.wait_until(lambda: scene.primary.sql(needed) != "nothing", "feedback of the standby")
    standby.kill()
    scene.wait_until(lambda: scene.primary.sql(needed) == "nothing", "the end of that feedback")


def test_a_standby_sees_a_commit_while_only_a_majority_of_keepers_is_there(
    scene: Replicated, standby: postgres.Cluster
) -> None:
    scene.keepers[0].kill()
    scene.primary.sql("CREATE TABLE t AS SELECT 42 AS n")
    wait_replayed(standby, scene.primary.flush_lsn())
    assert standby.sql("SELECT n FROM t") == "42"


# -- readers that do not read --------------------------------------------------------------------------------


def commit_pauses(scene: Replicated, name: str) -> list[float]:
    """How long each of the commits of some seconds took, in seconds."""
    scene.pgbench("-n", "-c", "2", "-T", str(LOAD_SECONDS), "--log", f"--log-prefix={name}")
    (log,) = scene.primary.directory.glob(f"{name}.*")
    return [int(line.split()[2]) / 1e6 for line in log.read_text().splitlines()]


def readers_of(scene: Replicated, keeper: Keeper) -> list[str]:
    """The names of those whom a keeper sends WAL to."""
    status = keeper.ask(f"/v1/tenant/{scene.ttid.tenant_id}/timeline/{scene.ttid.timeline_id}")
    return [each["Vanilla"]["appname"] for each in status["walsenders"]]


@contextmanager
def reading_a_byte_a_second(scene: Replicated, keeper: Keeper, begin_lsn: str) -> Iterator[None]:
    """A reader that is never done with what it is sent."""
    enough = Event()

    def read(client: Client) -> None:
        with suppress(OSError):
            while client.sock.recv(1) and not enough.wait(1.0):
                pass

    with Client(keeper.pg_port, room_bytes=4096) as client:
        client.start_up(scene.ttid, application_name="dribbler")
        client.send(Query(f"START_REPLICATION PHYSICAL {begin_lsn}").encode())
        reader = Thread(target=read, args=(client,))
        reader.start()
        try:
            yield
        finally:
            enough.set()
            reader.join()


def test_readers_that_do_not_read_delay_no_commit_and_are_sent_away(
    scene: Replicated, standby: postgres.Cluster
) -> None:
    keeper = scene.keepers[0]
    standby.configure(primary_conninfo=scene.keepers_conninfo(keeper))
    standby.reload()
    scene.wait_until(lambda: readers_of(scene, keeper) == ["walreceiver"], "the standby")
    undisturbed = commit_pauses(scene, "undisturbed")
    (receiver,) = standby.rows("SELECT pid FROM pg_stat_wal_receiver")
    os.kill(int(receiver[0]), signal.SIGSTOP)
    begin_lsn = scene.primary.sql("SELECT pg_current_wal_lsn() - 10000000")
    with reading_a_byte_a_second(scene, keeper, begin_lsn):
        scene.wait_until(lambda: "dribbler" in readers_of(scene, keeper), "the reader of single bytes")
        disturbed = commit_pauses(scene, "disturbed")
        scene.wait_until(lambda: readers_of(scene, keeper) == [], "the end of both")
    assert max(disturbed) < PAUSE_SECONDS_MAX
    assert len(disturbed) > len(undisturbed) / 4, "that many fewer is no accident"
    os.kill(int(receiver[0]), signal.SIGCONT)
    wait_replayed(standby, scene.primary.sql("SELECT pg_current_wal_lsn()"))
