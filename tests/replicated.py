"""A PostgreSQL whose commits wait for keepers, three or another number, as an operator sets it up.

Rules: blocking; whoever waits for something gives up with the sidecar's last lines.
Not here: the single programs (programs.py, postgres.py), assertions.
"""

import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import postgres
import programs
from walkeeper.formats.startup import encode_options
from walkeeper.ids import TenantTimelineId

KEEPERS = 3
LOOKS_MAX = 600  # of LOOK_SECONDS each: what a busy machine needs for anything that is waited for here
NAME = "walkeeper"


@dataclass(slots=True)
class Replicated:
    """A running primary, its sidecar and its keepers."""

    directory: Path
    primary: postgres.Cluster
    keepers: Sequence[programs.Keeper]
    ttid: TenantTimelineId
    sidecar: programs.Program

    @classmethod
    def begin(
        cls,
        directory: Path,
        primary: postgres.Cluster,
        stack: ExitStack,
        *,
        keeper_count: int = KEEPERS,
        keeper_flags: Sequence[str] = (),
        sidecar_flags: Sequence[str] = (),
    ) -> "Replicated":
        """Start keepers and a sidecar for a primary that runs; commits wait for them when this returns."""
        ports = iter(postgres.free_ports(2 * keeper_count))
        keepers = [
            stack.enter_context(
                programs.Keeper.prepare(directory, number, next(ports), next(ports), *keeper_flags)
            )
            for number in range(1, keeper_count + 1)
        ]
        return cls.begin_with(directory, primary, keepers, stack, *sidecar_flags)

    @classmethod
    def begin_with(
        cls,
        directory: Path,
        primary: postgres.Cluster,
        keepers: Sequence[programs.Keeper],
        stack: ExitStack,
        *sidecar_flags: str,
    ) -> "Replicated":
        """As `begin`, with keepers that somebody has prepared."""
        for keeper in keepers:
            keeper.start()
        for keeper in keepers:
            keeper.wait_ready()
        ttid = TenantTimelineId.of_system(primary.system_identifier())
        sidecar = stack.enter_context(new_sidecar(directory / "sidecar.log", primary, keepers, *sidecar_flags))
        scene = cls(directory, primary, keepers, ttid, sidecar)
        sidecar.start()
        primary.configure(synchronous_standby_names=NAME)
        primary.reload()
        scene.wait_sync()
        return scene

    def wait_sync(self) -> None:
        """Return when the primary waits for the sidecar at each commit."""
        query = f"SELECT sync_state FROM pg_stat_replication WHERE application_name = '{NAME}'"
        self.wait_until(lambda: self.primary.sql(query) == "sync", "a synchronous standby")

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        """Return when something has become so; raise ProgramFailed if it does not, or if the sidecar ends."""
        for _ in range(LOOKS_MAX):
            if holds():
                return
            self.sidecar.pause()
        raise programs.ProgramFailed(f"{what} never came\n{self.sidecar.log[-2000:]}")

    def wait_everywhere(self) -> int:
        """Return, when all keepers have all that the idle primary wrote, up to where that is."""
        lsn = programs.parse_lsn(self.primary.flush_lsn())
        self.wait_until(lambda: all(self.flush_lsn(keeper) >= lsn for keeper in self.keepers), "WAL everywhere")
        return lsn

    def flush_lsn(self, keeper: programs.Keeper) -> int:
        return keeper.flush_lsn(str(self.ttid.tenant_id), str(self.ttid.timeline_id))

    def pgbench(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run pgbench to its end, in the cluster's directory."""
        return self.primary.run("pgbench", *self.primary.client_arguments(), *arguments, "postgres")

    def start_sql(self, statement: str) -> "subprocess.Popen[bytes]":
        """Begin a transaction that may never end.  Killing the primary ends it, too."""
        command = [*self.primary.client_arguments(), "-w", "-X", "-c", statement, "postgres"]
        return self.primary.spawn("psql", *command, output=self.directory / "psql.log")

    def keepers_conninfo(self, *keepers: programs.Keeper) -> str:
        """How libpq reaches these keepers, or all, one of them at a time."""
        return keepers_conninfo(keepers or self.keepers, self.ttid)

    def sync_arguments(self) -> list[str]:
        """What `walkeeper sync` has to be told."""
        return ["sync", *keepers_flag(self.keepers), "--system-id", str(self.primary.system_identifier())]


def new_sidecar(
    log_path: Path, primary: postgres.Cluster, keepers: Sequence[programs.Keeper], *more: str
) -> programs.Program:
    """A sidecar that does not run yet."""
    command = [programs.PROGRAM, "propose", "--primary", primary.conninfo(), *keepers_flag(keepers), *more]
    return programs.Program(log_path.stem, command, log_path)


def keepers_conninfo(keepers: Sequence[programs.Keeper], ttid: TenantTimelineId) -> str:
    """How libpq reaches these keepers, the first that answers."""
    parts = {
        "host": ",".join(keeper.host for keeper in keepers),
        "port": ",".join(str(keeper.pg_port) for keeper in keepers),
        "user": "reader",
        "options": encode_options(ttid),
        "connect_timeout": "5",
    }
    return " ".join(f"{key}={postgres.quote_conninfo(value)}" for key, value in parts.items())


def keepers_flag(keepers: Sequence[programs.Keeper]) -> list[str]:
    return ["--keepers", ",".join(keeper.address for keeper in keepers)]
