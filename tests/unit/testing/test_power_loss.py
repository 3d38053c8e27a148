"""What loses power everywhere finds what is not durable, and says where."""

from itertools import count
from pathlib import Path

import pytest
import trio

from walkeeper.storage.durable import replace_file
from walkeeper.testing.memory_disk import MemoryDisk
from walkeeper.testing.power_loss import Power, Unsteady, lose_power_everywhere

FILE = Path("/file")


def keep_carelessly(disk: MemoryDisk, content: bytes) -> None:
    with disk.create(FILE) as file:
        file.pwritev((content,), 0)
        file.fsync()
    disk.fsync_dir(FILE.parent)


def keep_with_care(disk: MemoryDisk, content: bytes) -> None:
    replace_file(disk, FILE, content, temporary="file.new")


def content_of(disk: MemoryDisk) -> bytes:
    with disk.open(FILE) as file:
        return file.pread(100, 0)


class Diary:
    """Keeps one thing after the other, and says so when it is kept."""

    def __init__(self, keep: object) -> None:
        self.keep = keep
        self.survivors: list[bytes] = []

    async def write(self, power: Power) -> None:
        disk, said = MemoryDisk(), b"0"
        with power.on(disk):
            keep_with_care(disk, b"0")
            power.may_go()
            async with trio.open_nursery() as nursery:  # the loss comes out in a group
                for content in (b"1", b"2"):
                    nursery.start_soon(trio.sleep_forever)
                    self.keep(disk, content)  # type: ignore[operator]
                    said = content
                    await trio.sleep(1)
                nursery.cancel_scope.cancel()
        for survivor in power.survivors(said):
            assert content_of(survivor) >= said
            self.survivors.append(content_of(survivor))


def test_what_is_durable_when_it_is_said_passes_at_every_loss() -> None:
    diary = Diary(keep_with_care)
    report = lose_power_everywhere(diary.write)
    assert report.losses == 2 * len(["create", "write", "sync", "rename", "sync"]) + 1
    assert report.survivors == len(diary.survivors)
    assert set(diary.survivors) == {b"0", b"1", b"2"}


def test_what_can_be_lost_is_found_and_the_loss_is_named() -> None:
    with pytest.raises(AssertionError) as caught:
        lose_power_everywhere(Diary(keep_carelessly).write)
    assert caught.value.__notes__ == ["power lost before operation 2, write /file; survivor 1"]


def test_the_same_disk_is_looked_at_again_only_when_more_was_promised() -> None:
    diary = Diary(keep_with_care)
    lose_power_everywhere(diary.write, survivors=[0])
    assert diary.survivors == [b"2", b"0", b"1"]


def test_what_else_goes_wrong_comes_out() -> None:
    async def scenario(power: Power) -> None:
        with power.on(MemoryDisk()):
            power.may_go()
            raise LookupError

    with pytest.raises(LookupError):
        lose_power_everywhere(scenario)


def test_a_scenario_that_changes_nothing_or_does_not_look_proves_nothing() -> None:
    async def idle(power: Power) -> None:
        with power.on(MemoryDisk()):
            power.may_go()

    async def blind(power: Power) -> None:
        disk = MemoryDisk()
        with power.on(disk):
            power.may_go()
            keep_with_care(disk, b"1")

    for scenario in (idle, blind):
        with pytest.raises(AssertionError):
            lose_power_everywhere(scenario)


def test_a_scenario_that_is_different_each_time_is_told_of() -> None:
    numbers = count()

    async def unsteady(power: Power) -> None:
        disk = MemoryDisk()
        with power.on(disk):
            power.may_go()
            for number in range(3):
                disk.create(Path(f"/{number + next(numbers)}")).close()
        for _ in power.survivors():
            pass

    with pytest.raises(Unsteady):
        lose_power_everywhere(unsteady)
