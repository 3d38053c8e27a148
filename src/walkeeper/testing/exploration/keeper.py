"""One keeper of a small world as a value: the real acceptor, and a disk that is a value as well.

What a keeper does with a message depends on nothing but the keeper and the message, so every answer is worked out once
and remembered by the caller.  Besides the answer there are the crashes: power may go after each effect of an intent.

Does not know connections.  A crash loses what was not synced, or none of it; torn writes are the storage's business.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never

from walkeeper.acceptor.acceptor import Acceptor, Intent, Kept, new_acceptor
from walkeeper.acceptor.administration import AdminRequest
from walkeeper.acceptor.effects import (
    BecomeWhole,
    Effect,
    InitializeFirstSegment,
    KeepControlFile,
    SyncWal,
    TruncateWal,
    WriteWal,
)
from walkeeper.acceptor.state import AcceptorState, new_control_file
from walkeeper.errors import PeerError, Refused
from walkeeper.formats.control_file import ControlFile
from walkeeper.formats.xlog import RecordVerifier
from walkeeper.ids import NO_TLI, NodeId, TimelineNumber
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import NO_CONFIGURATION
from walkeeper.messages import AcceptorMessage, Batch, VoteResponse
from walkeeper.terms import Term
from walkeeper.testing.exploration.entries import SERVER, START, TTID, Log, log_of

NODE = NodeId(1)
"""Keepers differ by their place only: without a membership no acceptor looks at its own number."""


@dataclass(frozen=True, slots=True)
class Disk:
    """What is durable.  ``wal`` begins at START."""

    control_file: ControlFile
    wal: bytes = b""
    tli: TimelineNumber = NO_TLI
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class Keeper:
    """``voted`` is no state of the keeper but what others have heard from it: the terms in which it gave its vote."""

    state: AcceptorState
    disk: Disk
    voted: frozenset[Term] = frozenset()

    @property
    def log(self) -> Log:
        return log_of(self.disk.wal)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One thing that can come of a message.  ``ends``: the connection on which it came is over."""

    keeper: Keeper
    reply: AcceptorMessage | None = None
    refusal: str = ""
    crashed_after: str = ""
    truncated_to: Lsn | None = None
    gave_vote_in: Term | None = None

    @property
    def ends(self) -> bool:
        return bool(self.refusal or self.crashed_after)


@dataclass(slots=True)
class Store:
    """Performs effects on ``disk``.  ``images``: what a loss of power would have left, after each effect."""

    disk: Disk
    images: list[tuple[str, Disk]] = field(default_factory=list)
    _written: Disk | None = None

    def perform(self, effect: Effect) -> None:
        match effect:
            case KeepControlFile(control_file):
                self.disk = replace(self.disk, control_file=control_file)
            case TruncateWal(lsn, tli):
                self.disk = replace(self.disk, wal=self.disk.wal[: max(lsn - START, 0)], tli=tli)
            case InitializeFirstSegment(_, tli):
                self.disk = replace(self.disk, tli=tli)
            case WriteWal(begin_lsn, slices, tli):
                assert begin_lsn == START + len(self.disk.wal), "WAL is written where it ends"
                self._written = replace(self.disk, wal=self.disk.wal + b"".join(slices), tli=tli)
                self.images.append(("WriteWal", self._written))
            case SyncWal():
                self.disk = self._written or self.disk
            case BecomeWhole():
                self.disk = replace(self.disk, is_whole=True)
            case _:
                assert_never(effect)
        self.images.append((type(effect).__name__, self.disk))


class KeeperCode:
    """How keepers behave: ``acceptor`` is the class that decides.  Subclasses break ``keep`` or ``recover`` on purpose."""

    def __init__(self, acceptor: type[Acceptor] = Acceptor) -> None:
        self._acceptor = acceptor

    def new(self) -> Keeper:
        """A whole keeper with a timeline that begins at START, as in the original's model."""
        control_file = new_control_file(
            TTID, SERVER, (0, 0), configuration=NO_CONFIGURATION, start_lsn=START, commit_lsn=START
        )
        return self.recover(Disk(control_file), frozenset())

    def recover(self, disk: Disk, voted: frozenset[Term]) -> Keeper:
        """The keeper after a start: WAL up to the last whole record behind the commit on disk."""
        commit_lsn = disk.control_file.commit_lsn
        end_lsn = INVALID_LSN
        if commit_lsn:
            verifier = RecordVerifier(commit_lsn, pg_major=SERVER.pg_major, wal_seg_size=SERVER.wal_seg_size)
            verifier.feed(disk.wal[commit_lsn - START :])
            end_lsn = verifier.record_end
        disk = replace(disk, wal=disk.wal[: max(end_lsn - START, 0)])
        acceptor = new_acceptor(NODE, disk.control_file, end_lsn, disk.tli, is_whole=disk.is_whole)
        return Keeper(acceptor.state, disk, voted)

    def restart(self, keeper: Keeper) -> Keeper:
        return self.recover(keeper.disk, keeper.voted)

    def hear(self, keeper: Keeper, message: Batch | AdminRequest) -> Sequence[Outcome]:
        """What can come of ``message``: the answer, or a crash on the way to it."""
        store = Store(keeper.disk)
        try:
            intent = self._acceptor(NODE, keeper.state).decide(message)
        except (Refused, PeerError) as refusal:
            return [Outcome(keeper, refusal=type(refusal).__name__)]
        kept = self.keep(intent, store)
        vote = kept.reply.term if isinstance(kept.reply, VoteResponse) and kept.reply.vote_given else None
        voted = keeper.voted if vote is None else keeper.voted | {vote}
        after = Keeper(kept.acceptor.state, store.disk, voted)
        done = Outcome(after, kept.reply, truncated_to=intent.truncates_to, gave_vote_in=vote)
        return [done, *self._crashes(keeper, store)]

    def keep(self, intent: Intent, store: Store) -> Kept:
        return intent.keep(store)

    def _crashes(self, keeper: Keeper, store: Store) -> Sequence[Outcome]:
        """A crash before the first effect is a message that was lost, one after the last a reply that was lost."""
        seen = {keeper.disk, store.disk}
        found = []
        for effect, disk in store.images[:-1]:
            if disk not in seen:
                seen.add(disk)
                found.append(Outcome(self.recover(disk, keeper.voted), crashed_after=effect))
        return found
