"""A deletion that cuts a corner is caught: by a loss of power, a cancellation, a late writer or a slow reader."""

from functools import partial

import pytest
import trio
import trio.testing

from sabotage.defect import defect
from simulation import test_deletion as torture
from simulation.test_cancellation import Unshielded, sleep_carelessly
from unit.timeline import test_deletion as scenes
from walkeeper.errors import Closing
from walkeeper.ids import TenantTimelineId
from walkeeper.membership import Generation
from walkeeper.storage.data_directory import DataDirectory
from walkeeper.storage.durable import remove_tree
from walkeeper.testing.cancellation import cancel_everywhere
from walkeeper.testing.offload import InlineOffload
from walkeeper.testing.power_loss import lose_power_everywhere
from walkeeper.timeline import timeline as timeline_module
from walkeeper.timeline.registry import Registry
from walkeeper.timeline.tombstones import Tombstones


@defect
def remove_in_place(directory: DataDirectory, ttid: TenantTimelineId) -> bool:
    """A timeline is removed file by file where it is (invariant 43)."""
    path = directory.directory_of(ttid)
    remove_tree(directory._disk, path)
    directory._disk.fsync_dir(path.parent)
    return True


@pytest.mark.usefixtures("steady_clocks")
def test_a_removal_that_leaves_half_a_timeline_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = partial(torture.lose_power, torture.delete, set[bool]())
    monkeypatch.setattr(DataDirectory, "remove", remove_in_place)
    with pytest.RaisesGroup(AssertionError, allow_unwrapped=True, flatten_subgroups=True):
        lose_power_everywhere(scenario, survivors=range(4))


@defect
def do_not_wait_for_names(directory: DataDirectory, ttid: TenantTimelineId) -> bool:
    """Says that a timeline is gone before that is durable."""
    directory._disk.rename(directory.directory_of(ttid), directory._staging_of(ttid))
    remove_tree(directory._disk, directory._staging_of(ttid))
    return True


@pytest.mark.usefixtures("steady_clocks")
def test_a_removal_that_is_not_durable_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = partial(torture.lose_power, torture.delete, set[bool]())
    monkeypatch.setattr(DataDirectory, "remove", do_not_wait_for_names)
    with pytest.RaisesGroup(AssertionError, allow_unwrapped=True, flatten_subgroups=True):
        lose_power_everywhere(scenario, survivors=range(4))


def test_a_deletion_without_its_shield_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline_module, "trio", Unshielded())
    monkeypatch.setattr(InlineOffload, "_pass_time", sleep_carelessly)
    with pytest.RaisesGroup(Closing, allow_unwrapped=True, flatten_subgroups=True):
        cancel_everywhere(partial(torture.be_cancelled, torture.delete, None))


@defect
async def wait_for_nobody(_registry: Registry) -> None:
    """Files are removed while others use them (invariant 42)."""
    await trio.lowlevel.checkpoint()


async def test_a_deletion_that_waits_for_nobody_is_caught(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Registry, "wait_left", wait_for_nobody)
    with pytest.RaisesGroup(AssertionError, allow_unwrapped=True, flatten_subgroups=True):
        await scenes.test_nobody_touches_the_files_once_their_removal_has_begun(autojump_clock)


@defect
def forget_at_once(
    _tombstones: Tombstones, _ttid: TenantTimelineId, _generation: Generation | None = None
) -> None:
    """A writer that comes late makes a timeline anew that was deleted."""


async def test_a_deletion_without_a_tombstone_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tombstones, "bury", forget_at_once)
    with pytest.RaisesGroup(Exception, allow_unwrapped=True, flatten_subgroups=True):
        await scenes.test_what_is_deleted_is_gone_and_is_not_made_again()
