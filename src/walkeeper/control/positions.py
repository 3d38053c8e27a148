"""How far this keeper is with each of its timelines, for the other keepers: ``GET /v1/walkeeper/positions``.

Others ask for it every second or so, and there may be thousands of timelines: so it says little of each, looks without
locks and in turns with other tasks, and whoever comes within ``FRESH_SECONDS`` gets what another was given.  Who we are, and
whether we serve, is never an old answer: others leave by it.

Decides nothing.  Does not ask others: ``neighbours`` does.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Final

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response

from walkeeper.acceptor.state import AcceptorState
from walkeeper.control.collectors import DiskJobs
from walkeeper.control.dump import KeeperConfig
from walkeeper.control.endpoints import Endpoint, whole_keeper
from walkeeper.control.health import Readiness, State
from walkeeper.control.models import U32, U64, Json, LsnText, require_u64
from walkeeper.errors import Malformed, printable
from walkeeper.ids import TenantId, TenantTimelineId, TimelineId
from walkeeper.links.overview import POSITIONS_PATH
from walkeeper.lsn import Lsn, format_lsn, parse_lsn
from walkeeper.membership import KEEPERS_MAX, Configuration
from walkeeper.terms import Term
from walkeeper.timeline.timelines import Timelines

LOOKED_AT_IN_A_TURN: Final = 100
"""Timelines between two checkpoints, well under a millisecond's worth: looking must not hold up commits."""

FRESH_SECONDS: Final = 0.4
"""How old the positions may be: less than half of the second after which others ask again."""

NAMES_KEPT_MAX: Final = 20_000
"""As many timelines as anybody has; some megabytes."""

TIMELINE_BYTES_MAX: Final = 4096
"""Of what is told of one timeline: twice what it takes with as many members as there can be."""

Digits = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$", max_length=32)]
"""Of an id, as keepers tell it: none has two spellings."""

INSTANCE_BYTES: Final = 8
"""As much as it takes that no two processes are ever taken for one."""


def new_instance() -> str:
    """A text that no other process has: by it a keeper knows itself among those that it is told to ask."""
    return secrets.token_hex(INSTANCE_BYTES)


class TimelinePositionsJson(Json, frozen=True):
    """Of a timeline that can be used, or could a moment ago.  ``start_lsn``: where it began; nothing was committed while ``commit_lsn`` is no more.

    ``commit_term``: in which the last byte of that was written: whoever has another one there has other WAL.
    ``members``: the numbers of all of the configuration of that generation, of both sets of a joint one.
    """

    tenant_id: Digits
    timeline_id: Digits
    start_lsn: LsnText
    flush_lsn: LsnText
    commit_lsn: LsnText
    commit_term: U64
    is_whole: bool
    generation: U32
    members: Annotated[list[U64], msgspec.Meta(max_length=2 * KEEPERS_MAX)]

    def __post_init__(self) -> None:
        require_u64("commit_term", self.commit_term)
        for member in self.members:
            require_u64("members", member)


class KeeperPositionsJson(Json, frozen=True):
    """``is_ready``: as ``/readyz`` says; ``is_caught_up``: others may rely on it, if it is serving, or leaving and stays for them.
    ``takes_wal``: its disk answers, and has room.  While it is starting it does not know its timelines, and tells none.
    """

    id: U64
    instance: str
    state: State
    is_ready: bool
    is_caught_up: bool
    takes_wal: bool
    timelines: list[TimelinePositionsJson]


class Envelope(Json, frozen=True):
    """The same, with timelines that are, or still are, JSON: thousands take longer than one turn."""

    id: U64
    instance: str
    state: State
    is_ready: bool
    is_caught_up: bool
    takes_wal: bool
    timelines: msgspec.Raw

    def __post_init__(self) -> None:
        require_u64("id", self.id)


_envelope_in: Final = msgspec.json.Decoder(Envelope).decode
_timeline_in: Final = msgspec.json.Decoder(TimelinePositionsJson).decode


class Positions:
    """The route.  Before ``begin`` it says that the keeper is starting."""

    def __init__(
        self, config: KeeperConfig, instance: str, readiness: Readiness, disk: Callable[[], DiskJobs]
    ) -> None:
        self._config = config
        self._instance = instance
        self._readiness = readiness
        self._disk = disk
        self._loaded: Timelines | None = None
        self._looking = trio.Lock()
        self._looked_at = float("-inf")
        self._told: Mapping[TenantTimelineId, bytes] = {}
        self._timelines = msgspec.Raw(b"[]")

    def begin(self, timelines: Timelines) -> None:
        """Tell of these timelines from now on."""
        self._loaded = timelines

    def endpoint(self) -> Endpoint:
        return Endpoint(
            "GET",
            POSITIONS_PATH,
            self.show,
            "How far this keeper is with each of its timelines, for other keepers.",
            KeeperPositionsJson,
            whose=whole_keeper,
        )

    async def show(self, _request: Request, _body: None) -> Response:
        return Response(await self.look(), media_type="application/json")

    async def look(self) -> bytes:
        """The answer as JSON.  Cancellation: at any time; nothing has changed."""
        if self._loaded is not None:
            async with self._looking:
                if trio.current_time() - self._looked_at >= FRESH_SECONDS:
                    self._told = await look_at_positions(self._loaded, self._told)
                    self._timelines = msgspec.Raw(b"[%b]" % b",".join(self._told.values()))
                    self._looked_at = trio.current_time()
        readiness = self._readiness
        answer = Envelope(
            self._config.id,
            self._instance,
            readiness.state,
            readiness.is_ready,
            not readiness.is_hindered,
            self._takes_wal(),
            self._timelines,
        )
        return msgspec.json.encode(answer)

    def _takes_wal(self) -> bool:
        """A keeper that does not is ready all the same: readers are served."""
        is_full = self._loaded is not None and self._loaded.room.is_refusing
        return not is_full and not self._disk().is_hanging


async def look_at_positions(
    timelines: Timelines, before: Mapping[TenantTimelineId, bytes]
) -> Mapping[TenantTimelineId, bytes]:
    """Of all that can be used, as JSON; of those that cannot for a moment, what was told ``before``: it is committed all the same.

    Cancellation: at any time; nothing has changed.
    """
    told: dict[TenantTimelineId, bytes] = {}
    for number, timeline in enumerate(timelines.all(), 1):
        if (state := timeline.usable_state) is not None:
            told[timeline.ttid] = msgspec.json.encode(_describe(timeline.ttid, state))
        elif timeline.ttid in before:
            told[timeline.ttid] = before[timeline.ttid]
        if number % LOOKED_AT_IN_A_TURN == 0:
            await trio.lowlevel.checkpoint()
    return told


async def read_positions(body: bytes) -> KeeperPositionsJson:
    """What another keeper says: names and LSNs in it can be parsed.  What it costs between two checkpoints is bounded.

    Raises Malformed.  Cancellation: at any time.
    """
    timelines: list[TimelinePositionsJson] = []
    try:
        envelope = _envelope_in(body)
        for number, raw in enumerate(_each_in(bytes(envelope.timelines)), 1):
            timelines.append(each := _timeline_in(raw))
            parse_lsn(each.commit_lsn)
            if number % LOOKED_AT_IN_A_TURN == 0:
                await trio.lowlevel.checkpoint()
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise Malformed(printable(f"its answer cannot be read: {error}")) from error
    return KeeperPositionsJson(
        envelope.id,
        envelope.instance,
        envelope.state,
        envelope.is_ready,
        envelope.is_caught_up,
        envelope.takes_wal,
        timelines,
    )


def _each_in(array: bytes) -> Iterator[bytes]:
    """The objects in a JSON array, found by what is between them: keepers send no blanks there, and none in which others are.

    To decode the array first would take seconds where a peer sends millions of numbers.  Raises ValueError for what is
    too long to be a timeline, or no array.
    """
    if not array.startswith(b"["):
        raise ValueError("Expected `array` - at `$.timelines`")
    begin, last = 1, len(array) - 1  # the bracket
    while begin < last:
        end = array.find(b"},{", begin, min(last, begin + TIMELINE_BYTES_MAX + 2))
        end = last if end < 0 else end + 1
        if end - begin > TIMELINE_BYTES_MAX:
            raise ValueError(f"more than {TIMELINE_BYTES_MAX} bytes - at `$.timelines[...]`")
        yield array[begin:end]
        begin = end + 1


@lru_cache(NAMES_KEPT_MAX)
def named(tenant_id: str, timeline_id: str) -> TenantTimelineId:
    """Kept, since the same are told of every time."""
    return TenantTimelineId(TenantId.parse(tenant_id), TimelineId.parse(timeline_id))


def _describe(ttid: TenantTimelineId, state: AcceptorState) -> TimelinePositionsJson:
    return TimelinePositionsJson(
        str(ttid.tenant_id),
        str(ttid.timeline_id),
        format_lsn(state.kept.timeline_start_lsn),
        format_lsn(state.flush_lsn),
        format_lsn(state.ahead.commit_lsn),
        term_of(state, state.ahead.commit_lsn),
        state.is_whole,
        state.kept.configuration.generation,
        members_of(state.kept.configuration),
    )


def term_of(state: AcceptorState, lsn: Lsn) -> Term:
    """In which the byte before ``lsn`` was written; 0 if nobody knows."""
    return state.kept.term_history.up_to(Lsn(max(lsn - 1, 0))).last_term


def members_of(configuration: Configuration) -> list[int]:
    """Of all its sets, in order."""
    return sorted({member.id for members in configuration.sets() for member in members})
