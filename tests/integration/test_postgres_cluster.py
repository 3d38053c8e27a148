"""The throw-away PostgreSQL that the other integration tests stand on does what they believe it does."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import postgres

NewCluster = Callable[[str], postgres.Cluster]


def test_a_primary_answers_over_its_socket_and_over_tcp(pg: postgres.Cluster) -> None:
    assert pg.rows("VALUES (1, 'one'), (2, 'two')") == [["1", "one"], ["2", "two"]]
    assert pg.run("psql", pg.conninfo(dbname="postgres"), "-XAtc", "SELECT 42").stdout == "42\n"
    assert pg.is_running
    assert pg.system_identifier() > 0


def test_psql_errors_are_raised_with_their_text(pg: postgres.Cluster) -> None:
    with pytest.raises(postgres.PostgresFailed, match="division by zero"):
        pg.sql("SELECT 1/0")


def test_a_killed_server_leaves_no_process_and_recovers(pg: postgres.Cluster) -> None:
    pg.sql("CREATE TABLE t (n int); INSERT INTO t SELECT generate_series(1, 100)")
    (walwriter,) = pg.rows("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'")
    with open_handle(int(walwriter[0])) as handle:
        pg.kill()
        assert postgres.has_ended(handle, 0)
    assert not pg.is_running
    pg.start()
    assert pg.sql("SELECT count(*) FROM t") == "100"
    assert "automatic recovery" in pg.log


@contextmanager
def open_handle(process: int) -> Iterator[int]:
    """A handle of a process that stays its handle when the process is gone."""
    handle = os.pidfd_open(process)
    try:
        yield handle
    finally:
        os.close(handle)


def test_stop_immediate_and_destroy_leave_nothing(new_cluster: NewCluster) -> None:
    cluster = new_cluster("short-lived")
    cluster.initdb(segment_mib=1)
    cluster.start()
    assert cluster.sql("SHOW wal_segment_size") == "1MB"
    cluster.stop("immediate")
    assert not cluster.is_running
    cluster.destroy()
    assert not cluster.directory.exists()


def test_a_base_backup_and_the_primarys_wal_restore_to_a_point(
    new_cluster: NewCluster, work_directory: Path
) -> None:
    primary = new_cluster("primary")
    primary.initdb()
    primary.start()
    primary.sql("CREATE TABLE t (n int)")
    backup = primary.base_backup(work_directory / "backup")
    primary.sql("INSERT INTO t VALUES (1), (2), (3)")
    stop_here = primary.flush_lsn()
    primary.sql("INSERT INTO t VALUES (4)")
    primary.kill()

    kept = work_directory / "kept"
    os.rename(primary.wal, kept)
    primary.delete_data()
    restored = new_cluster("restored")
    restored.adopt_backup(backup)
    restored.recover_from(kept, to_lsn=stop_here)
    restored.start()
    restored.wait_until_promoted()
    assert restored.sql("SELECT array_agg(n ORDER BY n) FROM t") == "{1,2,3}"


def test_wal_dump_reads_the_primarys_wal(pg: postgres.Cluster) -> None:
    start = pg.flush_lsn()
    pg.sql("CREATE TABLE seen (n int)")
    dump = pg.wal_dump("-p", str(pg.wal), "-s", start, "-e", pg.flush_lsn())
    assert "COMMIT" in dump.stdout


def test_programs_that_the_account_cannot_reach_are_copied_to_where_it_can(work_directory: Path) -> None:
    hidden = work_directory / "hidden"
    programs = hidden / "package" / "install" / "bin"
    programs.mkdir(parents=True)
    (hidden / "package.libs").mkdir()
    (hidden / "package.libs" / "library").write_text("echo it runs\n")
    (programs / "psql").write_text('#!/bin/sh\n. "$(dirname "$0")/../../../package.libs/library"\n')
    (programs / "psql").chmod(0o700)
    hidden.chmod(0o700)
    account = postgres.choose_account()
    found = postgres.reachable(postgres.Binaries(programs, 18), account, work_directory)
    assert account.run([found.program("psql")], cwd="/").stdout == "it runs\n"
    assert account.is_other == (found.directory != programs)


def test_ports_given_together_differ() -> None:
    assert len(set(postgres.free_ports(50))) == 50


@pytest.mark.parametrize(
    ("value", "quoted"), [("plain", "plain"), ("", "''"), ("two words", "'two words'"), ("it's\\", "'it\\'s\\\\'")]
)
def test_conninfo_values_are_quoted_as_libpq_reads_them(value: str, quoted: str) -> None:
    assert postgres.quote_conninfo(value) == quoted
