"""Everybody on stage, and how they get there.

Purpose: three keepers with what the machine gives them of disks and networks, PostgreSQL, the sidecar, a load, two readers.
Rules: whatever runs or is mounted ends with the stack.
"""

import subprocess
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import trio

import postgres
import programs
from demo.ledger import TABLE, Ledger, write
from demo.narrator import Narrator
from demo.standby import start_standby
from replicated import Replicated
from torture import private
from torture.network import Wire, wires
from torture.schedule import KEEPERS
from torture.watch import Watch

SEGMENT_MIB = 4  # small, so that many are begun; not too small, for each is fetched by a process
WRITERS = 6
REST_SECONDS = 0.015  # between two commits of one writer: WAL grows by some MiB a minute, and has to be restored
AGAIN_SECONDS = 0.2  # until a writer tries to connect again

DISK_MIB_LEAST = 256
DISK_MIB_A_MINUTE = 160

PRIMARY: dict[str, str | int] = {
    "max_slot_wal_keep_size": "2GB",
    "wal_keep_size": 0,  # keepers that lag are fed by each other, not by the primary
    "min_wal_size": "8MB",
    "max_wal_size": "24MB",
    "checkpoint_timeout": "30s",
}
KEEPER_FLAGS = ["--wal-sender-timeout", "10s"]
STANDBY = {"wal_receiver_timeout": "5s", "wal_receiver_status_interval": "1s"}
RECEIVER = " tcp_user_timeout=5000 keepalives_idle=2 keepalives_interval=1 keepalives_count=3"
"""pg_receivewal has no time limit of its own: without these it waits for a keeper that is cut off."""


@dataclass(slots=True)
class Scene:
    """Everyone on stage."""

    work: Path
    say: Narrator
    seed: int
    cluster: Replicated
    backup: Path
    standby: postgres.Cluster
    received: Path
    receiver: "subprocess.Popen[bytes]"
    ledger: Ledger
    watch: Watch
    wires: list[Wire] = field(default_factory=list)

    @property
    def primary(self) -> postgres.Cluster:
        """The database."""
        return self.cluster.primary

    @property
    def names(self) -> tuple[str, str]:
        """Tenant and timeline, as the keepers' directories are called."""
        return str(self.cluster.ttid.tenant_id), str(self.cluster.ttid.timeline_id)

    @property
    def quorum(self) -> list[str]:
        """What tools have to be told."""
        addresses = ",".join(keeper.address for keeper in self.cluster.keepers)
        return ["--keepers", addresses, "--tenant", self.names[0], "--timeline", self.names[1]]


def begin(work: Path, say: Narrator, means: private.Means, minutes: float, seed: int, stack: ExitStack) -> Scene:
    """Start everything; blocks for some seconds."""
    primary = stack.enter_context(postgres.Cluster.prepare(work / "primary"))
    wired = [] if means.no_networks else stack.enter_context(wires(work, KEEPERS))
    keepers = [
        stack.enter_context(keeper)
        for keeper in prepare_keepers(work, wired, disks=means.no_disks is None, minutes=minutes, stack=stack)
    ]
    primary.initdb(segment_mib=SEGMENT_MIB)
    primary.configure(**PRIMARY)
    primary.start()
    primary.sql(TABLE)
    cluster = Replicated.begin_with(work, primary, keepers, stack)
    backup = primary.base_backup(work / "backup", with_wal=False)
    standby = stack.enter_context(
        start_standby(backup, work / "standby", primary.binaries, cluster.keepers_conninfo(), **STANDBY)
    )
    received = work / "received"
    receiver = start_receiver(cluster, received, stack)
    ledger = Ledger(work / "acknowledged.txt")
    ledger.path.touch()
    watch = Watch(ledger, keepers, cluster.sidecar)
    return Scene(work, say, seed, cluster, backup, standby, received, receiver, ledger, watch, wired)


def prepare_keepers(
    work: Path, wired: list[Wire], *, disks: bool, minutes: float, stack: ExitStack
) -> list[programs.Keeper]:
    """Each on its own disk and behind its own wire, where there are such."""
    ports = iter(postgres.free_ports(2 * KEEPERS))
    keepers = []
    for number in range(1, KEEPERS + 1):
        place = work / f"disk{number}"
        if disks:
            size = DISK_MIB_LEAST + int(minutes * DISK_MIB_A_MINUTE) << 20
            stack.enter_context(private.mounted(place, size))
        wire = wired[number - 1] if wired else None
        host = wire.host if wire else "127.0.0.1"
        keeper = programs.Keeper.prepare(place, number, next(ports), next(ports), *KEEPER_FLAGS, host=host)
        keeper.log_path = work / f"keeper{number}.log"  # a full disk shall not hide what is said about it
        if wire:
            keeper.command = wire.place.inside(*keeper.command)
        keepers.append(keeper)
    return keepers


def start_receiver(cluster: Replicated, target: Path, stack: ExitStack) -> "subprocess.Popen[bytes]":
    """pg_receivewal, from the first keeper that answers; it tries again by itself."""
    target.mkdir()
    cluster.primary.account.own(target)
    arguments = ["-D", str(target), "-d", cluster.keepers_conninfo() + RECEIVER, "-w", "-s", "1"]
    process = cluster.primary.spawn("pg_receivewal", *arguments, output=cluster.directory / "pg_receivewal.log")
    stack.callback(process.wait, programs.END_SECONDS)
    stack.callback(process.kill)
    return process


async def keep_writing(scene: Scene, writer: int) -> None:
    """Commit as long as there is a server, and try again when there is none.

    Cancellation: at any time.
    """
    while True:
        await write(scene.primary, writer, scene.ledger, rest_seconds=REST_SECONDS)
        await trio.sleep(AGAIN_SECONDS)
