"""Torture real processes: `python3 noxfile.py -s torture -- [--minutes M] [--seed S]`.

Three keepers, an unmodified PostgreSQL whose commits wait for them, the sidecar, a load that puts every acknowledged commit
on record, a standby and pg_receivewal that read from keepers; then faults, drawn from the seed, until the time is over.
At the end everything must have become well, nothing may be lost with the database's disk, and nobody may have complained.
Exit code 0 only then; 1 if anything was wrong, and the logs are kept; 130 when interrupted.
"""

import argparse
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import trio

import postgres
import programs
from compared_wal import WalDiffers
from demo.__main__ import leaves_of
from demo.narrator import Narrator
from threaded import blocking
from torture.faults import strike_all
from torture.private import Means, become_private, find_means
from torture.schedule import Episode, Kind, describe, possible_kinds, row_of, schedule
from torture.stage import WRITERS, Scene, begin, keep_writing
from torture.verdict import check_healthy, compare_keepers, inspect_daemons, sync_and_count, wait_settled

STEPS = 5
QUIET_SECONDS = 2.0  # of load before the first fault, and after the last
BETWEEN_SECONDS = 0.7  # of load between two episodes
LOOK_SECONDS = 0.02
SET_UP_AND_END_SECONDS = 300.0
"""What everything but the faults may take; on a quiet machine it is less than one."""

EXPECTED = (programs.ProgramFailed, postgres.PostgresFailed, postgres.PostgresNotFound, WalDiffers)


@dataclass(slots=True)
class Tally:
    """What happened, by kind: how often, the longest pause of commits, and the longest in which nobody was disturbed whom
    commits need."""

    rows: dict[str, tuple[int, float, float]] = field(default_factory=dict)

    def add(self, row: str, pause: float, able_pause: float) -> None:
        times, longest, able_longest = self.rows.get(row, (0, 0.0, 0.0))
        self.rows[row] = (times + 1, max(longest, pause), max(able_longest, able_pause))

    def __str__(self) -> str:
        wide = max(len(row) for row in (*self.rows, "fault"))
        lines = [f"   {'fault':<{wide}}  times  longest pause  without excuse"]
        for row, (times, pause, able_pause) in sorted(self.rows.items()):
            lines.append(f"   {row:<{wide}}  {times:>5}  {pause:>11.2f} s  {able_pause:>12.2f} s")
        return "\n".join(lines)


async def story(scene: Scene, minutes: float, kinds: Sequence[Kind], tally: Tally, stack: ExitStack) -> bool:
    """Everything from the first commit on; whether all is well."""
    scene.say.step(f"{WRITERS} clients commit, and everything goes wrong for {minutes:g} minutes")
    await under_load(scene, minutes, kinds, tally)
    scene.say.step("everything becomes well")
    await check_healthy(scene)
    await last_burst(scene)
    scene.say.step("the database is lost under load")
    await blocking(compare_keepers, scene)
    scene.primary.delete_data()
    scene.say.step("a new one, from a base backup and the keepers")
    complete = await sync_and_count(scene, stack)
    scene.say.happens("nothing was lost" if complete else "WAL is missing")
    wrong = inspect_daemons(scene)
    for line in wrong:
        scene.say.happens(f"WRONG: {line}")
    return complete and not wrong


async def under_load(scene: Scene, minutes: float, kinds: Sequence[Kind], tally: Tally) -> None:
    """Writers that never stop, and one episode after the other."""
    async with trio.open_nursery() as nursery:
        scene.watch.begin_episode()
        nursery.start_soon(scene.watch.look_on)
        for writer in range(1, WRITERS + 1):
            nursery.start_soon(keep_writing, scene, writer)
        await trio.sleep(QUIET_SECONDS)
        end = trio.current_time() + minutes * 60
        for episode in schedule(scene.seed, kinds):
            if trio.current_time() >= end:
                break
            await live_through(scene, episode, tally)
        await trio.sleep(QUIET_SECONDS)
        nursery.cancel_scope.cancel()


async def live_through(scene: Scene, episode: Episode, tally: Tally) -> None:
    """One episode, until everybody is well again."""
    before = scene.ledger.count
    scene.say.happens(describe(episode))
    scene.watch.begin_episode()
    await strike_all(scene, episode)
    count = scene.ledger.count
    while scene.ledger.count == count:  # noqa: ASYNC110  other programs; the watch knows for how long that may be
        await trio.sleep(LOOK_SECONDS)
    await wait_settled(scene)
    pause, able_pause = scene.ledger.longest_pause, scene.watch.able_pause
    await trio.sleep(BETWEEN_SECONDS)
    tally.add(row_of(episode), pause, able_pause)
    scene.say.happens(f"   {scene.ledger.count - before} commits; the longest pause was {pause:.2f} s")


async def last_burst(scene: Scene) -> None:
    """Writers again, and the end of PostgreSQL and of the sidecar in the middle of it."""
    async with trio.open_nursery() as nursery:
        before = scene.ledger.count
        for writer in range(1, WRITERS + 1):
            nursery.start_soon(keep_writing, scene, writer)
        await trio.sleep(QUIET_SECONDS)
        await blocking(scene.primary.kill)
        await blocking(scene.cluster.sidecar.kill)
        nursery.cancel_scope.cancel()
    scene.say.happens(f"{scene.ledger.count - before} more commits; SIGKILL for PostgreSQL and the sidecar")


async def run(stack: ExitStack, work: Path, minutes: float, seed: int) -> bool:
    """Set up, and the story within its limit."""
    say = Narrator(STEPS)
    means = await blocking(find_means)
    kinds = possible_kinds(disks=means.no_disks is None, networks=means.no_networks is None)
    say.step(f"seed {seed}")
    tell_kinds(say, kinds, means)
    scene = await blocking(begin, work, say, means, minutes, seed, stack)
    version = await blocking(scene.primary.sql, "SHOW server_version")
    say.happens(f"three keepers, the sidecar, PostgreSQL {version}, a standby and pg_receivewal run")
    tally = Tally()
    try:
        with trio.move_on_after(minutes * 60 + SET_UP_AND_END_SECONDS):
            return await story(scene, minutes, kinds, tally, stack)
        raise programs.ProgramFailed(
            f"all that took longer than {minutes:g} minutes and {SET_UP_AND_END_SECONDS} s"
        )
    finally:
        print(f"\n{tally}\n", flush=True)


def tell_kinds(say: Narrator, kinds: Sequence[Kind], means: Means) -> None:
    """What is possible here, and why the rest is not."""
    say.happens(f"faults: {', '.join(kind.value for kind in kinds)}")
    for missing, why in ((means.no_disks, "no full disks"), (means.no_networks, "no partitions and no delay")):
        if missing is not None:
            say.happens(f"{why}: {missing}")


def keep_logs(work: Path) -> Path:
    """Copies of what everybody said, in a directory that stays."""
    kept = Path(tempfile.mkdtemp(prefix="walkeeper-torture-"))
    for path in (*work.glob("*.log"), *work.glob("*.txt"), *work.glob("*/server.log")):
        shutil.copyfile(path, kept / "-".join(path.relative_to(work).parts))
    return kept


def attempt(stack: ExitStack, minutes: float, seed: int) -> int:
    """The exit code; the logs are kept unless it is 0."""
    work = stack.enter_context(postgres.workspace())
    code = 1
    try:
        if trio.run(run, stack.enter_context(ExitStack()), work, minutes, seed):
            code = 0
    except (KeyboardInterrupt, BaseExceptionGroup, *EXPECTED) as error:
        leaves = leaves_of(error)
        if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
            code = 130
        elif not all(isinstance(leaf, EXPECTED) for leaf in leaves):
            raise
        else:
            print("torture failed: " + "\n".join(str(leaf) for leaf in leaves), file=sys.stderr)
    finally:
        if code:
            print(f"seed {seed}; the logs are in {keep_logs(work)}", file=sys.stderr)
    return code


def main() -> int:
    """The exit code: 0 all is well, 1 it is not, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="torture", description="Real faults on real processes.")
    parser.add_argument("--minutes", type=float, default=2.0, help="how long things go wrong")
    parser.add_argument("--seed", type=int, default=None, help="what goes wrong is a function of it")
    given = parser.parse_args()
    become_private()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    seed = secrets.randbelow(1 << 32) if given.seed is None else given.seed
    with ExitStack() as stack:
        return attempt(stack, given.minutes, seed)


if __name__ == "__main__":
    sys.exit(main())
