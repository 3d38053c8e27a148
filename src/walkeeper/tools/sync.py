"""``walkeeper sync``: bring a majority of keepers to the same end, and say where that is.

A campaign like any writer's, so that whoever wrote before is fenced; then the keepers that lag get WAL from the one
that has most, until a majority has the end as *persisted* commit_lsn.  Every restore begins with it: a sidecar
acknowledges on a quorum's fsync, so the commit_lsn that keepers remember may be older than the last acknowledged commit.

Rules: it is done when a majority has persisted the end; the others that were there at first are waited for a little
longer, a hung one is not.  Nothing is created on keepers unless one of them knows the timeline.  An address that does not
belong here, another cluster's keeper or no keeper at all, is warned of and left alone while the others are a majority.

Does not write WAL of its own and needs no PostgreSQL.  Source: Neon's ``--sync-safekeepers``.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import trio

from walkeeper.errors import ConfigError, Fenced, ServerError, StartOver, Unreachable, leaves
from walkeeper.ids import TenantTimelineId
from walkeeper.links.address import Address
from walkeeper.links.ensemble import Ensemble
from walkeeper.links.keeper import KeptTimeline, ask_server
from walkeeper.links.keeper_link import Introduction, NoWal
from walkeeper.links.log import Log
from walkeeper.links.poll import Answer, Poll, Trouble, poll
from walkeeper.links.postgres import Connection
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
    findings = await _survey(config, log)
    server = findings.server()
    if server is None:
        return INVALID_LSN
    return await _Campaigns(
        config, replace(server, system_id=findings.system_id), findings.places(), deadline, log
    ).run()


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
        self._system_id = server.system_id
        # Without a system id: keepers would overwrite theirs with it.
        self._greeting = ProposerGreeting(config.ttid, NO_CONFIGURATION, replace(server, system_id=0))
        self._present = present
        self._log = log
        self._ensemble = self._gather()

    def _gather(self) -> Ensemble:
        config = self._config
        proposer = Proposer([str(address) for address in config.keepers], self._greeting)
        introduction = Introduction(config.ttid, APPLICATION_NAME, self._check_keeper)
        return Ensemble(config.keepers, introduction, proposer, NoWal(), lambda _commit_lsn: None, self._log)

    def _check_keeper(self, keeper: str, kept: KeptTimeline | None) -> None:
        if kept is not None and self._system_id and kept.system_id not in (0, self._system_id):
            raise ConfigError(
                f"{keeper} has WAL of cluster {kept.system_id}, the others have that of {self._system_id}"
            )

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


class _Findings:
    """What is known after having asked: who has WAL of which cluster, and who does not belong here.

    ``system_id`` is the cluster's: the only one that keepers name, or the one that most of those listed do; 0 if there is
    none.  Whoever names another one is misplaced, and so is whoever refuses us for good.
    """

    def __init__(self, found: Poll[ServerInfo | None]) -> None:
        self._found = found
        self._needed = majority(len(found.results))
        self._votes = Counter(each.kept.system_id for each in found.answers if each.kept.system_id)
        self.system_id = next(
            (each for each, count in self._votes.items() if len(self._votes) == 1 or count >= self._needed), 0
        )

    @property
    def is_ambiguous(self) -> bool:
        """Whether keepers name several clusters, none of them often enough."""
        return len(self._votes) > 1 and not self.system_id

    @property
    def is_enough(self) -> bool:
        """Whether a majority has told what it has, or it is clear that none ever will."""
        return self.is_hopeless or (not self.is_ambiguous and len(self.places()) >= self._needed)

    @property
    def is_hopeless(self) -> bool:
        """Whether those who do not belong here leave no majority, even if everybody else comes."""
        if self.is_ambiguous:
            passing = sum(each.may_pass for each in self._found.troubles)
            return max(self._votes.values()) + passing < self._needed
        return len(self._found.results) - len(self.misplaced()) < self._needed

    def misplaced(self) -> Sequence[Trouble]:
        """Those who do not belong here; of several clusters without a majority none does, or all."""
        strangers = [
            Trouble(each.address, f"keeper {each.address} has WAL of cluster {each.kept.system_id}")
            for each in self._found.answers
            if not self._is_well(each)
        ]
        return [*(each for each in self._found.troubles if each.refusal), *strangers]

    def places(self) -> Sequence[int]:
        """The places of those who belong here and have told what they have, if it is nothing."""
        return [place for place, each in enumerate(self._found.results) if self._is_well(each)]

    def _is_well(self, result: Answer[ServerInfo | None] | Trouble) -> bool:
        match result:
            case Answer(_, kept):
                return kept.system_id in (0, self.system_id)
            case Trouble():
                return result.is_ignorant

    def troubles(self) -> str:
        """Why there are not enough, for people."""
        silent = [each for each in self._found.troubles if each.may_pass]
        return "; ".join(each.why for each in (*silent, *self.misplaced()))

    def server(self) -> ServerInfo | None:
        """The server whose WAL the keepers have, without its system id; None if none of them knows the timeline.

        Raises ConfigError when nobody says.
        """
        answers = [each for each in self._found.answers if self._is_well(each)]
        told = next((each.told for each in answers if each.told is not None), None)
        if answers and told is None:
            raise ConfigError(
                f"{answers[0].address} does not say whose WAL it has, nor does another keeper: give PostgreSQL's version and"
                " the segment size (--pg-version, --wal-segment-size)"
            )
        return told


async def _survey(config: SyncConfig, log: Log) -> _Findings:
    """Ask all keepers what they have, before anything is changed on any of them.

    Until a majority has answered, and a little longer for the rest.  Raises Unreachable and ConfigError.
    """

    async def ask(connection: Connection) -> ServerInfo | None:
        return config.server or await _ask_server(connection)

    findings = _Findings(
        await poll(
            config.keepers,
            config.ttid,
            ask,
            application_name=APPLICATION_NAME,
            enough=lambda found: _Findings(found).is_enough,
            answer_seconds=ANSWER_SECONDS,
            patience_seconds=PATIENCE_SECONDS,
            retry_seconds=config.timeout_seconds,
        )
    )
    if findings.is_hopeless:
        misplaced = "; ".join(each.why for each in findings.misplaced())
        raise ConfigError(f"too few of the keepers belong to {config.ttid}: {misplaced}")
    if not findings.is_enough:
        raise _late(config, findings.troubles())
    for each in findings.misplaced():
        log.warning("keeper misplaced", keeper=str(each.address), why=each.why)
    return findings


async def _ask_server(connection: Connection) -> ServerInfo | None:
    """None from a keeper that does not say."""
    try:
        return await ask_server(connection)
    except ServerError:
        return None
