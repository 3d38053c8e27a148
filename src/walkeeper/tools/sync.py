"""``walkeeper sync``: bring a majority of keepers to the same end, and say where that is.

A campaign like any writer's, so that whoever wrote before is fenced; then the keepers that lag get WAL from the one
that has most, until a majority has the end as *persisted* commit_lsn.  Every restore begins with it: a sidecar
acknowledges on a quorum's fsync, so the commit_lsn that keepers remember may be older than the last acknowledged commit.

Rules: it is done when a majority has persisted the end; the others that were there at first are waited for a little
longer, a hung one is not.  Nothing is created on keepers unless one of them knows the timeline.

Does not write WAL of its own and needs no PostgreSQL.  Source: Neon's ``--sync-safekeepers``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import trio

from walkeeper.errors import ConfigError, Fenced, PeerError, ServerError, StartOver, Unreachable, leaves
from walkeeper.ids import TenantTimelineId
from walkeeper.links.address import Address
from walkeeper.links.backoff import Backoff
from walkeeper.links.ensemble import Ensemble
from walkeeper.links.keeper import KeptTimeline, ask_server, connect_keeper, identify
from walkeeper.links.keeper_link import Introduction, NoWal
from walkeeper.links.log import Log
from walkeeper.links.postgres import Connection, time_limit
from walkeeper.lsn import INVALID_LSN, Lsn, format_lsn
from walkeeper.membership import NO_CONFIGURATION, majority
from walkeeper.messages import ProposerGreeting, ServerInfo
from walkeeper.proposer.election import Election
from walkeeper.proposer.proposer import Proposer

APPLICATION_NAME: Final = "walkeeper_sync"

PATIENCE_SECONDS: Final = 3.0
"""For the minority: a keeper that is there and well answers long before."""


ANSWER_SECONDS: Final = 10.0
"""For one keeper to say what it has."""


@dataclass(frozen=True, slots=True)
class SyncConfig:
    """``timeout_seconds`` is for all of it; copying WAL between keepers goes at some hundred megabytes per second.

    ``server`` tells what Neon's keepers do not: PostgreSQL's version and the segment size; None: ask the keepers.
    """

    keepers: tuple[Address, ...]
    ttid: TenantTimelineId
    timeout_seconds: float
    server: ServerInfo | None = None


async def sync_keepers(config: SyncConfig, *, log: Log) -> Lsn:
    """The LSN up to which a majority has everything that was ever acknowledged; 0 if there is nothing.

    Raises Unreachable when no majority answers in time, ConfigError, and Fenced if another writer takes over.
    """
    deadline = trio.current_time() + config.timeout_seconds
    survey = _Survey(config)
    with trio.move_on_at(deadline) as limit:
        await survey.run()
    if limit.cancelled_caught:
        raise _late(config, survey.troubles())
    server = survey.server()
    if server is None:
        return INVALID_LSN
    return await _Campaigns(config, server, survey.places(), deadline, log).run()


def _late(config: SyncConfig, troubles: str) -> Unreachable:
    return Unreachable(
        f"{majority(len(config.keepers))} of {len(config.keepers)} keepers are needed",
        f"not done within {config.timeout_seconds:g} s; {troubles}",
    )


class _Campaigns:
    """One after another, until one is through.  ``present``: the places of the keepers worth a little patience."""

    def __init__(
        self, config: SyncConfig, server: ServerInfo, present: Sequence[int], deadline: float, log: Log
    ) -> None:
        self._config = config
        self._deadline = deadline
        # Without a system id: keepers would overwrite theirs with it.
        self._greeting = ProposerGreeting(config.ttid, NO_CONFIGURATION, replace(server, system_id=0))
        self._present = present
        self._log = log
        self._ensemble = self._gather()

    def _gather(self) -> Ensemble:
        config = self._config
        proposer = Proposer([str(address) for address in config.keepers], self._greeting)
        introduction = Introduction(config.ttid, APPLICATION_NAME, lambda _keeper, _kept: None)
        return Ensemble(config.keepers, introduction, proposer, NoWal(), lambda _commit_lsn: None, self._log)

    async def run(self) -> Lsn:
        """Where the WAL ends, on a majority.  Raises Fenced, ConfigError, and Unreachable at the deadline."""
        while True:
            try:
                return await self._campaign()
            except BaseExceptionGroup as group:
                self._log.info("sync starts over", why=str(_tolerable(group)))
                self._ensemble = self._gather()

    async def _campaign(self) -> Lsn:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ensemble.run)
            with trio.move_on_at(self._deadline) as limit:
                election = await self._win()
            troubles = self._ensemble.troubles()  # before the keepers are left
            nursery.cancel_scope.cancel()
        if limit.cancelled_caught:
            raise _late(self._config, troubles or "the campaign or the copying took too long")
        return election.start_lsn

    async def _win(self) -> Election:
        ensemble, proposer = self._ensemble, self._ensemble.proposer
        election = await ensemble.wait_elected()
        if not election.is_first:
            self._log.info("elected", term=election.term, quorum_ends_at=format_lsn(election.start_lsn))
            ensemble.lead()
            await ensemble.wait_until(lambda: proposer.is_persisted_by_quorum)
            with trio.move_on_after(PATIENCE_SECONDS):
                await ensemble.wait_until(lambda: all(map(proposer.has_persisted, self._present)))
        return election


def _tolerable(group: BaseExceptionGroup) -> BaseException:
    """Why another attempt may succeed; raises the error that says otherwise."""
    found = list(leaves(group))
    for leaf in found:
        if isinstance(leaf, (Fenced, ConfigError)):
            raise leaf
        if not isinstance(leaf, StartOver):
            raise group
    return found[0]


# -- who knows the timeline ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one keeper has of the timeline, and of which server."""

    kept: KeptTimeline
    server: ServerInfo


class _Survey:
    """Asks all keepers what they have, before anything is changed on any of them."""

    def __init__(self, config: SyncConfig) -> None:
        self._config = config
        self._answers: dict[Address, _Answer | None] = {}
        self._failures: dict[Address, str] = {}
        self._refusal: ConfigError | None = None
        self._enough = trio.Event()
        self._everyone = trio.Event()

    async def run(self) -> None:
        """Until a majority has answered, and a little longer for the rest.  Raises ConfigError."""
        async with trio.open_nursery() as nursery:
            for address in self._config.keepers:
                nursery.start_soon(self._ask, address)
            await self._enough.wait()
            with trio.move_on_after(PATIENCE_SECONDS):
                await self._everyone.wait()
            nursery.cancel_scope.cancel()
        if self._refusal is not None:
            raise self._refusal

    def server(self) -> ServerInfo | None:
        """The server whose WAL the keepers have, without its system id; None if none of them knows the timeline.

        Raises ConfigError when they do not agree.
        """
        known = {address: answer for address, answer in self._answers.items() if answer is not None}
        systems = {answer.kept.system_id: address for address, answer in known.items() if answer.kept.system_id}
        if len(systems) > 1:
            seen = ", ".join(f"{address}: {system_id}" for system_id, address in systems.items())
            raise ConfigError(f"the keepers have {self._config.ttid} of several clusters: {seen}")
        return next((answer.server for answer in known.values()), None)

    def places(self) -> Sequence[int]:
        """The places of the keepers that have answered."""
        return [place for place, address in enumerate(self._config.keepers) if address in self._answers]

    def troubles(self) -> str:
        """Why keepers did not answer, for people."""
        silent = [address for address in self._config.keepers if address not in self._answers]
        return "; ".join(self._failures.get(address, f"keeper {address}: not heard") for address in silent)

    async def _ask(self, address: Address) -> None:
        backoff = Backoff()
        while not await self._try_to_ask(address):
            self._look()
            await trio.sleep(backoff.next_pause_seconds())
        self._look()

    async def _try_to_ask(self, address: Address) -> bool:
        """Whether there is no more to ask."""
        try:
            with time_limit(ANSWER_SECONDS, f"keeper {address}"):
                self._answers[address] = await self._answer(address)
        except ConfigError as error:
            self._refusal = error
        except (Unreachable, ServerError, PeerError) as error:
            self._failures[address] = str(error)
            return False
        return True

    def _look(self) -> None:
        if self._refusal is not None or len(self._answers) >= majority(len(self._config.keepers)):
            self._enough.set()
        if self._refusal is not None or len(self._answers.keys() | self._failures) == len(self._config.keepers):
            self._everyone.set()

    async def _answer(self, address: Address) -> _Answer | None:
        async with connect_keeper(address, self._config.ttid, APPLICATION_NAME) as connection:
            kept = await identify(connection)
            if kept is None:
                return None
            return _Answer(kept, self._config.server or await _ask_server(connection))


async def _ask_server(connection: Connection) -> ServerInfo:
    try:
        return await ask_server(connection)
    except ServerError as error:
        raise ConfigError(
            f"{connection.name} does not say whose WAL it has ({error.message}): give PostgreSQL's version and the segment"
            " size (--pg-version, --wal-segment-size)"
        ) from error
