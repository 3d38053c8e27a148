"""A primary, or flags, with which the sidecar cannot work: exit code 2, and one line that says what and what to do."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

import postgres
from programs import parse_lsn, run_command
from replicated import Replicated, keepers_flag

NewCluster = Callable[[str], postgres.Cluster]

ENDS_SECONDS = 15.0
NO_KEEPER = ("--keepers", "127.0.0.1:1")
"""Nobody listens there; what is refused here is refused before that matters."""

WRITER, READER = "writer", "reader"
PASSWORD = "p4ss'word\\"

WITH_PASSWORDS = (
    "local all all trust",
    "local replication all trust",
    f"host replication {WRITER} 127.0.0.1/32 scram-sha-256",
    "host replication all 127.0.0.1/32 trust",
)


def assert_refused(*arguments: str, saying: Sequence[str], **environment: str) -> None:
    """`walkeeper propose` ends with exit code 2 and one line with these parts in it."""
    said = run_command("propose", *arguments, seconds=ENDS_SECONDS, **environment)
    assert said.returncode == 2, said.stdout + said.stderr
    (line,) = said.stderr.splitlines()
    assert line.startswith("walkeeper: ")
    for part in saying:
        assert part in line
    assert "Traceback" not in said.stdout


# -------------------------------------------------------------------------------------------------------- flags


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((), "--keepers"),
        (("--keepers", ""), "HOST:PORT"),
        (("--keepers", "a:b:c"), "a:b:c"),
        (("--keepers", "a:70000"), "a:70000"),
        (("--keepers", "a:1,a:1"), "a:1"),
        (("--keepers", ",".join(f"k{n}:1" for n in range(32))), "31"),
        ((*NO_KEEPER, "--tenant", "xyz"), "--tenant"),
        ((*NO_KEEPER, "--timeline", "1" * 31), "--timeline"),
        ((*NO_KEEPER, "--primary", "host"), "host"),
        ((*NO_KEEPER, "--primary", "hots=127.0.0.1"), "hots"),
        ((*NO_KEEPER, "--primary", "host=a,b"), "one host"),
        ((*NO_KEEPER, "--primary", "port=high"), "high"),
        ((*NO_KEEPER, "--primary", "password='open"), "quote"),
        ((*NO_KEEPER, "--slots", "x"), "--slots"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_wrong_flags_are_refused(arguments: Sequence[str], part: str) -> None:
    assert_refused(*arguments, saying=[part])


# ------------------------------------------------------------------------------------------------ the primary


@pytest.fixture(scope="module")
def primary() -> Iterator[postgres.Cluster]:
    """A primary as initdb makes it, with a role that needs a password and one that may not replicate."""
    with postgres.workspace() as directory, postgres.Cluster.prepare(directory / "primary") as cluster:
        cluster.initdb()
        cluster.allow_only(*WITH_PASSWORDS)
        cluster.start()
        quoted = PASSWORD.replace("'", "''")
        cluster.sql(
            f"SET standard_conforming_strings = on; CREATE ROLE {WRITER} LOGIN REPLICATION PASSWORD '{quoted}'"
        )
        cluster.sql(f"CREATE ROLE {READER} LOGIN")
        yield cluster


def test_a_wrong_password_is_refused(primary: postgres.Cluster) -> None:
    conninfo = primary.conninfo(WRITER, password="guessed")
    assert_refused("--primary", conninfo, *NO_KEEPER, saying=["password", WRITER])


def test_a_missing_password_is_asked_for(primary: postgres.Cluster) -> None:
    assert_refused("--primary", primary.conninfo(WRITER), *NO_KEEPER, saying=["PGPASSWORD", WRITER])


@pytest.mark.parametrize("place", ["connection string", "variable", "password file"])
def test_the_right_password_is_taken_from_where_it_is(
    place: str, primary: postgres.Cluster, tmp_path: Path
) -> None:
    """What is refused then is something else: the slot."""
    conninfo, environment = primary.conninfo(WRITER), {}
    if place == "connection string":
        conninfo = primary.conninfo(WRITER, password=PASSWORD)
    elif place == "variable":
        environment["PGPASSWORD"] = PASSWORD
    else:
        environment["PGPASSFILE"] = str(tmp_path / "passwords")
        escaped = PASSWORD.replace("\\", "\\\\")
        (tmp_path / "passwords").write_text(f"127.0.0.1:{primary.port}:replication:{WRITER}:{escaped}\n")
        (tmp_path / "passwords").chmod(0o600)
    assert_refused("--primary", conninfo, *NO_KEEPER, saying=["max_slot_wal_keep_size"], **environment)


def test_a_role_without_replication_is_refused(primary: postgres.Cluster) -> None:
    assert_refused("--primary", primary.conninfo(READER), *NO_KEEPER, saying=["ALTER ROLE", "REPLICATION"])


def test_a_role_that_does_not_exist_is_refused(primary: postgres.Cluster) -> None:
    assert_refused("--primary", primary.conninfo("nobody_at_all"), *NO_KEEPER, saying=["nobody_at_all"])


def test_a_server_that_must_use_tls_and_cannot_is_refused(primary: postgres.Cluster) -> None:
    conninfo = primary.conninfo(sslmode="require")
    assert_refused("--primary", conninfo, *NO_KEEPER, saying=["TLS", "sslmode=require"])


def test_a_slot_without_a_limit_is_not_made(primary: postgres.Cluster) -> None:
    command = "ALTER SYSTEM SET max_slot_wal_keep_size"
    assert_refused("--primary", primary.conninfo(), *NO_KEEPER, saying=[command, "--unsafe-slot"])
    assert primary.rows("SELECT slot_name FROM pg_replication_slots") == []


def test_a_slot_name_that_postgresql_would_not_take_is_refused(primary: postgres.Cluster) -> None:
    assert_refused("--primary", primary.conninfo(), *NO_KEEPER, "--slot", "Bad-Name", saying=["Bad-Name"])


def test_a_standby_is_refused(primary: postgres.Cluster, new_cluster: NewCluster) -> None:
    standby = new_cluster("standby")
    standby.adopt_backup(primary.base_backup(standby.directory / "backup"))
    (standby.data / "standby.signal").touch()
    standby.account.own(standby.data)
    standby.allow_only(*WITH_PASSWORDS)
    standby.start()
    assert_refused("--primary", standby.conninfo(), *NO_KEEPER, saying=["standby", str(standby.port)])


def test_a_primary_with_wal_level_minimal_is_refused(new_cluster: NewCluster) -> None:
    cluster = new_cluster("minimal")
    cluster.initdb()
    cluster.configure(wal_level="minimal", max_wal_senders=0)
    cluster.start()
    assert_refused("--primary", cluster.conninfo(), *NO_KEEPER, saying=["wal_level", "minimal", "replica"])


# ------------------------------------------------------------------- WAL that does not continue the keepers'


@pytest.fixture
def scene(work_directory: Path, new_cluster: NewCluster) -> Iterator[Replicated]:
    """A primary that keepers know, with a copy of its data directory from before they did."""
    primary = new_cluster("primary")
    primary.initdb(segment_mib=1)
    primary.configure(max_slot_wal_keep_size="1GB")
    primary.start()
    primary.sql("CREATE TABLE t (n int)")
    primary.stop()
    shutil.copytree(primary.data, work_directory / "old")
    primary.start()
    with ExitStack() as stack:
        yield Replicated.begin(work_directory, primary, stack)


def test_a_primary_that_lost_what_keepers_have_is_refused_even_when_it_has_written_as_much_again(
    scene: Replicated, new_cluster: NewCluster
) -> None:
    scene.primary.sql("INSERT INTO t SELECT generate_series(1, 10000)")
    scene.wait_everywhere()
    old = new_cluster("restored")
    old.adopt_backup(scene.directory / "old")
    old.start()
    assert_refused("--primary", old.conninfo(), *keepers_flag(scene.keepers), saying=["ahead", "restore"])
    scene.primary.sql("INSERT INTO t VALUES (1)")  # nobody was fenced
    end_lsn = scene.wait_everywhere()
    scene.sidecar.kill()
    scene.primary.kill()
    while parse_lsn(old.flush_lsn()) <= end_lsn:
        old.sql("INSERT INTO t SELECT generate_series(1, 5000)")
    assert_refused("--primary", old.conninfo(), *keepers_flag(scene.keepers), saying=["went another way"])


def test_another_cluster_under_the_same_names_is_refused(scene: Replicated, new_cluster: NewCluster) -> None:
    other = new_cluster("other")
    other.initdb(segment_mib=1)
    other.configure(max_slot_wal_keep_size="1GB")
    other.start()
    names = ["--tenant", str(scene.ttid.tenant_id), "--timeline", str(scene.ttid.timeline_id)]
    system_id = str(other.system_identifier())
    assert_refused(
        "--primary", other.conninfo(), *keepers_flag(scene.keepers), *names, saying=["another cluster", system_id]
    )
    assert scene.sidecar.is_running


def test_a_promoted_copy_is_refused(scene: Replicated, new_cluster: NewCluster) -> None:
    promoted = new_cluster("promoted")
    promoted.adopt_backup(scene.primary.base_backup(promoted.directory / "backup"))
    (promoted.data / "recovery.signal").touch()
    promoted.configure(restore_command="false", synchronous_standby_names="")
    promoted.account.own(promoted.data)
    promoted.start()
    promoted.wait_until_promoted()
    assert_refused("--primary", promoted.conninfo(), *keepers_flag(scene.keepers), saying=["timeline 1", "on 2"])
    assert scene.sidecar.is_running
