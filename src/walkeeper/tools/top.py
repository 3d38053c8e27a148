"""``walkeeper top``: what the status page shows, of all keepers that are named, in a terminal.

Each keeper is asked over HTTP for its overview; one that does not answer is a row with its reason.  What is shown is shown
by ``top_report``.  Changes nothing on any keeper.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import trio

from walkeeper.errors import ServerError, Unreachable
from walkeeper.links.address import HttpAddress
from walkeeper.links.overview import NoAnswer, answer_of, ask_overview

ANSWER_SECONDS: Final = 2.0
"""For one keeper: it answers from memory, and whoever looks has no patience for more."""


class Problem(msgspec.Struct, frozen=True):
    cell: str
    level: str
    what: str
    advice: str
    see: str


class Keeper(msgspec.Struct, frozen=True):
    id: int
    version: str
    started_at: float
    is_ready: bool
    memory_bytes: int
    loop_lag_peak_seconds: float
    flush_peak_seconds: float
    problems: list[Problem] = []
    state: str = "serving"


class Totals(msgspec.Struct, frozen=True):
    timelines: int
    found: int
    troubled: int
    written: int
    receivers: int
    senders: int
    behind_bytes: int
    flushed_bytes: int


class Positions(msgspec.Struct, frozen=True):
    flush_lsn: str
    commit_lsn: str


class Timeline(msgspec.Struct, frozen=True):
    tenant_id: str
    timeline_id: str
    standing: str
    term: int | None = None
    is_whole: bool | None = None
    positions: Positions | None = None
    behind_bytes: int = 0
    behind_seconds: float = 0.0
    flushed_bytes: int = 0
    receivers_count: int = 0
    senders_count: int = 0
    problems: list[Problem] = []

    @property
    def name(self) -> str:
        """Stock PostgreSQL's tenant and timeline are the same, and said once."""
        same = self.tenant_id == self.timeline_id
        return self.tenant_id if same else f"{self.tenant_id}/{self.timeline_id}"


class Overview(msgspec.Struct, frozen=True):
    """What is shown of a keeper's overview; there is more in it."""

    at: float
    keeper: Keeper
    totals: Totals
    timelines: list[Timeline] = []


@dataclass(frozen=True, slots=True)
class Seen:
    """One keeper: its overview, and the JSON in which it said it; or why there is none."""

    address: HttpAddress
    overview: Overview | None = None
    document: Any = None
    trouble: str = ""

    def problems(self) -> Sequence[Problem]:
        """The keeper's own, and those of its timelines that it tells of."""
        if self.overview is None:
            return ()
        return [
            *self.overview.keeper.problems,
            *(each for one in self.overview.timelines for each in one.problems),
        ]


@dataclass(frozen=True, slots=True)
class Round:
    """All keepers, in the order in which they were named."""

    seen: Sequence[Seen]

    def require_well(self) -> None:
        """Raises Unreachable if a keeper did not answer, ServerError if one says that something is red."""
        silent = [each for each in self.seen if each.overview is None]
        if silent:
            names = ", ".join(str(each.address) for each in silent)
            raise Unreachable(names, "; ".join(each.trouble for each in silent))
        for each in self.seen:
            red = [problem.what for problem in each.problems() if problem.level == "red"]
            if red:
                raise ServerError(f"keeper {each.address}", "", f"{len(red)} red: {red[0]}")


async def ask_overviews(keepers: Sequence[HttpAddress], find: str) -> Round:
    """Ask every keeper once, all at the same time.  ``find``: a part of ``tenant/timeline``.

    Cancellation: at any time.
    """
    seen: dict[HttpAddress, Seen] = {}

    async def ask(address: HttpAddress) -> None:
        seen[address] = await _ask(address, find)

    async with trio.open_nursery() as nursery:
        for address in keepers:
            nursery.start_soon(ask, address)
    return Round([seen[address] for address in keepers])


async def _ask(address: HttpAddress, find: str) -> Seen:
    answer = await answer_of(ask_overview(address, find, _overview_in), ANSWER_SECONDS)
    if isinstance(answer, NoAnswer):
        return Seen(address, trouble=answer.why)
    overview, document = answer
    return Seen(address, overview, document)


def _overview_in(body: bytes) -> tuple[Overview, Any]:
    document = msgspec.json.decode(body)
    return msgspec.convert(document, Overview), document


async def watch_overviews(
    keepers: Sequence[HttpAddress], find: str, interval_seconds: float, show: Callable[[Round, Round | None], None]
) -> None:
    """Ask again and again, and ``show`` what was seen now and the time before.

    Cancellation: at any time.
    """
    before: Round | None = None
    while True:
        began = trio.current_time()
        now = await ask_overviews(keepers, find)
        show(now, before)
        before = now
        await trio.sleep_until(began + interval_seconds)
