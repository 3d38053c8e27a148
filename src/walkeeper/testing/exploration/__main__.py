"""``python -m walkeeper.testing.exploration --proposers 2 --acceptors 3 --terms 2 --entries 2 --faults 0``

Prints how far it has come, then states, steps and depth; the shortest way to a violation if there is one.  Exit code
1 for a violation, 0 for none, also where ``--states`` ended the search early: it says which.
"""

import sys
import time
from argparse import ArgumentParser, Namespace

from walkeeper.testing.exploration.narrative import tell
from walkeeper.testing.exploration.search import explore
from walkeeper.testing.exploration.world import Bounds, SmallWorld


def main() -> int:
    options = _options()
    bounds = Bounds(options.proposers, options.acceptors, options.terms, options.entries, options.faults)
    world = SmallWorld(bounds)
    began = time.process_time()

    def progress(depth: int, states: int, steps: int) -> None:
        seconds = time.process_time() - began
        print(f"depth {depth}: {states:,} states, {steps:,} steps, {seconds:.0f} s", file=sys.stderr, flush=True)

    found = explore(world, states_max=options.states, progress=progress)
    seconds = time.process_time() - began
    extent = "all of them" if found.is_complete else "not all of them"
    print(
        f"{bounds}: {found.states:,} distinct states ({extent}), {found.steps:,} steps, depth {found.depth}, "
        f"{seconds:.0f} s, {found.steps / max(seconds, 0.01):,.0f} steps/s"
    )
    if found.violation is None:
        return 0
    print(*tell(world, found.violation), sep="\n")
    return 1


def _options() -> Namespace:
    parser = ArgumentParser(
        prog="walkeeper.testing.exploration",
        description="Every state of a small world of real keepers and writers.",
    )
    sizes = [
        ("proposers", "writers"),
        ("acceptors", "keepers"),
        ("terms", "highest term"),
        ("entries", "length of a log"),
        ("faults", "how often something fails: each costs thirty- to fiftyfold"),
    ]
    for name, meaning in sizes:
        parser.add_argument(f"--{name}", type=int, default=getattr(Bounds(), name), help=meaning)
    parser.add_argument("--states", type=int, default=None, help="stop after so many states")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
