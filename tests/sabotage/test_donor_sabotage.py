"""The scenes of damaged donors notice when a link does not keep one of its rules about them."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from sidecar_world import World
from unit.sidecar import test_damaged_donors as scenes
from walkeeper.links import donor
from walkeeper.links.keeper_link import KeeperLink
from walkeeper.links.postgres import Connection
from walkeeper.lsn import Lsn

Scene = Callable[[MockClock, World], Awaitable[None]]
Sabotage = Callable[[pytest.MonkeyPatch], None]


class BelievesEverything(donor.DonorWal):
    async def _verify(self, wal: memoryview) -> None: ...

    @property
    def sound_lsn(self) -> Lsn:
        return self.window.end_lsn


class VerifiesTooLate(donor.DonorWal):
    """What it finds damaged has gone on already."""

    @property
    def sound_lsn(self) -> Lsn:
        return self.window.end_lsn


def passes_on_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("walkeeper.links.keeper_link.DonorWal", BelievesEverything)


def verifies_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("walkeeper.links.keeper_link.DonorWal", VerifiesTooLate)


def takes_the_damage_for_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget_nothing(self: KeeperLink, wal: donor.DonorWal, connection: Connection) -> None:
        """What was sent is not taken back."""

    monkeypatch.setattr(KeeperLink, "_require_verified", forget_nothing)
    scenes.hold_little_back(monkeypatch)


@pytest.mark.parametrize(
    ("sabotage", "scene"),
    [
        (passes_on_all_of_it, scenes.test_wal_that_is_damaged_on_its_donor_comes_from_another_one),
        (
            passes_on_all_of_it,
            scenes.test_a_keeper_that_nobody_has_sound_wal_for_does_not_become_whole_and_harms_no_others,
        ),
        (verifies_too_late, scenes.test_wal_that_is_damaged_on_its_donor_comes_from_another_one),
        (takes_the_damage_for_the_end, scenes.a_long_record_is_damaged),
    ],
)
async def test_a_link_that_trusts_a_damaged_donor_is_caught(
    autojump_clock: MockClock,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    sabotage: Sabotage,
    scene: Scene,
) -> None:
    sabotage(monkeypatch)
    noticed = pytest.RaisesExc((trio.TooSlowError, AssertionError))
    with pytest.RaisesGroup(noticed, flatten_subgroups=True):
        await scene(autojump_clock, world)
