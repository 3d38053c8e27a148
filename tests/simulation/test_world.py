"""Lives of a real cluster, each from its seed: whatever goes wrong, no promise is broken, and in the end all is well."""

from random import Random

import pytest

from walkeeper.proposer import quorum
from walkeeper.services.send_wal import CommittedWal
from walkeeper.testing.faults import draw_faults
from walkeeper.testing.memory_disk import MemoryDisk, MemoryFile
from walkeeper.testing.simulate import plan_of, run_seed, without_parts
from walkeeper.testing.world import run_world

SEEDS = 200
SEEDS_PER_TEST = 10
STEPS = 4

CARELESS_STEPS = 12
"""Where somebody is careless, it takes more until it shows."""

WRONG_ONCE = [
    8554,  # a keeper ended by an I/O error of a moment before all was well, and nobody started it again
    7200,  # a rival had made keepers whole and was gone: who waited for a majority did not hear of that
]
"""Worlds of so many steps in which something was found."""


@pytest.mark.parametrize("first", range(1, SEEDS + 1, SEEDS_PER_TEST))
def test_no_promise_is_broken_in_any_world(first: int) -> None:
    for seed in range(first, first + SEEDS_PER_TEST):
        outcome = run_seed(seed, STEPS)
        assert outcome.violation is None, f"seed {seed}: {outcome.violation!r}"
        assert outcome.commits > 0
        assert outcome.replies > 0


@pytest.mark.parametrize("seed", WRONG_ONCE)
def test_what_went_wrong_once_does_not_again(seed: int) -> None:
    assert run_seed(seed, CARELESS_STEPS).violation is None


def test_the_same_seed_gives_the_same_trace_and_another_one_another() -> None:
    plan = plan_of(3, STEPS)
    one, again, other = run_world(3, plan), run_world(3, plan), run_world(4, plan)
    assert one.trace == again.trace
    assert one.digest == again.digest != other.digest


def test_a_schedule_without_some_faults_keeps_the_times_of_the_others() -> None:
    faults = draw_faults(Random(1), 7)
    total = sum(fault.after_seconds for fault in faults)
    for shorter in without_parts(faults, 2):
        assert len(shorter) in (5, 6)
        missing_at_the_end = total - sum(fault.after_seconds for fault in shorter)
        assert missing_at_the_end == pytest.approx(0.0) or shorter == faults[:-1]


# -- worlds in which somebody is careless --------------------------------------------------------------------


def rule_violated(seeds: int = 12) -> str:
    """The number of the rule that is violated first in one of so many worlds; nothing if none is."""
    for seed in range(1, seeds + 1):
        outcome = run_seed(seed, CARELESS_STEPS)
        if outcome.violation is not None:
            return str(outcome.violation).split(":")[0]
    return ""


def test_a_disk_that_does_not_sync_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryFile, "fdatasync", lambda _file: None)
    assert rule_violated() == "7"


def test_a_vote_under_a_name_that_was_not_synced_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryDisk, "fsync_dir", lambda _disk, _path: None)
    assert rule_violated() == "3"


def test_a_quorum_of_less_than_a_majority_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quorum, "majority", lambda size: size // 2)
    assert rule_violated() in ("35", "37", "39")


def test_wal_that_is_given_to_readers_before_it_is_committed_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CommittedWal, "end_lsn", lambda _view, position: position.flush_lsn)
    assert rule_violated() == "37"
