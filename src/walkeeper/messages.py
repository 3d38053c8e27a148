"""What proposers and acceptors say to each other, as values.

The same messages travel in protocol 2 and 3; how they look in bytes is ``formats.proposer``.  Field names are
ours; wire misnomers are translated there.  All LSNs are byte positions, all terms and generations unsigned.

Source: Neon's walproposer/safekeeper protocol.  Does not decide and does not parse.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from walkeeper.ids import NodeId, TenantTimelineId
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import NO_GENERATION, Configuration, Generation
from walkeeper.terms import Term, TermHistory

APPEND_BYTES_MAX = 131_072
"""Most WAL in one AppendRequest, in bytes: 16 pages (MAX_SEND_SIZE of the protocol)."""

Slice = bytes | memoryview


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The PostgreSQL server whose WAL this is.

    ``pg_version`` as in PG_VERSION_NUM (150005), ``system_id`` 0 when unknown, ``wal_seg_size`` in bytes.
    """

    pg_version: int
    system_id: int
    wal_seg_size: int

    @property
    def pg_major(self) -> int:
        return self.pg_version // 10000


@dataclass(frozen=True, slots=True)
class ProposerGreeting:
    """First words of a proposer.  ``proposer_uuid`` is zeros except from 2023 clients."""

    ttid: TenantTimelineId
    configuration: Configuration
    server: ServerInfo
    proposer_uuid: bytes = bytes(16)


@dataclass(frozen=True, slots=True)
class VoteRequest:
    generation: Generation
    term: Term


@dataclass(frozen=True, slots=True)
class ProposerElected:
    """The proposer won ``term``; it will stream from ``start_streaming_at``.

    ``term_history`` is complete and ends with the new term.
    """

    generation: Generation
    term: Term
    start_streaming_at: Lsn
    term_history: TermHistory


@dataclass(frozen=True, slots=True)
class AppendRequest:
    """WAL for [begin_lsn, end_lsn), or a heartbeat when that is empty.

    ``commit_lsn`` is what the leader knows to be on a quorum (0: nothing yet); ``truncate_lsn`` is what every
    keeper has.  ``wal`` may be a view into a receive buffer: whoever keeps it pins that buffer.
    """

    generation: Generation
    term: Term
    begin_lsn: Lsn
    end_lsn: Lsn
    commit_lsn: Lsn
    truncate_lsn: Lsn
    wal: Slice = b""


@dataclass(frozen=True, slots=True)
class AppendRun:
    """Contiguous AppendRequests of one term and generation, taken as one: the unit that shares a write and a sync.

    ``slices`` hold the WAL of [begin_lsn, end_lsn) in order, none of them empty; what a proposer wants to have sent has
    none yet.  ``commit_lsn`` and ``truncate_lsn`` are the newest said.
    """

    generation: Generation
    term: Term
    begin_lsn: Lsn
    end_lsn: Lsn
    commit_lsn: Lsn
    truncate_lsn: Lsn
    slices: Sequence[Slice] = ()

    @classmethod
    def of(cls, request: AppendRequest) -> "AppendRun":
        return cls(
            request.generation,
            request.term,
            request.begin_lsn,
            request.end_lsn,
            request.commit_lsn,
            request.truncate_lsn,
            (request.wal,) if request.begin_lsn != request.end_lsn else (),
        )

    @property
    def wal_bytes(self) -> int:
        return self.end_lsn - self.begin_lsn

    def is_continued_by(self, later: "AppendRun") -> bool:
        """Whether ``later`` starts where this ends, in the same term and generation."""
        return later.begin_lsn == self.end_lsn and later.term == self.term and later.generation == self.generation


def join_runs(runs: Sequence[AppendRun]) -> AppendRun:
    """Several runs, each continuing the one before, as one.  At least one is needed."""
    if len(runs) == 1:
        return runs[0]
    first, last = runs[0], runs[-1]
    return AppendRun(
        first.generation,
        first.term,
        first.begin_lsn,
        last.end_lsn,
        max(run.commit_lsn for run in runs),
        max(run.truncate_lsn for run in runs),
        [piece for run in runs for piece in run.slices],
    )


ProposerMessage = ProposerGreeting | VoteRequest | ProposerElected | AppendRequest
Batch = ProposerGreeting | VoteRequest | ProposerElected | AppendRun
"""What is decided as one: an append run, or any other single message."""


@dataclass(frozen=True, slots=True)
class HotStandbyFeedback:
    """What standbys still need to see.  ``timestamp`` in microseconds since 2000-01-01; full transaction ids, 0 none."""

    timestamp: int = 0
    xmin: int = 0
    catalog_xmin: int = 0


NO_HOT_STANDBY: Final = HotStandbyFeedback()


def merge_hot_standby(feedbacks: Iterable[HotStandbyFeedback]) -> HotStandbyFeedback:
    """What all of several standbys still need to see: the oldest of each id; ``NO_HOT_STANDBY`` itself if nothing."""
    needing = [each for each in feedbacks if each.xmin or each.catalog_xmin]
    if not needing:
        return NO_HOT_STANDBY
    return HotStandbyFeedback(
        max(each.timestamp for each in needing),
        min((each.xmin for each in needing if each.xmin), default=0),
        min((each.catalog_xmin for each in needing if each.catalog_xmin), default=0),
    )


@dataclass(frozen=True, slots=True)
class PageserverFeedback:
    """How far a Neon pageserver got.  ``reply_time`` in microseconds since 2000-01-01."""

    current_timeline_size: int = 0
    last_received_lsn: Lsn = INVALID_LSN
    disk_consistent_lsn: Lsn = INVALID_LSN
    remote_consistent_lsn: Lsn = INVALID_LSN
    reply_time: int = 0
    shard_number: int = 0
    corruption_detected: bool = False


@dataclass(frozen=True, slots=True)
class AcceptorGreeting:
    node_id: NodeId
    configuration: Configuration
    term: Term


@dataclass(frozen=True, slots=True)
class VoteResponse:
    """``flush_lsn`` is durable and a record end; ``term_history`` is cut at it."""

    generation: Generation
    term: Term
    vote_given: bool
    flush_lsn: Lsn
    truncate_lsn: Lsn
    term_history: TermHistory
    timeline_start_lsn: Lsn = INVALID_LSN


@dataclass(frozen=True, slots=True)
class AppendResponse:
    """``flush_lsn`` is fsynced and a record end; ``commit_lsn`` is the one in the control file.

    A response to a stale term carries only the higher term, all LSNs 0.
    """

    generation: Generation
    term: Term
    flush_lsn: Lsn = INVALID_LSN
    commit_lsn: Lsn = INVALID_LSN
    hot_standby: HotStandbyFeedback = NO_HOT_STANDBY
    pageserver: PageserverFeedback | None = None


AcceptorMessage = AcceptorGreeting | VoteResponse | AppendResponse

PROTOCOL_2_GENERATION = NO_GENERATION
"""Protocol 2 carries no generation: everything it says is of generation 0."""
