"""From a base backup and what the keepers have to a running PostgreSQL."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import postgres
import programs
from restore_command import RestoreCommand


def restore(
    backup: Path, directory: Path, binaries: postgres.Binaries, arguments: Sequence[str]
) -> tuple[postgres.Cluster, Counter[int]]:
    """A new server that has replayed all that `walkeeper fetch` gave it, and the exit codes of that."""
    cluster = postgres.Cluster.prepare(directory, binaries)
    cluster.adopt_backup(backup)
    (cluster.data / "postgresql.auto.conf").write_text(
        ""
    )  # in the backup it names the sidecar, and nobody stands there
    with RestoreCommand(cluster, arguments) as command:
        command.recover()
    return cluster, Counter(call.code for call in command.calls)


def end_of_replay(cluster: postgres.Cluster) -> int:
    """Where the old timeline ended for the promoted server: the end of the last record it replayed."""
    new_timeline = max(cluster.wal.glob("*.history"))
    last = new_timeline.read_text().rstrip().splitlines()[-1]
    return programs.parse_lsn(last.split("\t")[1])
