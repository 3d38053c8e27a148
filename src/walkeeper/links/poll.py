"""What every keeper of a quorum says of one timeline, all asked at once, and what that is worth together.

Rules: a keeper that does not answer is part of the result (``Trouble``), never an error; one that does not have the
timeline is no part of a majority, whose keepers are those that have it; and no keeper counts twice.  Nothing is changed on any keeper.

Does not know what is asked, how much patience that deserves, nor who must have answered: the caller brings it.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final, Generic, TypeVar

import trio

from walkeeper.errors import ConfigError, PeerError, ServerError, Unreachable
from walkeeper.ids import NodeId, TenantTimelineId
from walkeeper.links.address import Address
from walkeeper.links.backoff import Backoff
from walkeeper.links.keeper import (
    ABSENT,
    FINAL,
    Advice,
    KeptTimeline,
    advise,
    ask_node_id,
    connect_keeper,
    identify,
)
from walkeeper.links.postgres import Connection, time_limit
from walkeeper.lsn import Lsn
from walkeeper.membership import majority

T = TypeVar("T")

ANSWER_SECONDS: Final = 5.0
"""For one keeper to say what it has: it answers from memory, and a busy one may be a second late."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """A keeper that has the timeline: ``kept.end_lsn`` is the commit LSN it knows; ``told`` what else was asked.

    ``node_id`` is its number, None if it does not tell, as Neon's.
    """

    address: Address
    kept: KeptTimeline
    told: T
    node_id: NodeId | None = None


@dataclass(frozen=True, slots=True)
class Trouble:
    """A keeper that is of no help, and ``why``, which names it.  ``is_ignorant``: it lives and lacks the timeline.

    ``refusal``: what somebody has to put right first, since it would say the same again.
    """

    address: Address
    why: str
    is_ignorant: bool = False
    refusal: ConfigError | None = None
    node_id: NodeId | None = None
    advice: Advice = ABSENT

    @property
    def may_pass(self) -> bool:
        """Whether it may be of help when it is asked again."""
        return not self.is_ignorant and self.refusal is None


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
    def ignorant(self) -> int:
        """How many live and lack the timeline."""
        return sum(each.is_ignorant for each in self.troubles)

    @property
    def has_majority(self) -> bool:
        return len(self.answers) >= majority(len(self.results))

    @property
    def is_unknown(self) -> bool:
        """Whether most keepers live and lack the timeline, and none has it: it may have another name."""
        return not self.answers and self.ignorant >= majority(len(self.results))

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


async def ask_nothing_more(_connection: Connection) -> None:
    """For ``poll``: how far the keeper is was asked already."""


def _has_majority(found: Poll[T]) -> bool:
    return found.has_majority


async def poll(
    keepers: Sequence[Address],
    ttid: TenantTimelineId | None,
    ask: Callable[[Connection], Awaitable[T]],
    *,
    application_name: str,
    enough: Callable[[Poll[T]], bool] = _has_majority,
    answer_seconds: float = ANSWER_SECONDS,
    patience_seconds: float = ANSWER_SECONDS,
    retry_seconds: float | None = None,
) -> Poll[T]:
    """Ask every keeper at once.  When those who have answered are ``enough``, the rest may take ``patience_seconds`` more.

    ``ask`` gets a connection to a keeper that has the timeline.  Each has ``answer_seconds`` to answer, and is asked once;
    with ``retry_seconds``, those that may do better are asked again, with pauses, for so long, until there are enough and
    everybody has been asked once.  Raises nothing of what can go wrong with a keeper.  Without ``ttid``, where nobody
    knows whose WAL is meant, those who live are ignorant of it, too.

    Cancellation: at any time.
    """
    found: dict[Address, Answer[T] | Trouble] = {}

    def so_far() -> Poll[T]:
        return Poll(_each_once([found.get(address) or _unheard(address) for address in keepers]))

    async def ask_one(address: Address, scope: trio.CancelScope) -> None:
        backoff = Backoff()
        while True:
            found[address] = result = await _ask(address, ttid, ask, application_name, answer_seconds)
            if enough(so_far()):
                rest_seconds = patience_seconds if len(found) < len(keepers) else 0
                scope.deadline = min(scope.deadline, trio.current_time() + rest_seconds)
            if retry_seconds is None or isinstance(result, Answer) or not result.may_pass:
                return
            await trio.sleep(backoff.next_pause_seconds())

    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = trio.current_time() + (inf if retry_seconds is None else retry_seconds)
        for address in keepers:
            nursery.start_soon(ask_one, address, nursery.cancel_scope)
    return so_far()


async def _ask(
    address: Address,
    ttid: TenantTimelineId | None,
    ask: Callable[[Connection], Awaitable[T]],
    application_name: str,
    answer_seconds: float,
) -> Answer[T] | Trouble:
    name = f"keeper {address}"
    try:
        with time_limit(answer_seconds, name):
            async with connect_keeper(address, ttid, application_name) as connection:
                node_id = await ask_node_id(connection)
                kept = None if ttid is None else await identify(connection)
                if kept is None:
                    return Trouble(
                        address, f"{name}: it does not have this timeline", is_ignorant=True, node_id=node_id
                    )
                return Answer(address, kept, await ask(connection), node_id)
    except ConfigError as error:
        return Trouble(address, str(error), refusal=error, advice=advise(error))
    except (Unreachable, ServerError, PeerError) as error:
        return Trouble(address, str(error), advice=advise(error))
    raise AssertionError("the block returns or raises")


def _each_once(results: Sequence[Answer[T] | Trouble]) -> Sequence[Answer[T] | Trouble]:
    """The same, but a keeper that is listed under several addresses is of help at the first only: it has one voice."""
    first: dict[NodeId, Address] = {}

    def or_same(result: Answer[T] | Trouble) -> Answer[T] | Trouble:
        address, node_id = result.address, result.node_id
        if node_id is None or first.setdefault(node_id, address) == address:
            return result
        why = f"keeper {first[node_id]} and keeper {address} are the same keeper (id {node_id}): list it once"
        return Trouble(address, why, refusal=ConfigError(why), advice=FINAL)

    return [or_same(result) for result in results]


def _unheard(address: Address) -> Trouble:
    return Trouble(address, f"keeper {address}: it was not heard in time")
