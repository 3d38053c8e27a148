"""Rival writers and keepers whose disks are lost: real proposers, real acceptors, and disks that are byte strings.

``World`` watches what must never happen: a term won twice (invariant 35), a commit that changes (37), a leader that
lacks one (39).  It sees everything that any writer has ever been told is committed, also those that were fenced and do
not know it.  ``live`` plays at random; tests play scenes of their own with ``Writer.talk`` and ``World.wipe``.

A connection is a queue of replies.  Those that are on their way when a keeper goes down still arrive.
"""

from dataclasses import dataclass, field
from random import Random

from walkeeper.acceptor.acceptor import new_acceptor
from walkeeper.acceptor.effects import Effect, TruncateWal, WriteWal
from walkeeper.acceptor.state import new_control_file
from walkeeper.errors import PeerError, Refused
from walkeeper.ids import NO_TLI, NodeId, TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import NO_CONFIGURATION
from walkeeper.messages import AcceptorMessage, AppendRun, Batch, ProposerGreeting, ServerInfo
from walkeeper.proposer.actions import Action, CampaignLost, CommitAdvanced, Elected, Overtaken, Reconfigured
from walkeeper.proposer.proposer import Outgoing, Proposer, Stage
from walkeeper.terms import Term
from walkeeper.testing.wal import WalGenerator

SEGMENT = 1 << 20
START = Lsn(3 * SEGMENT + 0x2760)
TTID = TenantTimelineId(TenantId(b"t" * 16), TimelineId(b"l" * 16))
SERVER = ServerInfo(pg_version=150005, system_id=77, wal_seg_size=SEGMENT)
GREETING = ProposerGreeting(TTID, NO_CONFIGURATION, SERVER)


class Keeper:
    """``wal`` begins at START.  ``life`` counts its starts: a connection to an earlier one is dead."""

    def __init__(self, node_id: NodeId) -> None:
        self.node_id = node_id
        self.life = 0
        self.was_wiped = False
        self.make()

    def make(self, start_lsn: Lsn = INVALID_LSN) -> None:
        """A timeline on an empty disk; over HTTP it may be given a start."""
        self.life += 1
        self.wal = bytearray()
        kept = new_control_file(
            TTID, SERVER, (0, 0), configuration=NO_CONFIGURATION, start_lsn=start_lsn, commit_lsn=start_lsn
        )
        self.acceptor = new_acceptor(self.node_id, kept, start_lsn, NO_TLI, is_whole=False)

    def restart(self) -> None:
        self.life += 1
        state = self.acceptor.state
        end_lsn = state.wal.flush_lsn if state.kept.commit_lsn else INVALID_LSN
        tli = state.wal.tli if end_lsn else NO_TLI
        del self.wal[max(end_lsn - START, 0) :]
        self.acceptor = new_acceptor(self.node_id, state.kept, end_lsn, tli, is_whole=state.is_whole)

    def perform(self, effect: Effect) -> None:
        match effect:
            case TruncateWal(lsn, _):
                del self.wal[max(lsn - START, 0) :]
            case WriteWal(begin_lsn, slices, _):
                assert begin_lsn == START + len(self.wal)
                self.wal += b"".join(slices)
            case _:
                pass  # the acceptor remembers

    def hear(self, message: Batch) -> AcceptorMessage | None:
        kept = self.acceptor.decide(message).keep(self)
        self.acceptor = kept.acceptor
        return kept.reply

    @property
    def is_whole(self) -> bool:
        return self.acceptor.state.is_whole

    @property
    def is_lost(self) -> bool:
        """Whether it has lost its disk, and nobody has made up for that yet."""
        return self.was_wiped and not self.is_whole


class World:
    """``elected`` and ``committed``: by term, the writer's log at that time, as bytes from START on."""

    def __init__(self, keepers: int = 3, proposer: type[Proposer] = Proposer) -> None:
        self.proposer = proposer
        self.keepers = [Keeper(NodeId(place + 1)) for place in range(keepers)]
        self.elected: dict[Term, bytes] = {}
        self.committed: dict[Term, bytes] = {}
        self.writers = 0

    def wipe(self, *places: int) -> None:
        for place in places:
            self.keepers[place].was_wiped = True
            self.keepers[place].make()

    def note_election(self, term: Term, log: bytes) -> None:
        assert term not in self.elected, "invariant 35"
        self.elected[term] = log
        for earlier, committed in self.committed.items():
            assert earlier > term or log.startswith(committed), "invariant 39"

    def note_commit(self, term: Term, log: bytes) -> None:
        self.committed[term] = log
        for later, elected in self.elected.items():
            assert later <= term or elected.startswith(log), (
                "invariants 37 and 39: a fenced writer was acknowledged"
            )
        for other in self.committed.values():
            assert other.startswith(log[: len(other)]), "invariant 37"


@dataclass
class Line:
    """A connection to a keeper as it was in its ``life``, and the replies on their way back."""

    life: int
    replies: list[AcceptorMessage] = field(default_factory=list)


class Writer:
    """``log`` is all its WAL from START on.  It leads at once when it is elected, unless it ``hesitates``."""

    def __init__(self, world: World, *, hesitates: bool = False) -> None:
        self.world = world
        world.writers += 1
        self.number = world.writers
        self.proposer = world.proposer([f"k{place}" for place in range(len(world.keepers))], GREETING)
        self.lines: dict[int, Line] = {}
        self.log = b""
        self.hesitates = hesitates
        self.is_over = False
        self._begin = 0
        self._generator: WalGenerator | None = None

    # -- connections ------------------------------------------------------------------------------------------

    def connect(self, *places: int) -> None:
        for place in places:
            keeper = self.world.keepers[place]
            self.lines[place] = Line(keeper.life)
            self.proposer.connected(place, keeper.is_whole)

    def disconnect(self, *places: int) -> None:
        for place in places:
            self.lines.pop(place, None)
            self.proposer.disconnected(place)

    def talk(self, *places: int) -> None:
        """With these keepers, in turn, until there is nothing to say."""
        while any(self.send(place) or self.deliver(place) for place in places):
            pass

    def send(self, place: int, until: Lsn | None = None) -> bool:
        """Say the next thing, if there is one and the keeper is still the one that was called."""
        if place not in self.lines:
            self.connect(place)
        message = self.proposer.next_message(place, 0.0, until)
        if self.is_over or message is None:
            return False
        keeper, line = self.world.keepers[place], self.lines[place]
        if line.life != keeper.life:
            self.disconnect(place)
            return True
        try:
            reply = keeper.hear(self._encoded(message))
        except (Refused, PeerError):
            self.disconnect(place)
            return False
        if reply is not None:
            line.replies.append(reply)
        return True

    def _encoded(self, message: Outgoing) -> Batch:
        if not isinstance(message, AppendRun):
            return message
        begin, end = message.begin_lsn, message.end_lsn
        slices = (self.log[begin - START : end - START],) if end > begin else ()
        return AppendRun(
            message.generation, message.term, begin, end, message.commit_lsn, message.truncate_lsn, slices
        )

    def deliver(self, place: int) -> bool:
        """Hear the oldest reply that is on its way."""
        if self.is_over or place not in self.lines or not self.lines[place].replies:
            return False
        try:
            for action in self.proposer.received(place, self.lines[place].replies.pop(0), 0.0):
                self._act(action)
        except PeerError:
            self.disconnect(place)
        return True

    # -- leading ----------------------------------------------------------------------------------------------

    def _act(self, action: Action) -> None:
        match action:
            case Elected(election):
                donor = self.world.keepers[election.donor]
                self.log = bytes(donor.wal[: max(election.start_lsn - START, 0)])
                if donor.acceptor.state.term > election.term or START + len(self.log) < election.start_lsn:
                    self.is_over = True  # it does not give away its WAL any more, or has lost it
                    return
                self.world.note_election(election.term, self.log)
                if not self.hesitates:
                    self.lead()
            case CommitAdvanced(lsn):
                self.world.note_commit(self.proposer.term, self.log[: lsn - START])
            case CampaignLost():
                pass  # it tries again when it is let
            case Overtaken() | Reconfigured():
                self.is_over = True

    def lead(self) -> None:
        self.proposer.lead(START)
        self._begin = len(self.log)
        self._generator = WalGenerator(Lsn(START + self._begin), pg_major=15, wal_seg_size=SEGMENT)

    def write(self, records: int = 1) -> None:
        if self._generator is None:
            return
        for _ in range(records):
            self._generator.record(self.number.to_bytes(8, "big"))
        self.log = self.log[: self._begin] + self._generator.wal
        self.proposer.wal_grew(Lsn(START + len(self.log)))

    def stage(self) -> Stage:
        return self.proposer.stage

    @property
    def committed_bytes(self) -> int:
        return max(self.proposer.commit_lsn - START, 0)


# -- at random -----------------------------------------------------------------------------------------------


def live(world: World, dice: Random, *, writers: int, lost_max: int, spans: int = 60) -> None:
    """In each span one writer reaches some of the keepers; then something may break.

    At most ``lost_max`` disks are lost at any time without having been made up for.
    """
    rivals = [Writer(world) for _ in range(writers)]
    everywhere = range(len(world.keepers))
    spend_span(rivals[0], list(everywhere), dice, steps=40 * len(world.keepers))
    for _ in range(spans):
        turn = dice.randrange(writers)
        if rivals[turn].is_over or dice.random() < 0.05:
            rivals[turn] = Writer(world)
        some = dice.sample(everywhere, dice.randint(1, len(world.keepers)))
        spend_span(rivals[turn], some, dice, steps=dice.choice([2, 6, 8 * len(some), 16 * len(some)]))
        break_something(world, dice.choice(rivals), dice, lost_max)


def spend_span(writer: Writer, places: list[int], dice: Random, *, steps: int) -> None:
    if writer.proposer.stage is Stage.LOST:
        writer.proposer.campaign_again()
    for _ in range(steps):
        place = dice.choice(places)
        match dice.randrange(10):
            case 0:
                writer.write(dice.randint(1, 2))
            case number if number < 6:
                half_way = Lsn(max(writer.proposer.followers[place].streaming_at, START + 96))
                writer.send(place, dice.choice([None, half_way]))
            case _:
                writer.deliver(place)


def break_something(world: World, writer: Writer, dice: Random, lost_max: int) -> None:
    place = dice.randrange(len(world.keepers))
    lost = {other for other, keeper in enumerate(world.keepers) if keeper.is_lost} | {place}
    match dice.randrange(20):
        case 0 | 1 | 2 | 3 | 4 if len(lost) <= lost_max:
            world.wipe(place)
        case 5:
            world.keepers[place].restart()
        case 6 | 7:
            writer.disconnect(place)
        case _:
            pass
