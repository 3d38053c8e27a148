"""A stock hot standby that knows the keepers only."""

from collections.abc import Sequence
from pathlib import Path

import trio

import postgres
import programs

FOLLOW_SECONDS = 20.0
LOOK_SECONDS = 0.1


def start_standby(
    backup: Path, directory: Path, binaries: postgres.Binaries, conninfo: str, **settings: str | int
) -> postgres.Cluster:
    """A server from the base backup that streams from whoever ``conninfo`` reaches; it takes queries when this returns."""
    standby = postgres.Cluster.prepare(directory, binaries)
    standby.adopt_backup(backup)
    standby.follow(conninfo, synchronous_standby_names="", wal_retrieve_retry_interval="200ms", **settings)
    standby.start()
    return standby


def replayed_lsn(standby: postgres.Cluster) -> int:
    """Up to where it has replayed."""
    return programs.parse_lsn(standby.sql("SELECT coalesce(pg_last_wal_replay_lsn(), '0/0')"))


def source_of(standby: postgres.Cluster, keepers: Sequence[programs.Keeper]) -> programs.Keeper:
    """Which of the keepers it reads from."""
    port = standby.sql("SELECT sender_port FROM pg_stat_wal_receiver")
    for keeper in keepers:
        if str(keeper.pg_port) == port:
            return keeper
    raise programs.ProgramFailed(f"the standby reads from nobody\n{standby.log[-2000:]}")


async def wait_replayed(standby: postgres.Cluster, lsn: int) -> None:
    """Return when it has replayed that much; raise ProgramFailed if it does not.

    Cancellation: at any time.
    """
    with trio.move_on_after(FOLLOW_SECONDS):
        while await trio.to_thread.run_sync(replayed_lsn, standby) < lsn:  # noqa: ASYNC110  another program
            await trio.sleep(LOOK_SECONDS)
        return
    raise programs.ProgramFailed(
        f"the standby did not come to {programs.format_lsn(lsn)} in {FOLLOW_SECONDS} s\n{standby.log[-2000:]}"
    )
