"""What keepers say on the wire, checked in the moment in which they say it.

Checks invariants 1 to 3, 7 to 9, 12 to 14, 16, 18, 19, 22, 25 and 38 of docs/guarantees.md: terms, and one vote in each;
that what is said of terms is on disk; that what is reported as flushed is there, byte for byte as its leader wrote it, and
so is the commit that is told; what never goes back on one connection, or on one disk; what is set once; histories;
generations, and who is in them.

What is violated is told to ``accuse``: raised where keepers speak, it would only end a connection.

Listens to replies only, and looks at what a power cut would leave of the disk: it needs nothing of the keeper's insides
but to know whether it has changed its mind meanwhile, in which case there is nothing to compare.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from walkeeper.formats.control_file import ControlFile, parse_control_file
from walkeeper.formats.frames import FrameParser
from walkeeper.formats.proposer import parse_acceptor_message
from walkeeper.formats.segments import segment_offset, segment_start
from walkeeper.ids import FIRST_TLI, TenantTimelineId
from walkeeper.links.keeper import PROTOCOL_VERSION
from walkeeper.lsn import INVALID_LSN, Lsn, format_lsn
from walkeeper.membership import NO_GENERATION, Configuration, Generation
from walkeeper.messages import AcceptorGreeting, AcceptorMessage, AppendResponse, VoteResponse
from walkeeper.storage.recovery import CONTROL_FILE
from walkeeper.storage.wal import partial, segment_path
from walkeeper.terms import Term
from walkeeper.testing.machine import KeeperMachine, directory_of
from walkeeper.testing.network import MemoryLink
from walkeeper.testing.truth import Truth, Violated

_TO_READERS: Final = (b"w", b"k")
"""The first bytes of what is sent to those who read WAL: those are not acceptor's messages."""

_ONLY_RISING: Final = ("commit_lsn", "backup_lsn", "peer_horizon_lsn", "remote_consistent_lsn")
_SET_ONCE: Final = ("timeline_start_lsn", "local_start_lsn")
"""Of a control file."""


_parse_control_file: Final = lru_cache(64)(parse_control_file)
"""It is looked at with every reply, and changes with few."""


@dataclass(slots=True)
class _Disk:
    """What was said on behalf of one disk, and what was seen on it."""

    kept: ControlFile | None = None
    votes: dict[Term, str] = field(default_factory=dict)
    generation: Generation = NO_GENERATION
    proved: dict[Term, Lsn] = field(default_factory=dict)
    """Up to where the WAL of a term's leader was seen on disk."""


@dataclass(slots=True)
class _Conversation:
    """One connection, as far as it was heard."""

    frames: FrameParser = field(default_factory=FrameParser)
    term: Term = Term(0)
    flushed: dict[Term, Lsn] = field(default_factory=dict)
    committed: dict[Term, Lsn] = field(default_factory=dict)


class Witness:
    """Hears every keeper.  ``replies`` counts what was checked."""

    def __init__(
        self,
        truth: Truth,
        ttid: TenantTimelineId,
        keepers: Mapping[str, KeeperMachine],
        accuse: Callable[[Violated], None],
    ) -> None:
        self.replies = 0
        self._accuse = accuse
        self._truth = truth
        self._ttid = ttid
        self._keepers = keepers
        self._disks: dict[tuple[str, int], _Disk] = {}
        self._configurations: dict[Generation, Configuration] = {}
        self._conversations: dict[MemoryLink, _Conversation] = {}

    def connected(self, _client: MemoryLink, server: MemoryLink) -> None:
        """Listen to what ``server`` will say."""
        if server.here.name in self._keepers:
            self._conversations = {
                link: heard for link, heard in self._conversations.items() if not link.is_closed
            }
            self._conversations[server] = _Conversation()
            server.overhear = self._overhear

    def _overhear(self, link: MemoryLink, data: bytes) -> None:
        if data == b"N":  # no TLS here
            return
        heard = self._conversations[link]
        heard.frames.feed(data)
        while (frame := heard.frames.next_frame()) is not None:
            if frame.tag == b"d" and bytes(frame.body[:1]) not in _TO_READERS:
                self.replies += 1
                try:
                    self._check(link, heard, parse_acceptor_message(frame.body, PROTOCOL_VERSION))
                except Violated as violated:
                    self._accuse(violated)

    # -- the rules --------------------------------------------------------------------------------------------

    def _check(self, link: MemoryLink, heard: _Conversation, message: AcceptorMessage) -> None:
        keeper = self._keepers[link.here.name]
        if message.term < heard.term:
            raise Violated(f"1: {keeper} told {link.there} term {message.term} after {heard.term}: {message}")
        heard.term = message.term
        kept = self._kept(keeper)
        self._check_kept(keeper, kept)
        if kept.term < message.term:
            raise Violated(f"3: {keeper} says {message}, on its disk is term {kept.term}")
        match message:
            case VoteResponse():
                self._check_generation(keeper, message.generation, kept)
                self._check_vote(keeper, link, message)
            case AppendResponse():
                self._check_generation(keeper, message.generation, kept)
                self._check_append(keeper, heard, message, kept)
            case AcceptorGreeting():
                self._check_generation(keeper, message.configuration.generation, kept)
                self._check_configuration(keeper, message.configuration)

    def _check_generation(self, keeper: KeeperMachine, generation: Generation, kept: ControlFile) -> None:
        """A reply may be on its way while the keeper goes over to a newer configuration, but none says so too early."""
        disk = self._disk(keeper)
        if kept.configuration.generation < max(generation, disk.generation):
            raise Violated(
                f"18: {keeper} speaks in generation {generation} and has spoken in {disk.generation}; on its disk is"
                f" {kept.configuration.generation}"
            )
        disk.generation = max(disk.generation, generation)

    def _check_configuration(self, keeper: KeeperMachine, configuration: Configuration) -> None:
        if configuration.generation != NO_GENERATION and keeper.node_id not in configuration:
            raise Violated(f"19: {keeper} is in {configuration} without being a member")
        known = self._configurations.setdefault(configuration.generation, configuration)
        if known != configuration:
            raise Violated(f"38: {keeper} is in {configuration}, others are in {known}")

    def _check_kept(self, keeper: KeeperMachine, kept: ControlFile) -> None:
        """What changes on one disk in one direction only, or once, starts of the keeper included."""
        disk = self._disk(keeper)
        before, disk.kept = disk.kept or kept, kept
        if kept.term < before.term:
            raise Violated(f"1: on the disk of {keeper} is term {kept.term} after {before.term}")
        for what in _ONLY_RISING:
            if getattr(kept, what) < getattr(before, what):
                raise Violated(f"9: on the disk of {keeper} {what} goes back: {kept} after {before}")
        for what in _SET_ONCE:
            if getattr(before, what) not in (INVALID_LSN, getattr(kept, what)):
                raise Violated(f"12: on the disk of {keeper} {what} is set again: {kept} after {before}")

    def _check_vote(self, keeper: KeeperMachine, link: MemoryLink, vote: VoteResponse) -> None:
        entries = vote.term_history.entries
        if entries and (entries[-1].lsn > vote.flush_lsn or entries[-1].term > vote.term):
            raise Violated(f"13: {keeper} says {vote}")
        if not vote.vote_given:
            return
        votes = self._disk(keeper).votes
        if vote.term in votes:
            raise Violated(f"2: {keeper} votes in term {vote.term} for {votes[vote.term]} and {link.there}")
        votes[vote.term] = link.there.name

    def _check_append(
        self, keeper: KeeperMachine, heard: _Conversation, said: AppendResponse, kept: ControlFile
    ) -> None:
        if said.flush_lsn == INVALID_LSN:  # speaks of its term only
            return
        for what, lsn, before in (
            ("flush_lsn", said.flush_lsn, heard.flushed),
            ("commit_lsn", said.commit_lsn, heard.committed),
        ):
            if lsn < before.get(said.term, INVALID_LSN):
                raise Violated(f"9: {keeper} takes {what} back in term {said.term}: {said}")
            before[said.term] = lsn
        if said.commit_lsn > said.flush_lsn:
            raise Violated(f"8: {keeper} says {said}")
        if kept.term != said.term:
            return  # it has heard of another leader since it decided to say this
        if said.commit_lsn > kept.commit_lsn:
            raise Violated(f"16: {keeper} says {said}, on its disk is {format_lsn(kept.commit_lsn)}")
        self._check_flushed(keeper, said, kept)

    def _check_flushed(self, keeper: KeeperMachine, said: AppendResponse, kept: ControlFile) -> None:
        """What a leader's own log has up to there must be on the disk, as far as this was not seen before."""
        history = self._truth.history_of(said.term)
        if said.flush_lsn < history.last_start:
            return  # what it has is not of this leader yet
        proved = self._disk(keeper).proved
        begin_lsn = proved.get(said.term, max(kept.local_start_lsn, self._truth.start_lsn))
        while begin_lsn < said.flush_lsn:
            end_lsn = min(said.flush_lsn, self._segment_end(begin_lsn))
            if self._durable_wal(keeper, begin_lsn, end_lsn) != self._truth.wal(history, begin_lsn, end_lsn):
                raise Violated(
                    f"7: {keeper} says {said}, and its disk has something else below {format_lsn(end_lsn)}"
                )
            begin_lsn = end_lsn
        proved[said.term] = max(said.flush_lsn, proved.get(said.term, INVALID_LSN))

    # -- looking at disks -------------------------------------------------------------------------------------

    def _disk(self, keeper: KeeperMachine) -> _Disk:
        return self._disks.setdefault((keeper.host.name, keeper.disks), _Disk())

    def _kept(self, keeper: KeeperMachine) -> ControlFile:
        content = keeper.disk.durable_content(directory_of(self._ttid) / CONTROL_FILE)
        if content is None:
            raise Violated(f"3: {keeper} speaks of {self._ttid} and has no control file on its disk")
        return _parse_control_file(content)

    def _durable_wal(self, keeper: KeeperMachine, begin_lsn: Lsn, end_lsn: Lsn) -> bytes:
        size = self._truth.server.wal_seg_size
        path = segment_path(directory_of(self._ttid), FIRST_TLI, begin_lsn, size)
        offset, length = segment_offset(begin_lsn, size), end_lsn - begin_lsn
        content = keeper.disk.durable_content(path, offset, length)
        if content is None:
            content = keeper.disk.durable_content(partial(path), offset, length) or b""
        return content.ljust(length, b"\0")  # the padding of an XLOG_SWITCH comes later

    def _segment_end(self, lsn: Lsn) -> Lsn:
        size = self._truth.server.wal_seg_size
        return Lsn(segment_start(lsn, size) + size)
