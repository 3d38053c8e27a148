"""The acceptor: votes, follows the elected leader, and stores its WAL.  The Paxos half that never forgets.

``decide`` is pure.  It looks at one batch or one request of an operator (``administration``) and either refuses (raises, and nothing
has changed) or returns an ``Intent``: what must be kept, in which order, before a reply may be spoken.  Reply and
next state come out of an intent only through ``keep``, so persist-before-speak is the only path there is
(invariants 3, 7 and 22).

The checks stand in the order in which Neon's safekeeper makes them.  Two things are stricter: bytes that are not
WAL are refused before they are written, and what would be a panic there is a refusal here.

Does not know connections, files, clocks, batching or feedback.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from walkeeper.acceptor.administration import AdminRequest, administer, require_member, require_possible
from walkeeper.acceptor.effects import BecomeWhole, Effect, InitializeFirstSegment, SyncWal, TruncateWal, WriteWal
from walkeeper.acceptor.state import AcceptorState, Wal, start_scanner
from walkeeper.errors import (
    DiskFull,
    HistoryConflict,
    Malformed,
    NotElected,
    PartlyKept,
    TruncatesCommitted,
    TruncationPending,
    WalGap,
    WalRewrite,
    WrongDivergence,
    WrongGeneration,
    WrongServer,
)
from walkeeper.formats.control_file import ControlFile
from walkeeper.formats.xlog import MAGICS
from walkeeper.ids import FIRST_TLI, NO_TLI, NodeId, TimelineNumber
from walkeeper.lsn import Lsn
from walkeeper.membership import Configuration, Generation
from walkeeper.messages import (
    AcceptorGreeting,
    AcceptorMessage,
    AppendResponse,
    AppendRun,
    Batch,
    ProposerElected,
    ProposerGreeting,
    VoteRequest,
    VoteResponse,
)
from walkeeper.terms import highest_common_point


class Performer(Protocol):
    """What an intent needs of a store: perform one effect, or raise."""

    def perform(self, effect: Effect) -> None: ...


@dataclass(frozen=True, slots=True)
class Kept:
    """What is true once the effects are on disk."""

    acceptor: "Acceptor"
    reply: AcceptorMessage | None


@dataclass(frozen=True, slots=True)
class Intent:
    """Ordered effects, and behind them what may then be known and said."""

    effects: Sequence[Effect]
    _kept: Kept

    def keep(self, store: Performer) -> Kept:
        """Perform the effects in order; blocking.  Whatever the store raises, nothing comes out.

        A disk that is full at the first effect has changed nothing; later, what went before stands, and that is
        PartlyKept: the disk must be read again.
        """
        for done, effect in enumerate(self.effects):
            try:
                store.perform(effect)
            except DiskFull as full:
                if done:
                    raise PartlyKept(f"{full}, after {done} of {len(self.effects)} steps") from full
                raise
        return self._kept

    @property
    def written(self) -> WriteWal | None:
        """The WAL that is kept, if any is: it comes first."""
        first = self.effects[0] if self.effects else None
        return first if isinstance(first, WriteWal) else None

    @property
    def truncates_to(self) -> Lsn | None:
        """Readers must lose sight of WAL from here on before the disk does."""
        return next((effect.lsn for effect in self.effects if isinstance(effect, TruncateWal)), None)


@dataclass(frozen=True, slots=True)
class Acceptor:
    """One keeper's part in one timeline: a value, replaced as a whole when an intent has been kept."""

    node_id: NodeId
    state: AcceptorState

    def decide(self, request: Batch | AdminRequest) -> Intent:
        """Raises Refused or PeerError, both without any change; ValueError and the like never."""
        match request:
            case AppendRun():
                return self._append(request)
            case VoteRequest():
                return self._vote(request)
            case ProposerElected():
                return self._elected(request)
            case ProposerGreeting():
                return self._greeting(request)
            case _:
                return self._intend(*administer(self.node_id, self.state, request))

    def _intend(
        self, effects: Sequence[Effect], state: AcceptorState, reply: AcceptorMessage | None = None
    ) -> Intent:
        return Intent(effects, Kept(Acceptor(self.node_id, state), reply))

    # -- greeting -------------------------------------------------------------------------------------------

    def _greeting(self, greeting: ProposerGreeting) -> Intent:
        kept = self.state.kept
        self._require_same_server(greeting)
        server, configuration = kept.server, self._newer(greeting.configuration)
        if greeting.server.system_id not in (0, server.system_id):
            if server.system_id and self.state.wal.write_lsn:  # stricter than Neon: the WAL here says whose it is
                raise WrongServer("system identifier", greeting.server.system_id, server.system_id)
            server = replace(
                server,
                system_id=greeting.server.system_id,
                pg_version=greeting.server.pg_version or server.pg_version,
            )
        effects: Sequence[Effect] = ()
        state = self.state
        if (server, configuration) != (kept.server, kept.configuration):
            effects, state = self.state.saving(server=server, configuration=configuration)
        return self._intend(effects, state, AcceptorGreeting(self.node_id, configuration, state.term))

    def _newer(self, configuration: Configuration) -> Configuration:
        """``configuration`` or our own, whichever is newer (invariant 18).  Raises NotMember (invariant 19)."""
        own = self.state.kept.configuration
        if configuration.generation <= own.generation:
            return own
        require_member(self.node_id, configuration)
        return configuration

    def _require_same_server(self, greeting: ProposerGreeting) -> None:
        kept = self.state.kept
        said, own = greeting.server, kept.server
        if said.pg_major not in MAGICS or said.pg_major != own.pg_major:
            raise WrongServer("server version", said.pg_version, own.pg_version)
        if greeting.ttid.tenant_id != kept.ttid.tenant_id:
            raise WrongServer("tenant ID", greeting.ttid.tenant_id, kept.ttid.tenant_id)
        if greeting.ttid.timeline_id != kept.ttid.timeline_id:
            raise WrongServer("timeline ID", greeting.ttid.timeline_id, kept.ttid.timeline_id)
        if said.wal_seg_size != own.wal_seg_size:
            raise WrongServer("wal_seg_size", said.wal_seg_size, own.wal_seg_size)

    # -- vote -----------------------------------------------------------------------------------------------

    def _vote(self, request: VoteRequest) -> Intent:
        """Granted iff the term is newer than any before (invariants 1, 2 and 4); the log plays no role.

        What has been received is durable already, so the flush_lsn in the reply needs no sync here.
        """
        self._require_generation("VoteRequest", request.generation)
        require_possible(request.term)
        given = self.state.term < request.term
        effects, state = self.state.saving(term=request.term) if given else ((), self.state)
        reply = VoteResponse(
            generation=state.kept.configuration.generation,
            term=state.term,
            vote_given=given,
            flush_lsn=state.flush_lsn,
            truncate_lsn=state.ahead.peer_horizon_lsn,
            term_history=state.term_history,
            timeline_start_lsn=state.kept.timeline_start_lsn,
        )
        return self._intend(effects, state, reply)

    # -- elected --------------------------------------------------------------------------------------------

    def _elected(self, elected: ProposerElected) -> Intent:
        """Follow the leader of a term: term, then truncation, then history, each durable before the next.

        The truncation must not come after the history: old WAL would be labelled with the new leader's terms.
        A history that is longer than the WAL is harmless, since everybody cuts it at flush_lsn.
        """
        self._require_generation("ProposerElected", elected.generation)
        require_possible(elected.term)
        if self.state.term > elected.term:
            return self._intend((), self.state)  # invariants 5 and 17: the next append tells the term
        self._require_divergence_at(elected)
        effects: list[Effect] = []
        saved, state = self.state.saving(term=elected.term) if self.state.term < elected.term else ((), self.state)
        effects += saved
        truncated, state = self._truncate(state, elected)
        effects += truncated
        saved, state = state.saving(**_adopted(state, elected))
        effects += saved
        return self._intend(effects, replace(state, term_start_lsn=elected.term_history.last_start))

    def _require_divergence_at(self, elected: ProposerElected) -> None:
        """The leader must stream from exactly where the logs diverge (invariants 10 and 11)."""
        state, start = self.state, elected.start_streaming_at
        if not elected.term_history.entries or not elected.term_history.entries[0].lsn:
            raise Malformed(f"ProposerElected with a term history that starts nowhere: {elected.term_history}")
        own = state.term_history
        try:
            common = highest_common_point(elected.term_history, own, state.flush_lsn)
        except ValueError as conflict:
            raise HistoryConflict(f"refusing ProposerElected of term {elected.term}: {conflict}") from conflict
        expected = common.lsn if common else elected.term_history.entries[0].lsn
        if expected != start:
            raise WrongDivergence(elected.term, start, expected, own)
        if start < state.ahead.commit_lsn:
            raise TruncatesCommitted(start, state.ahead.commit_lsn)

    def _truncate(self, state: AcceptorState, elected: ProposerElected) -> tuple[Sequence[Effect], AcceptorState]:
        start, wal = elected.start_streaming_at, state.wal
        if not wal.awaits_truncation and start == wal.write_lsn == wal.flush_lsn:
            return (), state
        effects: list[Effect] = []
        tli = wal.tli
        if tli == NO_TLI and start % state.kept.server.wal_seg_size:
            tli = FIRST_TLI
            effects.append(InitializeFirstSegment(start, tli))
        effects.append(TruncateWal(start, tli))
        timeline_start = state.kept.timeline_start_lsn or elected.term_history.entries[0].lsn
        origin = replace(state.kept, timeline_start_lsn=timeline_start)
        scanner = start_scanner(origin, start, tli)
        return effects, replace(state, wal=Wal(start, scanner, tli, awaits_truncation=False))

    # -- append ---------------------------------------------------------------------------------------------

    def _append(self, run: AppendRun) -> Intent:
        """Store WAL of the current leader (invariant 6), and learn what is committed."""
        self._require_generation("AppendRequest", run.generation)
        state = self.state
        if state.term < run.term:
            raise NotElected(run.term, state.term)
        if state.term > run.term:  # invariants 5 and 16
            return self._intend((), state, AppendResponse(state.kept.configuration.generation, state.term))
        wal = state.wal
        if wal.write_lsn > run.begin_lsn:
            raise WalRewrite(run.begin_lsn, wal.write_lsn)
        if wal.write_lsn not in (0, run.begin_lsn):
            raise WalGap(run.begin_lsn, wal.write_lsn)
        effects: list[Effect] = []
        if run.slices:
            written, state = self._write(state, run)
            effects += written
        saved, state = _learn(state, run)
        effects += saved
        completed, state = _become_whole(state, run)
        effects += completed
        reply = AppendResponse(
            state.kept.configuration.generation, state.term, state.flush_lsn, state.kept.commit_lsn
        )
        return self._intend(effects, state, reply)

    def _write(self, state: AcceptorState, run: AppendRun) -> tuple[Sequence[Effect], AcceptorState]:
        wal = state.wal
        if wal.awaits_truncation or wal.scanner is None:  # invariant 27
            raise TruncationPending(run.begin_lsn)
        scanner = wal.scanner.scan(run.slices)
        tli = wal.tli or scanner.tli
        if not tli:  # the first bytes of a segment must say whose they are: they give it its name
            raise Malformed(f"{run.wal_bytes} bytes of WAL do not hold the first page header")
        if scanner.tli not in (0, tli):
            raise Malformed(f"WAL of PostgreSQL timeline {scanner.tli} after WAL of timeline {tli}")
        wal = Wal(run.end_lsn, scanner, tli, awaits_truncation=False)
        return (WriteWal(run.begin_lsn, run.slices, tli), SyncWal()), state.extended(wal)

    def _require_generation(self, request: str, generation: Generation) -> None:
        own = self.state.kept.configuration.generation
        if generation != own:
            raise WrongGeneration(request, generation, own)


def _adopted(state: AcceptorState, elected: ProposerElected) -> dict[str, object]:
    """What a leader's history settles in the control file.  Starts are set once (invariant 12)."""
    kept, ahead = state.kept, state.ahead
    start = kept.timeline_start_lsn or elected.term_history.entries[0].lsn
    return {
        "term_history": elected.term_history,
        "timeline_start_lsn": start,
        "peer_horizon_lsn": ahead.peer_horizon_lsn or start,
        "local_start_lsn": kept.local_start_lsn or elected.start_streaming_at,
        "commit_lsn": max(ahead.commit_lsn, start),
        "backup_lsn": max(ahead.backup_lsn, start),
        "remote_consistent_lsn": max(ahead.remote_consistent_lsn, start),
    }


def _learn(state: AcceptorState, run: AppendRun) -> tuple[Sequence[Effect], AcceptorState]:
    """Take over the leader's commit_lsn, never beyond what is here (invariant 8), and its truncate_lsn, never beyond that.

    The moment the commit reaches the start of the leader's term is saved at once: ``walkeeper sync`` waits for
    a majority to report it from disk.
    """
    ahead = state.ahead
    commit_lsn = ahead.commit_lsn
    if run.commit_lsn:
        commit_lsn = min(max(run.commit_lsn, ahead.commit_lsn), state.flush_lsn)
        assert commit_lsn >= ahead.commit_lsn, "flush_lsn fell below commit_lsn"
    state = state.ahead_at(commit_lsn, max(ahead.peer_horizon_lsn, min(run.truncate_lsn, commit_lsn)))
    if run.commit_lsn and state.kept.commit_lsn < state.term_start_lsn <= commit_lsn:
        return state.saving()
    return (), state


def _become_whole(state: AcceptorState, run: AppendRun) -> tuple[Sequence[Effect], AcceptorState]:
    """Up to its leader's commit_lsn a keeper has everything that was ever committed (invariant 47).

    A leader that is not sure whether it still is one says no commit_lsn.
    """
    if state.is_whole or not 0 < run.commit_lsn <= state.flush_lsn:
        return (), state
    return (BecomeWhole(),), replace(state, is_whole=True)


def new_acceptor(
    node_id: NodeId, kept: ControlFile, end_lsn: Lsn, tli: TimelineNumber, *, is_whole: bool
) -> Acceptor:
    """An acceptor as it stands after a start, from what ``recover`` found."""
    return Acceptor(node_id, AcceptorState.recovered(kept, end_lsn, tli, is_whole=is_whole))
