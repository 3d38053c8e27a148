"""What every keeper of a quorum says of one timeline, all asked at once, and what that is worth together.

Rules: a keeper that does not answer is part of the result (``Trouble``), never an error; one that does not have the
timeline is no part of a majority, whose keepers are those that have it.  Nothing is changed on any keeper.

Asks each keeper once: whoever wants more patience polls again.  Does not know what is asked: the caller brings it.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import trio

from walkeeper.errors import ConfigError, PeerError, ServerError, Unreachable
from walkeeper.ids import TenantTimelineId
from walkeeper.links.address import Address
from walkeeper.links.keeper import KeptTimeline, connect_keeper, identify
from walkeeper.links.postgres import Connection, time_limit
from walkeeper.lsn import Lsn
from walkeeper.membership import majority

T = TypeVar("T")

ANSWER_SECONDS: Final = 5.0
"""For one keeper to say what it has: it answers from memory, and a busy one may be a second late."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """A keeper that has the timeline: ``kept.end_lsn`` is the commit LSN it knows; ``told`` what else was asked."""

    address: Address
    kept: KeptTimeline
    told: T


@dataclass(frozen=True, slots=True)
class Trouble:
    """A keeper that is of no help, and ``why``, which names it.  ``is_ignorant``: it lives and lacks the timeline."""

    address: Address
    why: str
    is_ignorant: bool = False


@dataclass(frozen=True, slots=True)
class Poll(Generic[T]):
    """One result for each keeper, in the order in which they were listed."""

    results: Sequence[Answer[T] | Trouble]

    @property
    def answers(self) -> Sequence[Answer[T]]:
        return [each for each in self.results if isinstance(each, Answer)]

    @property
    def troubles(self) -> Sequence[Trouble]:
        return [each for each in self.results if isinstance(each, Trouble)]

    @property
    def has_majority(self) -> bool:
        return len(self.answers) >= majority(len(self.results))

    @property
    def is_unknown(self) -> bool:
        """Whether most keepers live and lack the timeline, and none has it: it may have another name."""
        ignorant = sum(each.is_ignorant for each in self.troubles)
        return not self.answers and ignorant >= majority(len(self.results))

    @property
    def commit_lsn(self) -> Lsn | None:
        """The highest LSN that a majority reports as committed, or more; None without a majority.

        A lower bound: what was acknowledged last may not have been told to the keepers as committed yet.
        """
        if not self.has_majority:
            return None
        reported = sorted((each.kept.end_lsn for each in self.answers), reverse=True)
        return reported[majority(len(self.results)) - 1]

    @property
    def highest_commit_lsn(self) -> Lsn:
        """The highest LSN that any keeper reports as committed; 0 if there is none.

        It is committed: a keeper hears of a commit from the leader that saw a quorum fsync it.
        """
        return max((each.kept.end_lsn for each in self.answers), default=Lsn(0))

    def missing(self) -> Unreachable:
        """The error for a quorum that has no majority: names what is wrong with each keeper."""
        size = len(self.results)
        return Unreachable(
            f"{majority(size)} of {size} keepers are needed, {len(self.answers)} answered",
            "; ".join(each.why for each in self.troubles),
        )


def unknown_timeline(ttid: TenantTimelineId) -> ConfigError:
    """The error for a timeline of which most keepers say that they have never heard of it."""
    return ConfigError(f"no keeper that answered has WAL of {ttid}: is it the right name, or --system-id?")


async def poll(
    keepers: Sequence[Address],
    ttid: TenantTimelineId,
    ask: Callable[[Connection], Awaitable[T]],
    *,
    application_name: str,
    patience_seconds: float = ANSWER_SECONDS,
) -> Poll[T]:
    """Ask every keeper at once.  When a majority has answered, the rest may take ``patience_seconds`` more.

    ``ask`` gets a connection to a keeper that has the timeline.  Raises nothing of what can go wrong with a keeper.

    Cancellation: at any time.
    """
    found: dict[Address, Answer[T] | Trouble] = {}

    async def ask_one(address: Address, scope: trio.CancelScope) -> None:
        found[address] = await _ask(address, ttid, ask, application_name)
        if sum(isinstance(each, Answer) for each in found.values()) >= majority(len(keepers)):
            scope.deadline = min(scope.deadline, trio.current_time() + patience_seconds)

    async with trio.open_nursery() as nursery:
        for address in keepers:
            nursery.start_soon(ask_one, address, nursery.cancel_scope)
    return Poll([found.get(address) or _late(address, patience_seconds) for address in keepers])


async def _ask(
    address: Address, ttid: TenantTimelineId, ask: Callable[[Connection], Awaitable[T]], application_name: str
) -> Answer[T] | Trouble:
    name = f"keeper {address}"
    try:
        with time_limit(ANSWER_SECONDS, name):
            async with connect_keeper(address, ttid, application_name) as connection:
                kept = await identify(connection)
                if kept is None:
                    return Trouble(address, f"{name}: it does not have this timeline", is_ignorant=True)
                return Answer(address, kept, await ask(connection))
    except (Unreachable, ServerError, PeerError, ConfigError) as error:
        return Trouble(address, str(error))
    raise AssertionError("the block returns or raises")


def _late(address: Address, seconds: float) -> Trouble:
    return Trouble(address, f"keeper {address}: no answer {seconds:g} s after the others'")
