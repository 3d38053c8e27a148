"""How each fault is done, and undone.

Rules: only processes, disks and wires of the stage are touched.  What was disturbed is given back at the end of a blow;
what a blow leaves behind when it is cut short is killed and unmounted by the stack.
"""

import errno
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import trio

import postgres
import programs
from threaded import blocking
from torture.schedule import Blow, Episode, Kind
from torture.stage import Scene

DELAY_SECONDS = 0.08
LOSSY_DELAY_SECONDS = 0.01
LOSS = 0.03

PRESSES = 3
PRESS_SECONDS = 0.5
"""How often the segment is changed while a disk is full: a keeper has room for the one and the next, and would not notice."""


async def strike_all(scene: Scene, episode: Episode) -> None:
    """Everything of one episode, from the first blow to the end of the last."""
    async with trio.open_nursery() as nursery:
        for blow in episode:
            nursery.start_soon(strike, scene, blow)


async def strike(scene: Scene, blow: Blow) -> None:
    """Do it, and undo it."""
    await trio.sleep(blow.after_seconds)
    with scene.watch.disturbing(blow.keeper):
        if blow.keeper is None:
            await strike_writer(scene, blow)
        elif blow.kind in (Kind.KILL, Kind.TERMINATE, Kind.FREEZE, Kind.WIPE, Kind.FILL):
            await strike_keeper(scene, blow, scene.cluster.keepers[blow.keeper])
        else:
            await strike_wire(scene, blow, blow.keeper)


async def strike_writer(scene: Scene, blow: Blow) -> None:
    """The sidecar, or the database."""
    sidecar, primary = scene.cluster.sidecar, scene.primary
    match blow.kind:
        case Kind.KILL_SIDECAR:
            await blocking(sidecar.kill)
            await trio.sleep(blow.seconds)
            sidecar.start()
        case Kind.FREEZE_SIDECAR:
            await freeze(sidecar, blow.seconds)
        case Kind.KILL_POSTGRES | Kind.STOP_POSTGRES:
            await blocking(primary.kill if blow.kind is Kind.KILL_POSTGRES else lambda: primary.stop("immediate"))
            await trio.sleep(blow.seconds)
            await blocking(primary.start)
        case _:
            raise AssertionError(blow)


async def strike_keeper(scene: Scene, blow: Blow, keeper: programs.Keeper) -> None:
    """A keeper's process, or its disk."""
    match blow.kind:
        case Kind.FREEZE:
            await freeze(keeper, blow.seconds)
            return
        case Kind.FILL:
            await fill(scene, keeper, blow.seconds)
            return
        case Kind.TERMINATE:
            if code := await blocking(keeper.stop):
                raise programs.ProgramFailed(f"{keeper.name} ended with code {code}\n{keeper.log[-2000:]}")
        case Kind.KILL:
            await blocking(keeper.kill)
        case Kind.WIPE:
            await blocking(keeper.kill)
            await blocking(shutil.rmtree, keeper.data)
            keeper.data.mkdir()
        case _:
            raise AssertionError(blow)
    await trio.sleep(blow.seconds)
    keeper.start()
    await blocking(keeper.wait_ready)


async def freeze(program: programs.Program, seconds: float) -> None:
    """It stands still, and its connections stay open."""
    program.signal(signal.SIGSTOP)
    await trio.sleep(seconds)
    program.signal(signal.SIGCONT)


async def fill(scene: Scene, keeper: programs.Keeper, seconds: float) -> None:
    """Not a byte is free on its disk, and it needs some."""
    ballast = keeper.data.parent / "ballast"
    await blocking(take_all, ballast)
    with trio.move_on_after(seconds):
        for _ in range(PRESSES):
            with suppress(postgres.PostgresFailed):  # the database may be gone, too
                await blocking(scene.primary.sql, "SELECT pg_switch_wal()")
            await blocking(take_all, ballast)  # what was freed meanwhile
            await trio.sleep(PRESS_SECONDS)
        await trio.sleep(seconds)
    ballast.unlink()


def take_all(ballast: Path) -> None:
    """Take the last free byte."""
    file = os.open(ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        status = os.statvfs(ballast)
        if free := status.f_bavail * status.f_frsize:
            with suppress(OSError):
                os.posix_fallocate(file, os.fstat(file).st_size, free)
        block = bytes(status.f_frsize)
        while True:
            os.write(file, block)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    finally:
        os.close(file)


async def strike_wire(scene: Scene, blow: Blow, keeper: int) -> None:
    """A keeper's connection to everybody."""
    wire = scene.wires[keeper]
    match blow.kind:
        case Kind.CUT:
            await blocking(wire.cut)
        case Kind.MUTE:
            await blocking(lambda: wire.spoil(loss=1.0))
        case Kind.DEAF:
            await blocking(lambda: wire.spoil(loss_back=1.0))
        case Kind.DELAY:
            await blocking(lambda: wire.spoil(seconds=DELAY_SECONDS))
        case Kind.LOSS:
            bad = {"seconds": LOSSY_DELAY_SECONDS, "loss": LOSS, "loss_back": LOSS}
            await blocking(lambda: wire.spoil(**bad, seed=scene.seed))
        case _:
            raise AssertionError(blow)
    await trio.sleep(blow.seconds)
    await blocking(wire.repair)
