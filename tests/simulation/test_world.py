"""Lives of a real cluster, each from its seed: whatever goes wrong, no promise is broken, and in the end all is well."""

from random import Random

import pytest

from walkeeper.testing.faults import draw_faults
from walkeeper.testing.simulate import plan_of, run_seed, without_parts
from walkeeper.testing.world import run_world

SEEDS = 200
SEEDS_PER_TEST = 10
STEPS = 12


@pytest.mark.parametrize("first", range(1, SEEDS + 1, SEEDS_PER_TEST))
def test_no_promise_is_broken_in_any_world(first: int) -> None:
    for seed in range(first, first + SEEDS_PER_TEST):
        outcome = run_seed(seed, STEPS)
        assert outcome.violation is None, f"seed {seed}: {outcome.violation!r}"
        assert outcome.commits > 0
        assert outcome.replies > 0


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

