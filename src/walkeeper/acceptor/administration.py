"""What an operator, or a controller, may ask of an acceptor, and what that changes: pure, like ``acceptor``.

The rules that keep WAL safe hold for operators, too: terms and generations only grow (invariants 1 and 18), nobody adopts a
configuration without itself (invariant 19), and what says where WAL begins and what of it is committed is not for anybody
to say.

Does not reply: who asked is told the state before and after.  Source: Neon's ``state.rs`` and ``timeline.rs``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, assert_never

from walkeeper.acceptor.effects import Effect
from walkeeper.acceptor.state import AcceptorState, Ahead
from walkeeper.errors import Malformed, NotMember, NotPatched, StaleConfiguration, StaleExclusion, StillMember
from walkeeper.formats.control_file import ControlFile
from walkeeper.ids import NodeId
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import NO_GENERATION, Configuration
from walkeeper.terms import INITIAL_TERM, TERM_MAX, Term

Outcome = tuple[Sequence[Effect], AcceptorState]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Save what has run ahead of the control file, and what pageservers have said since."""

    remote_consistent_lsn: Lsn = INVALID_LSN


@dataclass(frozen=True, slots=True)
class SwitchMembership:
    """Adopt a newer configuration; the one that is adopted already is fine, too."""

    configuration: Configuration


@dataclass(frozen=True, slots=True)
class BumpTerm:
    """Go to ``term`` if that is higher, None: to the next one.  Whoever leads in the old one is refused then."""

    term: Term | None = None


@dataclass(frozen=True, slots=True)
class HearOfPeer:
    """What another keeper says of itself; LSNs are 0 where it says nothing."""

    last_log_term: Term = INITIAL_TERM
    commit_lsn: Lsn = INVALID_LSN
    backup_lsn: Lsn = INVALID_LSN
    peer_horizon_lsn: Lsn = INVALID_LSN
    remote_consistent_lsn: Lsn = INVALID_LSN


@dataclass(frozen=True, slots=True)
class PatchControlFile:
    """Keep what ``change`` makes of the control file.  It must be pure, and may raise Malformed."""

    change: Callable[[ControlFile], ControlFile]


AdminRequest = Checkpoint | SwitchMembership | BumpTerm | HearOfPeer | PatchControlFile


def administer(node_id: NodeId, state: AcceptorState, request: AdminRequest) -> Outcome:
    """What must be kept, and the state then.  Raises Refused or PeerError, both without any change."""
    match request:
        case Checkpoint(remote_consistent_lsn):
            return state.hearing_of(remote_consistent_lsn).saving()
        case SwitchMembership(configuration):
            return _switch(node_id, state, configuration)
        case BumpTerm(term):
            return _bump(state, term)
        case HearOfPeer():
            return _hear(state, request)
        case PatchControlFile(change):
            return _patch(node_id, state, change)
        case _:
            assert_never(request)


def _switch(node_id: NodeId, state: AcceptorState, configuration: Configuration) -> Outcome:
    if node_id not in configuration:
        raise NotMember(node_id, configuration.generation)
    own = state.kept.configuration
    if configuration.generation < own.generation:
        raise StaleConfiguration(configuration.generation, own.generation)
    if configuration.generation == own.generation:  # whatever it says: one generation is one configuration
        return (), state
    return state.saving(configuration=configuration)


def _bump(state: AcceptorState, term: Term | None) -> Outcome:
    wanted = Term(state.term + 1) if term is None else max(term, state.term)
    if wanted == state.term:
        return (), state
    require_possible(wanted)
    return state.saving(term=wanted)


def _hear(state: AcceptorState, peer: HearOfPeer) -> Outcome:
    """Positions only grow, up to what is committed here.  A commit_lsn counts if both have the same log (invariant 20), and all of ours is committed.

    One below that is left alone: nobody here has seen whether a record ends there, and a start would scan from it.
    """
    kept, ahead = state.kept, state.ahead
    is_committed = peer.last_log_term == state.last_log_term and peer.commit_lsn >= state.flush_lsn
    commit_lsn = max(ahead.commit_lsn, state.flush_lsn) if is_committed else ahead.commit_lsn
    ahead = Ahead(
        commit_lsn,
        max(ahead.backup_lsn, min(peer.backup_lsn, commit_lsn)),
        max(ahead.peer_horizon_lsn, min(peer.peer_horizon_lsn, commit_lsn)),
        max(ahead.remote_consistent_lsn, min(peer.remote_consistent_lsn, commit_lsn)),
    )
    state = replace(state, ahead=ahead)
    reaches_term = kept.commit_lsn < state.term_start_lsn <= ahead.commit_lsn
    others = (
        (kept.backup_lsn, ahead.backup_lsn),
        (kept.peer_horizon_lsn, ahead.peer_horizon_lsn),
        (kept.remote_consistent_lsn, ahead.remote_consistent_lsn),
    )
    if reaches_term or any(was + kept.server.wal_seg_size < now for was, now in others):
        return state.saving()
    return (), state


_SETTLED: Final = (
    "ttid",
    "server",
    "term_history",
    "timeline_start_lsn",
    "local_start_lsn",
    "commit_lsn",
    "evicted_at",
)
"""What says which WAL is here, and from where on a start reads it: what the segments do not bear out would be Corrupt."""

_GROWING: Final = ("backup_lsn", "peer_horizon_lsn", "remote_consistent_lsn")
"""What others go by when they remove WAL (invariant 9)."""


def _patch(node_id: NodeId, state: AcceptorState, change: Callable[[ControlFile], ControlFile]) -> Outcome:
    current = state.current
    target = change(current)
    for name in _SETTLED:
        if getattr(target, name) != getattr(current, name):
            raise NotPatched(name, "it says what the WAL here is")
    for name in _GROWING:
        if not getattr(current, name) <= getattr(target, name) <= max(getattr(current, name), current.commit_lsn):
            raise NotPatched(name, "it never goes back, nor beyond what is committed")
    if target.term < current.term:
        raise NotPatched("term", "votes that were given would be given again")
    require_possible(target.term)
    if target.configuration != current.configuration:
        require_member(node_id, target.configuration)
        if target.configuration.generation <= current.configuration.generation:
            raise StaleConfiguration(target.configuration.generation, current.configuration.generation)
    return state.becoming(target)


# -- rules that others need, too ------------------------------------------------------------------------------


def require_possible(term: Term) -> None:
    """Raises Malformed for a term that leaves no room for later ones."""
    if term > TERM_MAX:
        raise Malformed(f"term {term} leaves no room for later ones")


def require_member(node_id: NodeId, configuration: Configuration) -> None:
    """Raises NotMember if generations are in use and ``node_id`` is not in this one (invariant 19)."""
    if configuration.generation != NO_GENERATION and node_id not in configuration:
        raise NotMember(node_id, configuration.generation)


def require_no_member(node_id: NodeId, configuration: Configuration) -> None:
    """Raises StillMember unless ``configuration`` excludes ``node_id``."""
    if configuration.generation == NO_GENERATION or node_id in configuration:
        raise StillMember(node_id, configuration.generation)


def require_not_newer(own: Configuration, excluding: Configuration) -> None:
    """Raises StaleExclusion if a keeper that has ``own`` must not believe ``excluding``."""
    if own.generation > excluding.generation:
        raise StaleExclusion(excluding.generation, own.generation)
