"""What goes wrong, to whom and when: a function of the seed.

Purpose: an endless schedule of *episodes*; between two of them everything has become well again.
Rules: pure.  Never more than a minority of keepers is disturbed at a time, except now and then a majority for a moment,
in ways that lose nothing; a keeper loses its disk only while all the others are whole and left alone.  Every kind that the
machine allows comes before any comes again.

Not here: how it is done (faults.py), and whether it was survived (watch.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from random import Random

KEEPERS = 3


class Kind(Enum):
    """A kind of fault, as people read it."""

    KILL = "SIGKILL keeper"
    TERMINATE = "SIGTERM keeper"
    FREEZE = "SIGSTOP keeper"
    WIPE = "keeper's disk lost"
    FILL = "keeper's disk full"
    CUT = "keeper cut off"
    MUTE = "nothing comes from keeper"
    DEAF = "nothing comes to keeper"
    DELAY = "delay to keeper"
    LOSS = "delay and loss to keeper"
    KILL_SIDECAR = "SIGKILL sidecar"
    FREEZE_SIDECAR = "SIGSTOP sidecar"
    KILL_POSTGRES = "SIGKILL PostgreSQL"
    STOP_POSTGRES = "immediate stop of PostgreSQL"


NEED_DISKS = frozenset({Kind.FILL})
NEED_NETWORKS = frozenset({Kind.CUT, Kind.MUTE, Kind.DEAF, Kind.DELAY, Kind.LOSS})
OF_WRITER = frozenset({Kind.KILL_SIDECAR, Kind.FREEZE_SIDECAR, Kind.KILL_POSTGRES, Kind.STOP_POSTGRES})
OF_MAJORITY = frozenset({Kind.KILL, Kind.TERMINATE, Kind.FREEZE, Kind.CUT, Kind.MUTE, Kind.DEAF})
"""What a majority may suffer for a moment: everything that is still there afterwards."""

SECONDS = (0.5, 6.0)
LONG_SECONDS = 13.0  # the sidecar drops keepers that are silent for ten
LONG_SHARE = 0.15
TOGETHER_SECONDS = 3.0  # of a majority; commits wait meanwhile
TOGETHER_SHARE = 0.15
ACCOMPANIED_SHARE = 0.3
OFFSET_SECONDS = 2.0
CAN_BE_LONG = frozenset({Kind.FREEZE, Kind.CUT, Kind.MUTE, Kind.DEAF})


@dataclass(frozen=True, slots=True)
class Blow:
    """One fault: it begins ``after_seconds`` and lasts ``seconds``; ``keeper`` counts from 0, None is the writer's side."""

    kind: Kind
    keeper: int | None
    after_seconds: float
    seconds: float

    def __str__(self) -> str:
        whose = "" if self.keeper is None else f" {self.keeper + 1}"
        return f"{self.kind.value}{whose} for {self.seconds:.1f} s"


Episode = tuple[Blow, ...]


def disturbed(episode: Episode) -> frozenset[int]:
    """The keepers that are not themselves at some moment of it."""
    return frozenset(blow.keeper for blow in episode if blow.keeper is not None)


def is_of_majority(episode: Episode, keepers: int = KEEPERS) -> bool:
    """Whether commits may have to wait for keepers."""
    return len(disturbed(episode)) > (keepers - 1) // 2


def describe(episode: Episode) -> str:
    """What will happen, in one line."""
    return " + ".join(map(str, episode))


def row_of(episode: Episode) -> str:
    """Under which head it counts: what can make commits wait outweighs what cannot."""
    if is_of_majority(episode):
        return "two keepers of three at once"
    of_writer = [blow.kind for blow in episode if blow.keeper is None]
    return (of_writer or [episode[0].kind])[0].value


def possible_kinds(*, disks: bool, networks: bool) -> tuple[Kind, ...]:
    """What can be done where keepers have disks, or networks, of their own."""
    missing = (frozenset() if disks else NEED_DISKS) | (frozenset() if networks else NEED_NETWORKS)
    return tuple(kind for kind in Kind if kind not in missing)


def schedule(seed: int, kinds: Sequence[Kind], keepers: int = KEEPERS) -> Iterator[Episode]:
    """All episodes, without end."""
    random = Random(seed)
    writers = [kind for kind in kinds if kind in OF_WRITER]
    together = [kind for kind in kinds if kind in OF_MAJORITY]
    while True:
        for kind in random.sample(kinds, len(kinds)):
            if kind in OF_WRITER:
                yield (Blow(kind, None, 0.0, _seconds(random, kind)),)
                continue
            victims = random.sample(range(keepers), keepers)
            if kind in together and random.random() < TOGETHER_SHARE:
                yield _of_majority(random, kind, random.choice(together), victims)
                continue
            episode = [Blow(kind, victims[0], 0.0, _seconds(random, kind))]
            if writers and random.random() < ACCOMPANIED_SHARE:
                second = random.choice(writers)
                episode.append(Blow(second, None, random.uniform(0, OFFSET_SECONDS), _seconds(random, second)))
            yield tuple(episode)


def _of_majority(random: Random, first: Kind, second: Kind, victims: Sequence[int]) -> Episode:
    seconds = random.uniform(SECONDS[0], TOGETHER_SECONDS)
    return (Blow(first, victims[0], 0.0, seconds), Blow(second, victims[1], 0.0, seconds))


def _seconds(random: Random, kind: Kind) -> float:
    if kind in CAN_BE_LONG and random.random() < LONG_SHARE:
        return LONG_SECONDS
    return random.uniform(*SECONDS)
