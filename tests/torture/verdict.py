"""The end: faults have stopped, and all must be well; then the database is lost, and nothing may be.

Rules: every check raises ProgramFailed, or WalDiffers or PostgresFailed, with what it saw.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import trio

import postgres
import programs
from compared_wal import WalDiffers, compare_wal
from demo.compare import described
from demo.ledger import tell_lost
from demo.restore import end_of_replay, restore
from demo.standby import wait_replayed
from threaded import blocking
from torture.stage import SEGMENT_MIB, Scene
from torture.watch import complaints, excesses
from walkeeper.formats.segments import PARTIAL_SUFFIX, parse_segment_name

SETTLE_SECONDS = 45.0
"""For a keeper that was wiped, or lay behind, to have everything and to be whole: some hundred MiB from another one."""

FOLLOW_SECONDS = 30.0  # for readers: a pause of theirs, five seconds, comes on top of finding out who is gone
SYNC_SECONDS = 60.0
LOOK_SECONDS = 0.1
QUIET_SECONDS = 0.5
QUIET_LOOKS_MAX = 20
SEGMENT_BYTES = SEGMENT_MIB << 20


async def wait_settled(scene: Scene) -> int:
    """Return, when every keeper is whole and has what the primary has flushed by now, up to where that is."""
    goal = programs.parse_lsn(await blocking(scene.primary.flush_lsn))
    lacking: list[str] = []
    with trio.move_on_after(SETTLE_SECONDS):
        while True:
            lacking = await blocking(who_lacks, scene, goal)
            if not lacking:
                return goal
            await trio.sleep(LOOK_SECONDS)
    raise programs.ProgramFailed(
        f"not everywhere in {SETTLE_SECONDS} s: {programs.format_lsn(goal)}; {'; '.join(lacking)}\n"
        f"{scene.cluster.sidecar.log[-2000:]}"
    )


def who_lacks(scene: Scene, goal: int) -> list[str]:
    """The keepers that do not have it, or are not whole, in words."""
    tenant, timeline = scene.names
    lacking = []
    for keeper in scene.cluster.keepers:
        status = keeper.ask(f"/v1/tenant/{tenant}/timeline/{timeline}")
        if status is None:
            lacking.append(f"{keeper.name} says nothing")
        elif programs.parse_lsn(status["flush_lsn"]) < goal or not status["is_whole"]:
            lacking.append(f"{keeper.name} has {status['flush_lsn']}, whole: {status['is_whole']}")
    return lacking


async def check_healthy(scene: Scene) -> None:
    """Nobody writes any more: keepers and readers have the same, all of it."""
    with trio.move_on_after(SETTLE_SECONDS):
        while True:  # an idle primary, too, writes a record now and then
            goal = await wait_settled(scene)
            ends = [await blocking(scene.cluster.flush_lsn, keeper) for keeper in scene.cluster.keepers]
            if len(set(ends)) == 1:
                break
            await trio.sleep(LOOK_SECONDS)
        scene.say.proved(f"every keeper is whole and has everything up to {programs.format_lsn(goal)}")
        await wait_replayed(scene.standby, goal)
        scene.say.proved("so has the standby that reads from them")
        await wait_received(scene, goal)
        return
    raise programs.ProgramFailed(f"the keepers' WAL did not come to the same end in {SETTLE_SECONDS} s")


async def wait_received(scene: Scene, goal: int) -> None:
    """Return when pg_receivewal has the keepers' WAL, byte for byte."""
    different = "nothing"
    with trio.move_on_after(FOLLOW_SECONDS):
        while True:
            if scene.receiver.poll() is not None:
                raise programs.ProgramFailed(f"pg_receivewal ended with code {scene.receiver.returncode}")
            try:
                equal = await blocking(compare_received, scene, goal)
            except WalDiffers as error:
                different = str(error)
                await trio.sleep(LOOK_SECONDS)
                continue
            scene.say.proved(f"what pg_receivewal has is the keepers' WAL byte for byte, {equal / 2**20:.1f} MiB")
            return
    raise programs.ProgramFailed(f"pg_receivewal did not follow in {FOLLOW_SECONDS} s: {different}")


def compare_received(scene: Scene, goal: int) -> int:
    """How many bytes are the same; raises WalDiffers where one is not, or is missing."""
    keeper, *_ = scene.cluster.keepers
    theirs = {plain_name(path): path for path in keeper.segments(*scene.names)}
    received = sorted(scene.received.iterdir())
    if not received:
        raise WalDiffers("nothing was received")
    wanted = [name for name in sorted(theirs) if name >= plain_name(received[0])]
    if [plain_name(path) for path in received] != [name for name in wanted if begin_of(name) < goal]:
        raise WalDiffers(f"{len(received)} segments were received, from {received[0].name} to {received[-1].name}")
    return sum(compare_files(path, theirs[plain_name(path)], goal) for path in received)


def compare_files(ours: Path, theirs: Path, end_lsn: int) -> int:
    """How many bytes of one segment, up to an LSN, are the same: all, or WalDiffers is raised."""
    length = min(SEGMENT_BYTES, end_lsn - begin_of(ours.name))
    if ours.read_bytes()[:length] != theirs.read_bytes()[:length]:
        raise WalDiffers(f"{ours} differs from {theirs} in its first {length} bytes")
    return length


def plain_name(path: Path) -> str:
    return path.name.removesuffix(PARTIAL_SUFFIX)


def begin_of(name: str) -> int:
    """Where a segment begins."""
    parsed = parse_segment_name(name.removesuffix(PARTIAL_SUFFIX), SEGMENT_BYTES)
    assert parsed is not None, name
    return parsed.segno * SEGMENT_BYTES


def compare_keepers(scene: Scene) -> None:
    """What keepers have is the same, is what the primary has left of it, and can be read; the writer is gone."""
    ends, files = [], []
    for keeper in scene.cluster.keepers:
        ends.append(wait_quiet(scene, keeper))
        files.append(keeper.segments(*scene.names))
        found = compare_wal(scene.primary, files[-1], ends[-1], SEGMENT_BYTES)
        scene.say.happens(f"{keeper.name}: {described(found)}, up to {programs.format_lsn(ends[-1])}")
    common = min(ends)
    equal = sum(
        compare_files(ours, theirs, common)
        for first, *others in zip(*files, strict=False)
        if begin_of(first.name) < common
        for ours, theirs in ((first, other) for other in others if same_segment(first, other))
    )
    scene.say.proved(f"the keepers' WAL is the same byte for byte, {equal / 2 / 2**20:.1f} MiB on each")


def wait_quiet(scene: Scene, keeper: programs.Keeper) -> int:
    """Return when the last that the writer sent is on disk, up to where that is.

    That no writer is connected cannot be waited for: of a connection that ended behind a cut wire the keeper does not hear.
    """
    before = keeper.flush_lsn(*scene.names)
    for _ in range(QUIET_LOOKS_MAX):
        keeper.pause(QUIET_SECONDS)
        end_lsn = keeper.flush_lsn(*scene.names)
        if end_lsn == before:
            return end_lsn
        before = end_lsn
    raise programs.ProgramFailed(f"{keeper.name} still writes\n{keeper.log[-2000:]}")


def same_segment(ours: Path, theirs: Path) -> bool:
    """That they are one segment's, else raise WalDiffers: keepers begin with the same one."""
    if plain_name(ours) != plain_name(theirs):
        raise WalDiffers(f"{ours} stands where {theirs} stands on another keeper")
    return True


async def sync_and_count(scene: Scene, stack: ExitStack) -> bool:
    """From a base backup and the keepers to a database that has everything; whether it has."""
    printed = await blocking(lambda: programs.run_tool("sync", *scene.quorum, seconds=SYNC_SECONDS))
    end_lsn = programs.parse_lsn(printed.strip().splitlines()[-1])
    scene.say.proved(f"walkeeper sync: a majority has the same WAL up to {programs.format_lsn(end_lsn)}")
    place, binaries = scene.work / "restored", scene.primary.binaries
    restored, codes = await blocking(restore, scene.backup, place, binaries, scene.quorum)
    stack.enter_context(restored)
    reached = end_of_replay(restored)
    if reached != end_lsn:
        wanted, got = programs.format_lsn(end_lsn), programs.format_lsn(reached)
        raise programs.ProgramFailed(f"replay ended at {got}, not at {wanted}")
    scene.say.proved(f"a new database has fetched {codes[0]} segments and replayed exactly that much")
    await wait_replayed(scene.standby, end_lsn)
    return await count(scene, restored)


async def count(scene: Scene, restored: postgres.Cluster) -> bool:
    """Acknowledged, recovered, lost."""
    query = "SELECT writer, n, amount FROM ledger"
    acknowledged = scene.ledger.read()
    rows, standby_rows = await blocking(restored.rows, query), await blocking(scene.standby.rows, query)
    return tell_lost(scene.say, acknowledged, rows, standby_rows)


def inspect_daemons(scene: Scene) -> list[str]:
    """What was wrong with the daemons, apart from WAL: errors in their logs, memory, files; nothing if all is well."""
    wrong = []
    daemons: Sequence[programs.Program] = (*scene.cluster.keepers, scene.cluster.sidecar)
    for daemon in daemons:
        wrong += [f"{daemon.name}: {line}" for line in complaints(daemon.log)]
    for server, name in ((scene.primary, "PostgreSQL"), (scene.standby, "the standby")):
        wrong += [f"{name}: {line}" for line in server.log.splitlines() if " PANIC:" in line]
    for name, peak in sorted(scene.watch.peaks.items()):
        scene.say.happens(f"{name}: at most {peak.memory_kib / 1024:.0f} MiB, {peak.files} open files")
    return wrong + excesses(scene.watch.peaks)
