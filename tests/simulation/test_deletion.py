"""A timeline that is deleted is there as it was, or gone: whatever is cancelled, and whenever the power is lost.

Gone means from memory and from the disk, and a writer that comes later finds a tombstone.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import pytest
import trio
import trio.testing

from keeping import DATA, SERVER, START, TTID, new_disk
from promises import DIRECTORY, Promises
from simulation.test_power_loss import check, check_new_leader, say
from stories import GREETING, led_by
from tortured import JOB_SECONDS, KEEPER, Keeper, Writer, check_disk_agrees, check_serves_on, keeper_on
from walkeeper.errors import Deleted, NotMadeAgain, ServerError, TimelineUnavailable
from walkeeper.formats.proposer import encode_proposer_message
from walkeeper.ids import NodeId
from walkeeper.links.keeper import PROTOCOL_VERSION, connect_keeper, start_push
from walkeeper.membership import Configuration, Generation, Member
from walkeeper.testing.cancellation import Victim, cancel_everywhere
from walkeeper.testing.memory_disk import MemoryDisk
from walkeeper.testing.power_loss import Power, lose_power_everywhere
from walkeeper.timeline.registry import Client

OTHERS = Configuration(Generation(5), (Member(NodeId(77), "other", 5454),))

Deletion = Callable[[Keeper], Awaitable[object]]


async def delete(keeper: Keeper) -> None:
    await keeper.timelines.delete(TTID)


async def delete_tenant(keeper: Keeper) -> None:
    await keeper.timelines.delete_tenant(TTID.tenant_id)


async def exclude(keeper: Keeper) -> None:
    await keeper.timelines.delete(TTID, excluding=OTHERS)


CANCELS: dict[str, Callable[[Keeper], None] | None] = {"request": None, "daemon": Keeper.cancel_daemon}


def check_gone(disk: MemoryDisk) -> None:
    assert not disk.is_directory(DIRECTORY)
    assert disk.names(DATA / "tmp") == []


async def check_is_not_made_again(keeper: Keeper) -> None:
    """Neither by a writer that comes, nor by an operator."""
    with pytest.raises(Deleted):
        keeper.timelines.get(TTID)
    with pytest.raises(NotMadeAgain):
        await keeper.timelines.create(TTID, SERVER, revives=True)
    with pytest.RaisesGroup(ServerError, allow_unwrapped=True, flatten_subgroups=True):
        with keeper.network.host("client").home():
            async with connect_keeper(KEEPER, TTID, "test") as connection:
                await start_push(connection)
                connection.send_copy_soon(encode_proposer_message(GREETING, PROTOCOL_VERSION))
                await connection.receive_copies()
    check_gone(keeper.disk)


async def read_slowly(keeper: Keeper) -> None:
    """A reader of WAL, at work on the disk when it is sent away."""
    timeline = keeper.timeline
    with timeline.registry.sending(Client(7)), suppress(TimelineUnavailable):
        while True:
            (await timeline.open_segment(START)).close()


async def be_cancelled(operation: Deletion, cancel: Callable[[Keeper], None] | None, victim: Victim) -> None:
    """Delete a timeline that is written and read, and be interrupted."""
    disk, writer = new_disk(), Writer(1)
    leaders = [writer]
    async with keeper_on(disk) as keeper:
        async with keeper.talk() as talk:
            before = [*led_by(writer), writer.commit(), *writer.write(300)]
            await talk.say(*before)
            await talk.hear_all(before)
            keeper.connections.start_soon(read_slowly, keeper)
            await talk.say(*writer.write(300), writer.commit())
            with victim.exposed(cancel and partial(cancel, keeper)):
                await operation(keeper)
        await trio.sleep(100 * JOB_SECONDS)
        if not keeper.scope.cancelled_caught:
            if keeper.timelines.all():
                check_disk_agrees(keeper)
                await check_serves_on(keeper, leaders)
                await operation(keeper)
            await check_is_not_made_again(keeper)
            leaders.clear()
    disk.crash(0)
    async with keeper_on(disk) as keeper:
        check_disk_agrees(keeper)
        if not keeper.timelines.all():
            check_gone(disk)
            leaders.clear()
        await check_serves_on(keeper, leaders)


@pytest.mark.parametrize(
    ("operation", "whose"),
    [(delete, "request"), (delete, "daemon"), (delete_tenant, "request"), (exclude, "request")],
)
def test_a_deletion_that_is_cancelled_has_not_begun_or_is_complete(operation: Deletion, whose: str) -> None:
    report = cancel_everywhere(partial(be_cancelled, operation, CANCELS[whose]))
    assert report.moments >= 6


async def lose_power(operation: Deletion, seen: set[bool], power: Power) -> None:
    disk, writer, done = new_disk(), Writer(1), False
    promises = Promises([writer])
    with power.on(disk):
        async with keeper_on(disk) as keeper:
            promises.listen_to(keeper)
            async with keeper.talk() as talk:
                await say(talk, promises, [*led_by(writer), writer.commit(), *writer.write(3000), writer.commit()])
            power.may_go()
            await operation(keeper)
            done = True
    for survivor in power.survivors(done, *promises.all()):
        async with keeper_on(survivor) as keeper:
            is_there = bool(keeper.timelines.all())
            assert not keeper.timelines.shut()  # invariant 43
            assert is_there == survivor.is_directory(DIRECTORY)
            assert survivor.names(DATA / "tmp") == []
        assert not (done and is_there)
        seen.add(is_there)
        survivor.end_process()
        await check(survivor, promises.copy() if is_there else Promises([]), check_new_leader)


@pytest.mark.parametrize("operation", [delete, delete_tenant])
@pytest.mark.usefixtures("steady_clocks")
def test_a_deletion_that_loses_its_power_leaves_all_or_nothing(operation: Deletion) -> None:
    """Invariant 43: what is there has all that was promised, and what was deleted is not there again."""
    seen: set[bool] = set()
    report = lose_power_everywhere(partial(lose_power, operation, seen), survivors=range(4))
    assert report.losses >= 6
    assert seen == {True, False}
