"""From a base backup and the keepers' files to a running PostgreSQL: what an operator would do with cp and mv."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import postgres
import programs


def collect_segments(
    keepers: Sequence[programs.Keeper], tenant: str, timeline: str, target: Path, end_lsn: int
) -> str:
    """Copy the segments of one keeper that holds everything up to `end_lsn`; its name.

    The last segment is still called `.partial` there, since more WAL may come; PostgreSQL asks for the plain name.
    """
    target.mkdir()
    for keeper in keepers:
        if keeper.flush_lsn(tenant, timeline) >= end_lsn:
            for segment in keeper.segments(tenant, timeline):
                shutil.copyfile(segment, target / segment.name.removesuffix(".partial"))
            return keeper.name
    raise programs.ProgramFailed(f"no keeper says that it holds WAL up to {programs.format_lsn(end_lsn)}")


def restore(backup: Path, segments: Path, directory: Path, binaries: postgres.Binaries) -> postgres.Cluster:
    """Start a new server from the backup and let it replay the segments to their end."""
    cluster = postgres.Cluster.prepare(directory, binaries)
    cluster.adopt_backup(backup)
    cluster.configure(synchronous_standby_names="")  # in the backup it was the sidecar's; nobody stands there now
    (cluster.data / "postgresql.auto.conf").write_text("")
    cluster.recover_from(segments)
    cluster.start()
    cluster.wait_until_promoted()
    return cluster


def end_of_replay(cluster: postgres.Cluster) -> int:
    """Where the old timeline ended for the promoted server: the end of the last record it replayed."""
    new_timeline = max(cluster.wal.glob("*.history"))
    last = new_timeline.read_text().rstrip().splitlines()[-1]
    return programs.parse_lsn(last.split("\t")[1])
