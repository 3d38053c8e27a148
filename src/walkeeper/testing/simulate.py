"""Live through many worlds, each from its seed; and make the schedule of one that went wrong as short as possible.

    python -m walkeeper.testing.simulate --seeds 1000
    python -m walkeeper.testing.simulate --seed 7 --trace

Exit code 0 if every rule held in every world, 1 if not, 2 for arguments that make no sense.
Odd seeds have three keepers, every other even one five; the rest has three and two spare ones, and a controller that
lets them take each other's places.  Does not know what a world is made of.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import count
from random import Random

from walkeeper.testing.faults import Fault, draw_faults
from walkeeper.testing.world import Outcome, Plan, run_world

SHRINKING_RUNS_MAX = 400
"""How often a world is lived through again to find a shorter schedule: some minutes."""

PROGRESS_WORLDS = 1000
"""After so many one is told how far it is: some minutes."""


def plan_of(seed: int, steps: int) -> Plan:
    """What the world of that seed has to live through."""
    keepers, spares = ((3, 2), (3, 0), (5, 0), (3, 0))[seed % 4]
    return Plan(keepers, spares, draw_faults(Random(f"{seed} faults"), steps, has_spares=spares > 0))


def run_seed(seed: int, steps: int) -> Outcome:
    """The world of that seed, with so many faults; without its trace if nothing is wrong."""
    outcome = run_world(seed, plan_of(seed, steps))
    return outcome if outcome.violation else replace(outcome, trace=[])


def shrink(outcome: Outcome, tell: Callable[[str], None] = lambda _text: None) -> Outcome:
    """The same world with fewer faults in which something is still violated.

    Leaves out halves, quarters, and so on down to single faults, as long as that changes nothing.
    """
    kind, runs = type(outcome.violation), count()
    size = max(1, len(outcome.plan.faults) // 2)
    while size:
        shorter = next(
            (
                again
                for faults in without_parts(outcome.plan.faults, size)
                if next(runs) < SHRINKING_RUNS_MAX
                and type((again := run_world(outcome.seed, replace(outcome.plan, faults=faults))).violation)
                is kind
            ),
            None,
        )
        if shorter is None:
            size //= 2
        else:
            outcome = shorter
            size = min(size, max(1, len(outcome.plan.faults) // 2)) if outcome.plan.faults else 0
            tell(f"{len(outcome.plan.faults)} faults are enough")
    return outcome


def without_parts(faults: Sequence[Fault], size: int) -> Iterator[Sequence[Fault]]:
    """The schedule without ``size`` of its faults, at each place; who follows keeps its time."""
    for begin in range(0, len(faults), size):
        gone, rest = faults[begin : begin + size], list(faults[begin + size :])
        if rest:
            pause = sum(fault.after_seconds for fault in gone)
            rest[0] = replace(rest[0], after_seconds=rest[0].after_seconds + pause)
        yield [*faults[:begin], *rest]


def report(outcome: Outcome, steps: int) -> Iterator[str]:
    """What somebody needs who wants to know why."""
    yield f"seed {outcome.seed}: {outcome.violation!r}"
    yield from (f"    {fault!r}," for fault in outcome.plan.faults)
    yield "the trace of these faults:"
    yield from outcome.trace
    yield f"all of it again: python3 noxfile.py -s simulate -- --seed {outcome.seed} --steps {steps} --trace"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as the module's docstring says."""
    options = parse_arguments(arguments)
    if options.seed is not None:
        return show_one(options.seed, options.steps, trace=options.trace)
    began_at, faults, totals = time.monotonic(), Counter[str](), Counter[str]()
    broken: list[Outcome] = []
    with ProcessPoolExecutor(max_workers=options.jobs) as pool:
        seeds = range(options.first, options.first + options.seeds)
        outcomes = pool.map(run_seed, seeds, [options.steps] * len(seeds), chunksize=4)
        for done, outcome in enumerate(outcomes, start=1):
            if done % PROGRESS_WORLDS == 0:
                print(f"{done} of {len(seeds)} worlds", flush=True)
            faults += outcome.faults
            totals += Counter(commits=outcome.commits, replies=outcome.replies, seconds=int(outcome.seconds))
            if outcome.violation is not None:
                broken.append(outcome)
                print(f"seed {outcome.seed}: {outcome.violation}", flush=True)
    took = time.monotonic() - began_at
    print(f"{options.seeds} worlds, {len(broken)} with something violated, {options.seeds / took:.2f} seeds/s")
    print(", ".join(f"{totals[name]} {name}" for name in ("commits", "replies", "seconds")) + " of cluster time")
    print("faults: " + ", ".join(f"{name} {number}" for name, number in faults.most_common()))
    if broken:
        print(f"looking for the shortest schedule of seed {broken[0].seed}", flush=True)
        print(*report(shrink(broken[0], print), options.steps), sep="\n")
    return 1 if broken else 0


def show_one(seed: int, steps: int, *, trace: bool) -> int:
    """One world: its digest, its trace if asked for, and what was violated."""
    outcome = run_world(seed, plan_of(seed, steps))
    if trace:
        print(*outcome.trace, sep="\n")
    print(
        f"seed {seed}: digest {outcome.digest}, {outcome.commits} commits in {outcome.seconds:.1f} s of cluster time"
    )
    if outcome.violation is None:
        return 0
    print(*report(shrink(outcome, print), steps), sep="\n")
    return 1


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="simulate", description="Clusters in one process, each from its seed.")
    parser.add_argument("--seeds", type=positive, default=200, help="how many worlds (200)")
    parser.add_argument("--first", type=int, default=1, help="the first seed (1)")
    parser.add_argument("--steps", type=positive, default=12, help="faults in each world (12)")
    parser.add_argument("--jobs", type=positive, default=os.cpu_count(), help="processes (one for each core)")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="with --seed: print what happens")
    return parser.parse_args(arguments)


def positive(text: str) -> int:
    """A whole number above 0.  Raises ValueError."""
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


if __name__ == "__main__":
    sys.exit(main())
