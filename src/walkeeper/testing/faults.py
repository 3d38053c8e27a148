"""What goes wrong in a simulated cluster, as values: a schedule can be printed, replayed, and made shorter.

Each fault says when it happens, counted from the one before, whom it hits, and how bad it is.  What a fault does is
the world's to say (``world``); this module only draws lots.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Final


class Kind(Enum):
    """What can go wrong.  The text says what happens to the machine it hits."""

    STOP = "is told to stop, and started again"
    KILL = "is killed, and started again"
    POWER_CUT = "loses power in the middle of something, and comes back"
    DISK_LOST = "comes back with an empty disk"
    DISK_FULL = "finds its disk full for a while"
    DISK_ERROR = "gets an I/O error"
    SHORT_WRITE = "writes half of something"
    SLOW_DISK = "has a slow disk for a while"
    CUT_TO = "is not heard any more, but hears"
    CUT_FROM = "does not hear any more, but is heard"
    ISOLATED = "is alone"
    RESET = "loses its connections"
    WRITER_CRASH = "a writer crashes"
    SLOW_NETWORK = "the network is slow for a while"
    HEAL = "the network is whole again"
    CLOCK_JUMP = "finds its clock put forward, as all do"
    NEW_WRITER = "another writer wants to lead"
    NEW_MEMBERS = "leaves the quorum, and others take the places of some"


WEIGHTS: Final[dict[Kind, int]] = {
    Kind.STOP: 2,
    Kind.KILL: 4,
    Kind.POWER_CUT: 8,
    Kind.DISK_LOST: 4,
    Kind.DISK_FULL: 3,
    Kind.DISK_ERROR: 4,
    Kind.SHORT_WRITE: 3,
    Kind.SLOW_DISK: 3,
    Kind.CUT_TO: 3,
    Kind.CUT_FROM: 3,
    Kind.ISOLATED: 3,
    Kind.RESET: 5,
    Kind.WRITER_CRASH: 4,
    Kind.SLOW_NETWORK: 2,
    Kind.HEAL: 10,
    Kind.CLOCK_JUMP: 2,
    Kind.NEW_WRITER: 4,
    Kind.NEW_MEMBERS: 16,
}
"""How often each is drawn.  Healing is frequent, or nothing would ever be committed to be lost."""

PAUSE_SECONDS: Final = 0.8
"""Between two faults, on average; some follow each other at once."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.  ``after_seconds`` the one before; ``place`` of whom it hits; ``amount`` 0 to 1."""

    after_seconds: float
    kind: Kind
    place: int
    amount: float

    def __str__(self) -> str:
        return f"+{self.after_seconds:.3f} s  {self.kind.name} {self.place} {self.amount:.3f}  ({self.kind.value})"


def draw_faults(random: Random, count: int, *, has_spares: bool = False) -> Sequence[Fault]:
    """A schedule of ``count`` faults.  New members there can only be where keepers are spare."""
    weights = {kind: weight for kind, weight in WEIGHTS.items() if has_spares or kind is not Kind.NEW_MEMBERS}
    kinds = random.choices(list(weights), list(weights.values()), k=count)
    return [
        Fault(
            random.choice((0.0, random.expovariate(1 / PAUSE_SECONDS))),
            kind,
            random.randrange(60),
            random.random(),
        )
        for kind in kinds
    ]
