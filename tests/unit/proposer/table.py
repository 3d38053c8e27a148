"""A proposer and its keepers around one table."""

from unit.proposer.model_keeper import FIRST_LSN, ModelKeeper
from walkeeper.ids import NodeId, TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import Lsn
from walkeeper.membership import NO_CONFIGURATION
from walkeeper.messages import (
    AppendRun,
    ProposerGreeting,
    ServerInfo,
)
from walkeeper.proposer.actions import (
    Action,
)
from walkeeper.proposer.proposer import Proposer
from walkeeper.terms import Term

GREETING = ProposerGreeting(
    TenantTimelineId(TenantId(bytes([1] * 16)), TimelineId(bytes([2] * 16))),
    NO_CONFIGURATION,
    ServerInfo(pg_version=150005, system_id=42, wal_seg_size=1 << 24),
)


class Table:
    """A proposer and its keepers around one table; messages arrive at once."""

    def __init__(self, keepers: int = 3, **options: object) -> None:
        self.keepers = [ModelKeeper(NodeId(place + 1)) for place in range(keepers)]
        names = [f"k{place}" for place in range(keepers)]
        self.proposer = Proposer(names, GREETING, **options)  # type: ignore[arg-type]
        self.log: list[Term] = []
        self.now = 0.0
        self.actions: list[Action] = []

    def talk(self, *places: int) -> list[Action]:
        """Let the proposer talk with each of these keepers, in turn, until they all have nothing more to say."""
        before = len(self.actions)
        while any(self.exhaust(place) for place in places):
            pass
        return self.actions[before:]

    def exhaust(self, place: int) -> bool:
        """Whether there was anything to say to this one."""
        has_spoken = False
        while self.say(place):
            has_spoken = True
        return has_spoken

    def say(self, place: int) -> bool:
        message = self.proposer.next_message(place, self.now)
        if message is None:
            return False
        reply = self.keepers[place].hear(message, self.wal_of(message))
        if reply is not None:
            self.actions += self.proposer.received(place, reply, self.now)
        return True

    def wal_of(self, message: object) -> list[Term]:
        if not isinstance(message, AppendRun):
            return []
        return self.log[message.begin_lsn - FIRST_LSN : message.end_lsn - FIRST_LSN]

    def connect(self, *places: int) -> list[Action]:
        for place in places:
            self.dial(place)
        return self.talk(*places)

    def dial(self, place: int) -> None:
        self.proposer.connected(place, self.keepers[place].is_whole)

    def greet(self, *places: int) -> None:
        """Connect and exchange greetings, nothing more."""
        for place in places:
            self.dial(place)
            self.say(place)

    def elect(self, *places: int) -> None:
        """Win with these keepers and lead."""
        self.greet(*places)
        self.talk(*places)
        election = self.proposer.election
        assert election is not None
        self.log = list(self.keepers[election.donor].wal)
        self.proposer.lead(FIRST_LSN)

    def write(self, positions: int) -> None:
        self.log += [self.proposer.term] * positions
        self.proposer.wal_grew(Lsn(FIRST_LSN + len(self.log)))
