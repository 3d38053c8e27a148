"""Lose power everywhere: run a scenario once for every operation of a disk at which the power can go.

    async def scenario(power: Power) -> None:
        disk, promises = MemoryDisk(), []
        with power.on(disk):                        # ends early when the power goes
            power.may_go()                          # from here on
            await keep(disk, promises)
        for survivor in power.survivors(*promises): # what may be left of the disk
            await check(survivor, promises)         # must hold, whatever was lost

    report = lose_power_everywhere(scenario)

A first run counts the operations that change something, and ends with a loss of power behind the last of them.  Then the
scenario is run once for each of them, and the power goes right before it.  What is left of what was not synced is chosen
for each survivor: nothing, everything, some sectors and some names.  So a power loss *in* an operation is among these: a
write, or a sync, of which the disk has done a part, is one whose sectors are on the disk in part; and one *after* an
operation is one before the next, when more has been said.  Most of what is left equals what was left before, when no more
was promised: that is looked at once.

All runs have the same seed and a fake clock that leaps, so the operations of the first run are those of the others up to the
loss.  Threads do not go with that: use ``InlineOffload``.

Knows ``MemoryDisk`` and nothing else of walkeeper: whatever keeps its files by a ``storage.disk.Disk`` can be treated like
that.  What loses its power is one machine: what its peers have heard stays with the scenario.
"""

from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from walkeeper.testing.memory_disk import MemoryDisk, PowerCut, unwatched
from walkeeper.testing.scheduling import run_deterministically

CHANGES: Final = frozenset({"create", "write", "truncate", "sync", "rename", "unlink", "mkdir", "rmdir", "lock"})
"""What is counted: before any other operation the disk is as it was before the last of these."""

LOSSES_MAX: Final = 2_000
"""More are a scenario that should be cut in two: every loss is a run, and some survivors."""

SURVIVORS: Final = range(6)
"""The seeds of ``MemoryDisk.crash``: nothing that was not synced is left, all of it, some of it."""


class Unsteady(AssertionError):
    """The power did not go where it should: the scenario is not deterministic."""


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that was about to change the disk while its power could go."""

    name: str
    path: Path

    def __str__(self) -> str:
        return f"{self.name} {self.path}"


@dataclass(frozen=True, slots=True)
class Report:
    """What was done: so many ``losses`` of power, and so many ``survivors`` looked at, all of them different."""

    losses: int
    survivors: int


class Power:
    """What the scenario is given: it says which disk may lose its power, and from when on, and gets what is left of it."""

    def __init__(self, seeds: Sequence[int], lost_at: int | None, seen: set[object]) -> None:
        self.operations: list[Operation] = []
        self.examining: int | None = None
        self._seeds = seeds
        self._seen = seen
        self._lost_at = lost_at
        self._disk: MemoryDisk | None = None

    @contextmanager
    def on(self, disk: MemoryDisk) -> Iterator[None]:
        """A block in which ``disk`` may lose its power; that ends the block, and what else is raised in it comes out.

        Once per scenario.  Takes the disk's ``on_operation``.
        """
        assert self._disk is None, "a scenario has one disk"
        self._disk = disk
        try:
            yield
        except* PowerCut:
            pass
        finally:
            disk.on_operation = unwatched

    def may_go(self) -> None:
        """From here on the power may be lost, until the block ends."""
        self._the_disk().on_operation = self._watch

    def _watch(self, name: str, path: Path) -> None:
        if name in CHANGES:
            self.operations.append(Operation(name, path))
            if len(self.operations) == self._lost_at:
                self._the_disk().cut_power(self._the_disk().operations - 1, after=False)  # it is counted already

    def survivors(self, *promises: Hashable) -> Iterator[MemoryDisk]:
        """What may be left of the disk: disks that are on again.  Behind the block.

        ``promises`` is all that the checks will hold against it: a disk that equals one that was looked at in this or an
        earlier run, after the same promises, is left out.
        """
        for seed in self._seeds:
            self.examining = seed
            survivor = self._the_disk().after_crash(seed)
            look = (survivor.fingerprint(), promises)
            if look not in self._seen:
                self._seen.add(look)
                yield survivor
        self.examining = None

    def describe(self) -> str:
        """When power was lost, and at which survivor somebody looks."""
        where = "after the last operation"
        if self._lost_at is not None and self._lost_at <= len(self.operations):
            where = f"before operation {self._lost_at}, {self.operations[self._lost_at - 1]}"
        survivor = "" if self.examining is None else f"; survivor {self.examining}"
        return f"power lost {where}{survivor}"

    def _the_disk(self) -> MemoryDisk:
        assert self._disk is not None, "the power is on first"
        return self._disk


Scenario = Callable[[Power], Awaitable[None]]


def lose_power_everywhere(scenario: Scenario, *, survivors: Sequence[int] = SURVIVORS, seed: int = 0) -> Report:
    """Lose power before each operation of ``scenario``, one after the other, and after the last.

    ``survivors`` are seeds: one disk each is left of every loss.  Raises what the scenario raises, with a note that says
    when power was lost and which survivor was looked at, and Unsteady for a scenario that runs differently each time.
    """
    seen: set[object] = set()
    calm = Power(survivors, None, seen)
    _run(scenario, calm, seed)
    losses = len(calm.operations)
    assert 0 < losses <= LOSSES_MAX, f"{losses} operations: no power could go, or too often"
    assert seen, "nobody looked at what was left"
    for number, operation in enumerate(calm.operations, 1):
        power = Power(survivors, number, seen)
        _run(scenario, power, seed)
        if power.operations[:number] != calm.operations[:number]:
            raise Unsteady(f"not the same operations as the first time up to number {number}, {operation}")
    return Report(losses + 1, len(seen))


def _run(scenario: Scenario, power: Power, seed: int) -> None:
    try:
        run_deterministically(partial(scenario, power), seed=seed)
    except BaseException as error:
        error.add_note(power.describe())
        raise
