"""Run the demonstration: `python3 noxfile.py -s demo`.

Three keepers, an unmodified PostgreSQL and the sidecar; a standby that reads from the keepers; a load that puts every
acknowledged commit on record; a keeper killed, then the database; the keepers' WAL compared with the database's; then
its disk lost, too.  A new database is restored from the keepers, and the standby is looked at: ends with the count of
what was lost.  Exit code 0 only if that is nothing.
"""

import secrets
import signal
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import trio

import postgres
import programs
from compared_wal import WalDiffers
from demo.compare import compare_all
from demo.ledger import TABLE, Ledger, tell_lost, write
from demo.narrator import Narrator
from demo.restore import end_of_replay, restore
from demo.standby import source_of, start_standby, wait_replayed
from replicated import keepers_conninfo
from threaded import blocking
from walkeeper.ids import TenantId, TenantTimelineId, TimelineId

KEEPERS = 3
WRITERS = 8
STEPS = 10
LIMIT_SECONDS = 120.0

QUIET_SECONDS = 4.0  # of load before the first disaster
DEGRADED_SECONDS = 4.0  # of load with two keepers
LAST_SECONDS = 3.0  # of load with all three again, until the database dies
STREAMING_SECONDS = 20.0
CATCH_UP_SECONDS = 20.0
SYNC_SECONDS = 30.0
LOOK_SECONDS = 0.2

EXPECTED = (programs.ProgramFailed, postgres.PostgresFailed, postgres.PostgresNotFound, WalDiffers)


@dataclass(slots=True)
class Scene:
    """Everyone on stage."""

    work: Path
    say: Narrator
    keepers: list[programs.Keeper]
    sidecar: programs.Program
    primary: postgres.Cluster
    ledger: Ledger
    tenant: str
    timeline: str

    @property
    def addresses(self) -> str:
        """The keepers as the sidecar wants them."""
        return ",".join(keeper.address for keeper in self.keepers)

    @property
    def quorum(self) -> list[str]:
        """What tools have to be told."""
        return ["--keepers", self.addresses, "--tenant", self.tenant, "--timeline", self.timeline]


def prepare(work: Path, say: Narrator, stack: ExitStack) -> Scene:
    """Choose programs, ports and names; nothing runs yet, and whatever will run ends with the stack."""
    primary = stack.enter_context(postgres.Cluster.prepare(work / "primary"))
    tenant, timeline = secrets.token_hex(16), secrets.token_hex(16)
    ports = iter(postgres.free_ports(2 * KEEPERS))
    keepers = [
        stack.enter_context(programs.Keeper.prepare(work, number, next(ports), next(ports)))
        for number in range(1, KEEPERS + 1)
    ]
    command = [programs.PROGRAM, "propose", "--primary", primary.conninfo()]
    command += ["--keepers", ",".join(keeper.address for keeper in keepers)]
    command += ["--tenant", tenant, "--timeline", timeline]
    sidecar = stack.enter_context(programs.Program("the sidecar", command, work / "sidecar.log"))
    ledger = Ledger(work / "acknowledged.txt")
    ledger.path.touch()
    return Scene(work, say, keepers, sidecar, primary, ledger, tenant, timeline)


async def story(scene: Scene, stack: ExitStack) -> int:
    """The whole demonstration; the exit code."""
    scene.say.step("three keepers, one PostgreSQL, one sidecar")
    await start_keepers(scene)
    await start_primary(scene)
    await start_sidecar(scene)
    backup = await take_backup(scene)
    standby = await follow(scene, backup, stack)
    async with trio.open_nursery() as nursery:
        await load_and_disasters(scene, standby, nursery)
    await compare_and_delete(scene)
    end_lsn = await sync_keepers(scene)
    restored = await restore_database(scene, backup, end_lsn, stack)
    await wait_replayed(standby, end_lsn)
    return await count(scene, restored, standby)


async def start_keepers(scene: Scene) -> None:
    """All three, each with an empty data directory."""
    for keeper in scene.keepers:
        keeper.start()
    for keeper in scene.keepers:
        await blocking(keeper.wait_ready)
        scene.say.happens(f"{keeper.name} listens on {keeper.address}")


async def start_primary(scene: Scene) -> None:
    """PostgreSQL with its own defaults; what the sidecar asks for is one setting."""
    primary = scene.primary
    await blocking(primary.initdb)
    primary.configure(max_slot_wal_keep_size="1GB")
    await blocking(primary.start)
    await blocking(primary.sql, TABLE)
    version = await blocking(primary.sql, "SHOW server_version")
    scene.say.happens(f"PostgreSQL {version} runs on port {primary.port}, unmodified, fsync on")


async def start_sidecar(scene: Scene) -> None:
    """The sidecar streams; then PostgreSQL is told to wait for it at each COMMIT."""
    scene.sidecar.start()
    await until(scene, "state = 'streaming'")
    statement = "ALTER SYSTEM SET synchronous_standby_names = 'walkeeper'"
    await blocking(scene.primary.sql, statement)
    await blocking(scene.primary.reload)
    await until(scene, "sync_state = 'sync'")
    scene.say.happens(f"walkeeper propose streams to {scene.addresses}")
    scene.say.proved("a COMMIT now waits until two of three keepers have fsynced it")


async def until(scene: Scene, condition: str) -> None:
    """Wait until the sidecar stands in pg_stat_replication as it should."""
    query = f"SELECT count(*) FROM pg_stat_replication WHERE application_name = 'walkeeper' AND {condition}"
    with trio.move_on_after(STREAMING_SECONDS):
        while scene.sidecar.is_running:
            if await blocking(scene.primary.sql, query) == "1":
                return
            await trio.sleep(LOOK_SECONDS)
    raise programs.ProgramFailed(f"the sidecar never came to {condition}\n{scene.sidecar.log[-2000:]}")


async def take_backup(scene: Scene) -> Path:
    """A base backup without any WAL in it: all that follows has to come from the keepers."""
    scene.say.step("a base backup, without WAL")
    backup = scene.work / "backup"
    await blocking(lambda: scene.primary.base_backup(backup, with_wal=False))
    size = sum(path.stat().st_size for path in backup.rglob("*") if path.is_file())
    scene.say.happens(f"pg_basebackup -X none: {size / 2**20:.0f} MiB")
    return backup


async def follow(scene: Scene, backup: Path, stack: ExitStack) -> postgres.Cluster:
    """A hot standby that has never heard of the primary."""
    scene.say.step("a stock standby that reads from the keepers")
    ttid = TenantTimelineId(TenantId.parse(scene.tenant), TimelineId.parse(scene.timeline))
    conninfo = keepers_conninfo(scene.keepers, ttid)
    standby = await blocking(start_standby, backup, scene.work / "standby", scene.primary.binaries, conninfo)
    stack.enter_context(standby)
    source = await blocking(source_of, standby, scene.keepers)
    scene.say.happens(f"it takes queries on port {standby.port}, and reads from {source.name}")
    return standby


async def load_and_disasters(scene: Scene, standby: postgres.Cluster, nursery: trio.Nursery) -> None:
    """Writers that never stop, a keeper that dies and returns, and the end of the database."""
    say, ledger = scene.say, scene.ledger
    say.step(f"{WRITERS} clients commit, one row a transaction")
    ledger.watch_from_now()
    for writer in range(1, WRITERS + 1):
        nursery.start_soon(write, scene.primary, writer, ledger)
    await watch(scene, QUIET_SECONDS)
    say.proved(f"{ledger.count} commits acknowledged and on record in {ledger.path.name}")

    say.step("the keeper dies that the standby reads from")
    victim = await blocking(source_of, standby, scene.keepers)
    before = ledger.count
    ledger.watch_from_now()
    await blocking(victim.kill)
    say.happens(f"SIGKILL for {victim.name}")
    await watch(scene, DEGRADED_SECONDS)
    if ledger.count == before:
        raise programs.ProgramFailed("no commit was acknowledged with two of three keepers")
    say.proved(f"{ledger.count - before} more commits; the longest pause was {ledger.longest_pause * 1000:.0f} ms")
    present = programs.parse_lsn(await blocking(scene.primary.flush_lsn))
    await wait_replayed(standby, present)
    source = await blocking(source_of, standby, scene.keepers)
    say.proved(f"the standby reads from {source.name} now, and has replayed {programs.format_lsn(present)}")

    say.step("it returns and catches up")
    await return_of_the_keeper(scene, victim)
    await watch(scene, LAST_SECONDS)

    say.step("the database dies")
    await blocking(scene.primary.kill)
    await blocking(scene.sidecar.kill)
    say.happens("SIGKILL for PostgreSQL and the sidecar under load")
    say.proved(f"{ledger.count} commits had been acknowledged until then")


async def compare_and_delete(scene: Scene) -> None:
    """What the keepers have is what the primary wrote; then they are the only ones that have it."""
    scene.say.step("the keepers' segments against the database's, before its disk dies, too")
    await blocking(compare_all, scene.primary, scene.keepers, scene.tenant, scene.timeline, scene.say)
    scene.primary.delete_data()
    scene.say.happens("the data directory is deleted: only the keepers have all that was acknowledged")


async def watch(scene: Scene, seconds: float) -> None:
    """Let the load go on, and show that it does."""
    end = trio.current_time() + seconds
    while trio.current_time() < end:
        await trio.sleep(LOOK_SECONDS)
        scene.say.progress(f"{scene.ledger.count} commits acknowledged")


async def return_of_the_keeper(scene: Scene, keeper: programs.Keeper) -> None:
    """Start it on the directory it left, and wait until it holds what the others held at that moment."""
    names = (scene.tenant, scene.timeline)
    goal = max([await blocking(each.flush_lsn, *names) for each in scene.keepers if each is not keeper])
    keeper.start()
    await blocking(keeper.wait_ready)
    behind = goal - await blocking(keeper.flush_lsn, *names)
    scene.say.happens(f"{keeper.name} runs again, {max(behind, 0) / 2**20:.1f} MiB behind")
    with trio.move_on_after(CATCH_UP_SECONDS) as scope:
        while await blocking(keeper.flush_lsn, *names) < goal:
            await trio.sleep(LOOK_SECONDS)
            scene.say.progress(f"{scene.ledger.count} commits acknowledged")
    if scope.cancelled_caught:
        raise programs.ProgramFailed(
            f"{keeper.name} did not catch up in {CATCH_UP_SECONDS} s\n{keeper.log[-2000:]}"
        )
    scene.say.proved(f"{keeper.name} holds everything up to {programs.format_lsn(goal)}")


async def sync_keepers(scene: Scene) -> int:
    """Find the quorum's end of WAL; every older writer is fenced from here on."""
    scene.say.step("walkeeper sync")
    printed = await blocking(lambda: programs.run_tool("sync", *scene.quorum, seconds=SYNC_SECONDS))
    end_lsn = programs.parse_lsn(printed.strip().splitlines()[-1])
    scene.say.proved(f"a majority holds the same WAL up to {programs.format_lsn(end_lsn)}")
    return end_lsn


async def restore_database(scene: Scene, backup: Path, end_lsn: int, stack: ExitStack) -> postgres.Cluster:
    """Base backup + restore_command -> a database."""
    scene.say.step("a new database, with restore_command = 'walkeeper fetch %f %p'")
    place, binaries = scene.work / "restored", scene.primary.binaries
    restored, codes = await blocking(restore, backup, place, binaries, scene.quorum)
    stack.enter_context(restored)
    scene.say.happens(f"{codes[0]} segments fetched from the keepers; {codes[1]} files that do not exist")
    reached = end_of_replay(restored)
    if reached != end_lsn:
        wanted, got = programs.format_lsn(end_lsn), programs.format_lsn(reached)
        raise programs.ProgramFailed(f"replay ended at {got}, not at {wanted}")
    scene.say.proved(f"replay ended exactly at {programs.format_lsn(reached)}, and the database takes writes")
    return restored


async def count(scene: Scene, restored: postgres.Cluster, standby: postgres.Cluster) -> int:
    """The verdict."""
    query = "SELECT writer, n, amount FROM ledger"
    rows, standby_rows = await blocking(restored.rows, query), await blocking(standby.rows, query)
    acknowledged = scene.ledger.read()
    complete = tell_lost(scene.say, acknowledged, rows, standby_rows)
    scene.say.happens("nothing was lost" if complete else "WAL is missing")
    return 0 if complete else 1


async def run(stack: ExitStack) -> int:
    """The story within its limit; whatever runs in the end is killed by the stack."""
    say = Narrator(STEPS)
    work = stack.enter_context(postgres.workspace())
    scene = await blocking(prepare, work, say, stack)
    with trio.move_on_after(LIMIT_SECONDS):
        return await story(scene, stack)
    raise programs.ProgramFailed(f"the demo took longer than {LIMIT_SECONDS:.0f} s")


def leaves_of(error: BaseException) -> list[BaseException]:
    """A group's errors, however deep; an error itself."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in leaves_of(inner)]


def exit_code(error: BaseException) -> int:
    """Say what went wrong in a line or two; what is a fault of the demo itself keeps its traceback."""
    leaves = leaves_of(error)
    if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
        return 130
    if not all(isinstance(leaf, EXPECTED) for leaf in leaves):
        raise error
    print("\ndemo failed: " + "\n".join(str(leaf) for leaf in leaves), file=sys.stderr)
    return 1


def main() -> int:
    """The exit code: 0 nothing lost, 1 something lost or a step that failed, 130 interrupted."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack:
        try:
            return trio.run(run, stack)
        except (KeyboardInterrupt, BaseExceptionGroup, *EXPECTED) as error:
            return exit_code(error)


if __name__ == "__main__":
    sys.exit(main())
