"""Several writers, keepers that crash and links that break at random: nothing committed is ever lost or doubled.

Invariants 35 (one leader per term), 37 (one entry per committed position) and 39 (a leader starts at or above all
that is committed) are watched after every step.
"""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from unit.proposer.model_keeper import FIRST_LSN, ModelKeeper
from unit.proposer.table import GREETING
from walkeeper.ids import NodeId
from walkeeper.lsn import Lsn
from walkeeper.messages import AppendRun
from walkeeper.proposer.actions import (
    Action,
    CampaignLost,
    CommitAdvanced,
    Elected,
    Overtaken,
    Reconfigured,
)
from walkeeper.proposer.proposer import Proposer, Stage
from walkeeper.terms import INITIAL_TERM, Term

KEEPERS = 3
STEPS = 400


class Rivalry:
    """``committed`` is what any writer ever reported, position by position; the newest of them in ``committed_in``."""

    def __init__(self, dice: Random) -> None:
        self.dice = dice
        self.keepers = [ModelKeeper(NodeId(place + 1)) for place in range(KEEPERS)]
        self.writers = [Writer(self) for _ in range(2)]
        self.committed: list[Term] = []
        self.committed_in = INITIAL_TERM
        self.leaders: dict[Term, Writer] = {}

    def step(self) -> None:
        writer = self.dice.choice(self.writers)
        place = self.dice.randrange(KEEPERS)
        match self.dice.randrange(100):
            case 0:
                writer.retire()
            case 1 | 2 | 3:
                writer.proposer.disconnected(place)
                writer.connected.discard(place)
            case number if number < 20:
                writer.write(self.dice.randrange(1, 5))
            case _:
                writer.talk(place, reply_is_lost=self.dice.random() < 0.02)


class Writer:
    def __init__(self, world: Rivalry) -> None:
        self.world = world
        self.proposer = Proposer([f"k{place}" for place in range(KEEPERS)], GREETING)
        self.connected: set[int] = set()
        self.log: list[Term] = []

    def write(self, positions: int) -> None:
        if self.proposer.stage is Stage.LEADING:
            self.log += [self.proposer.term] * positions
            self.proposer.wal_grew(Lsn(FIRST_LSN + len(self.log)))

    def talk(self, place: int, *, reply_is_lost: bool) -> None:
        if place not in self.connected:
            self.connected.add(place)
            self.proposer.connected(place, is_whole=True)
        message = self.proposer.next_message(place, 0.0)
        if message is None:
            return
        wal: list[Term] = []
        if isinstance(message, AppendRun):
            wal = self.log[message.begin_lsn - FIRST_LSN : message.end_lsn - FIRST_LSN]
        reply = self.world.keepers[place].hear(message, wal)
        if reply_is_lost:
            self.proposer.disconnected(place)
            self.connected.discard(place)
        elif reply is not None:
            for action in self.proposer.received(place, reply, 0.0):
                self.act(action)

    def act(self, action: Action) -> None:
        match action:
            case Elected(election):
                assert self.world.leaders.setdefault(election.term, self) is self, "invariant 35"
                donor = self.world.keepers[election.donor]
                if donor.term > election.term:  # it would refuse to send its WAL
                    self.retire()
                    return
                self.log = donor.wal[: max(election.start_lsn - FIRST_LSN, 0)]
                if election.term > self.world.committed_in:
                    assert self.log[: len(self.world.committed)] == self.world.committed, "invariant 39"
                self.proposer.lead(FIRST_LSN)
            case CommitAdvanced(lsn):
                ours = self.log[: lsn - FIRST_LSN]
                theirs = self.world.committed
                common = min(len(ours), len(theirs))
                assert ours[:common] == theirs[:common], "invariant 37"
                self.world.committed = max(ours, theirs, key=len)
                self.world.committed_in = max(self.world.committed_in, self.proposer.term)
            case CampaignLost():
                self.proposer.campaign_again()
            case Overtaken() | Reconfigured():
                self.retire()

    def retire(self) -> None:
        self.world.writers[self.world.writers.index(self)] = Writer(self.world)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_rival_writers_never_lose_or_change_what_was_committed(seed: int) -> None:
    world = Rivalry(Random(seed))
    for _ in range(STEPS):
        world.step()
    for keeper in world.keepers:
        agreed = min(keeper.commit_lsn - FIRST_LSN, len(world.committed)) if keeper.commit_lsn else 0
        assert keeper.wal[:agreed] == world.committed[:agreed]


def test_a_writer_alone_gets_its_wal_committed() -> None:
    world = Rivalry(Random(1))
    (writer, _) = world.writers
    for step in range(60):
        writer.talk(step % KEEPERS, reply_is_lost=False)
        writer.write(1)
    assert len(world.committed) > 10
