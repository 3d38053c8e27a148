"""Membership configurations: which keepers form the quorum, and the generation that orders them.

Generation 0 means "generations are not in use" (every protocol 2 writer, and timelines that no controller
manages); 1 is the first valid one.  A configuration with ``new_members`` is a *joint* one (Raft, section 6 of
the dissertation): decisions then need a majority of both sets.

Source: Neon's RFC 035, reconfiguration of safekeepers.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NewType

from walkeeper.ids import NodeId

Generation = NewType("Generation", int)

NO_GENERATION: Final = Generation(0)

KEEPERS_MAX: Final = 31
"""Most keepers of one writer, as in Neon's walproposer; so a configuration with more, in either set, is none."""


@dataclass(frozen=True, slots=True)
class Member:
    """One keeper and where writers reach it (``pg_port``: TCP port of its PostgreSQL protocol).

    Raises ValueError for a host that no message can carry.
    """

    id: NodeId
    host: str
    pg_port: int

    def __post_init__(self) -> None:
        if "\0" in self.host:
            raise ValueError(f"member {self.id} has a host with a NUL")


@dataclass(frozen=True, slots=True)
class Configuration:
    """Who may vote.  ``new_members`` is None unless the configuration is joint.

    Raises ValueError for a node listed twice in one set, and for a real generation without members.
    """

    generation: Generation = NO_GENERATION
    members: tuple[Member, ...] = ()
    new_members: tuple[Member, ...] | None = None

    def __post_init__(self) -> None:
        for members in self.sets():
            ids = [member.id for member in members]
            if len(set(ids)) != len(ids):
                raise ValueError(f"generation {self.generation} lists a node twice: {sorted(ids)}")
        if self.generation != NO_GENERATION and not self.members:
            raise ValueError(f"generation {self.generation} has no members")

    def __str__(self) -> str:
        """For people: ``generation 9: 1, 2, 3 and 2, 3, 4``."""
        sets = (", ".join(str(member.id) for member in members) for members in self.sets())
        return f"generation {self.generation}: {' and '.join(sets)}"

    def __contains__(self, node: NodeId) -> bool:
        return any(member.id == node for members in self.sets() for member in members)

    def sets(self) -> Iterable[tuple[Member, ...]]:
        """The member sets that must each agree: one, or two while joint."""
        yield self.members
        if self.new_members is not None:
            yield self.new_members


NO_CONFIGURATION: Final = Configuration()


def majority(size: int) -> int:
    """How many of ``size`` voters make a quorum: more than half."""
    return size // 2 + 1
