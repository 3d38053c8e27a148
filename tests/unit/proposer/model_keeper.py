"""A keeper reduced to what a proposer can notice: ten lines of state, no disk, no bytes.

WAL is a list of the terms that wrote it, one entry for each of its positions, from FIRST_LSN on.
"""

from dataclasses import dataclass, field

from walkeeper.ids import NodeId
from walkeeper.lsn import Lsn
from walkeeper.membership import NO_CONFIGURATION, Configuration, Generation
from walkeeper.messages import (
    AcceptorGreeting,
    AcceptorMessage,
    AppendResponse,
    AppendRun,
    ProposerElected,
    ProposerGreeting,
    VoteRequest,
    VoteResponse,
)
from walkeeper.proposer.proposer import Outgoing
from walkeeper.terms import INITIAL_TERM, Term, TermHistory

FIRST_LSN = Lsn(1000)


@dataclass
class ModelKeeper:
    node_id: NodeId
    configuration: Configuration = NO_CONFIGURATION
    term: Term = INITIAL_TERM
    history: TermHistory = TermHistory()
    wal: list[Term] = field(default_factory=list)
    has_leader: bool = False
    commit_lsn: Lsn = Lsn(0)
    is_whole: bool = True

    @property
    def generation(self) -> Generation:
        return self.configuration.generation

    @property
    def flush_lsn(self) -> Lsn:
        return Lsn(FIRST_LSN + len(self.wal)) if self.has_leader else Lsn(0)

    def hear(self, message: Outgoing, wal: list[Term]) -> AcceptorMessage | None:
        """``wal`` is what goes with an AppendRun."""
        match message:
            case ProposerGreeting():
                return AcceptorGreeting(self.node_id, self.configuration, self.term)
            case VoteRequest():
                return self._vote(message.term)
            case ProposerElected():
                self._obey(message)
                return None
            case AppendRun():
                return self._append(message, wal)

    def _vote(self, term: Term) -> VoteResponse:
        granted = self.term < term
        self.term = max(self.term, term)
        history = self.history.up_to(self.flush_lsn)
        return VoteResponse(self.generation, self.term, granted, self.flush_lsn, Lsn(0), history)

    def _obey(self, elected: ProposerElected) -> None:
        self.term = max(self.term, elected.term)
        if self.term > elected.term:
            return
        start = elected.start_streaming_at
        assert start >= self.commit_lsn, "invariant 10: nothing committed is truncated"
        self.has_leader = True
        del self.wal[start - FIRST_LSN :]
        assert self.flush_lsn == start
        self.history = elected.term_history

    def _append(self, append: AppendRun, wal: list[Term]) -> AppendResponse:
        if self.term > append.term:
            return AppendResponse(self.generation, self.term)
        assert self.term == append.term
        assert append.begin_lsn == self.flush_lsn, "invariant 6: no gap, no rewrite"
        self.wal += wal
        self.commit_lsn = max(self.commit_lsn, min(append.commit_lsn, self.flush_lsn))
        self.is_whole |= 0 < append.commit_lsn <= self.flush_lsn
        return AppendResponse(self.generation, self.term, self.flush_lsn, self.commit_lsn)
