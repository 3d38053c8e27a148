"""The keepers of one writer: a link to each, kept alive, and the proposer they all talk to.

::

    caller --wal_grew--> Proposer --next_message--> KeeperLink --bytes--> keeper      (one per keeper)
    caller <--on_commit-- Proposer <--received----- KeeperLink <--bytes-- keeper

Whatever makes news (WAL from the primary, an acknowledgement) pumps the links at once and without a turn of the
scheduler; a link that its keeper does not empty is left to its own task, so that none delays the others.

Rules: what ends one conversation (network, protocol, the keeper's refusals) is repaired by that link; what ends the
leadership leaves ``run``: ``Fenced``, ``StartOver``, and ``ConfigError`` when too few keepers belong here to elect us.

Does not know where WAL comes from, nor what a commit is good for.
"""

from collections.abc import Callable, Sequence
from random import uniform
from typing import Final, assert_never

import trio

from walkeeper.errors import Fenced, StartOver
from walkeeper.formats.commands import INCOMPLETE, WHOLE
from walkeeper.links.address import Address
from walkeeper.links.keeper_link import Introduction, KeeperLink, WalSource
from walkeeper.links.log import Log
from walkeeper.lsn import INVALID_LSN, Lsn, format_lsn
from walkeeper.membership import NO_GENERATION, majority
from walkeeper.proposer import actions
from walkeeper.proposer.election import Election
from walkeeper.proposer.proposer import Proposer, Stage
from walkeeper.terms import INITIAL_TERM

CLOCK_TICK_SECONDS: Final = 0.02
"""The shortest time between two looks at the clock: a keeper that does not read must not make us spin."""

RIVALRY_SECONDS: Final = (0.1, 1.0)
"""How long a candidate waits, at random, before it tries again: two that keep step would never win."""

SILENCE_LOOKS_SECONDS: Final = 1.0

STRANDED_SECONDS: Final = 10.0
"""How long a quorum may wait for a donor before another election looks for one among the keepers that are there."""


class Ensemble:
    """``on_commit`` is called, from any task, whenever commit_lsn has advanced; it must not wait or raise."""

    def __init__(
        self,
        addresses: Sequence[Address],
        introduction: Introduction,
        proposer: Proposer,
        source: WalSource,
        on_commit: Callable[[Lsn], None],
        log: Log,
    ) -> None:
        self.proposer = proposer
        self.introduction = introduction
        self.log = log
        self._on_commit = on_commit
        self._elected = trio.Event()
        self._lost = trio.Event()
        self._awaited: dict[trio.Event, Callable[[], bool]] = {}
        self._sooner = trio.Event()
        self._next_look_at = 0.0
        self._stranded_since: float | None = None
        self.links = [KeeperLink(self, place, address, source) for place, address in enumerate(addresses)]

    async def run(self) -> None:
        """Keep all links alive until cancelled.  Raises groups of Fenced, ConfigError and StartOver."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_time)
            nursery.start_soon(self._drop_silent)
            nursery.start_soon(self._campaign_again)
            for link in self.links:
                nursery.start_soon(link.run, name=f"keeper {link.address}")

    async def wait_elected(self) -> Election:
        """The outcome of the campaign.  Nothing is announced yet."""
        await self._elected.wait()
        assert self.proposer.election is not None
        return self.proposer.election

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return when ``condition`` holds; it is looked at whenever a keeper has said something.

        By whoever has the news: nobody is woken on the path of every commit only to see that it does not.
        """
        while not condition():
            holds = trio.Event()
            self._awaited[holds] = condition
            try:
                await holds.wait()
            finally:
                del self._awaited[holds]

    def _look_again(self) -> None:
        """There is news."""
        for holds, condition in self._awaited.items():
            if condition():
                holds.set()

    def lead(self, first_lsn: Lsn = INVALID_LSN) -> None:
        """Announce the election; see ``Proposer.lead``."""
        self.proposer.lead(first_lsn)
        self.pump()

    def wal_grew(self, end_lsn: Lsn) -> None:
        """The source has WAL up to ``end_lsn``."""
        self.proposer.wal_grew(end_lsn)
        self.pump()

    def pump(self) -> None:
        """Let every keeper hear what there is to say, as far as its connection takes it."""
        for link in self.links:
            link.pump()

    def address_of(self, place: int) -> Address:
        return self.links[place].address

    # -- what is still missing ------------------------------------------------------------------------------

    def troubles(self) -> str:
        """Who is waited for, why, and what to do, for people; empty when it is nobody."""
        blank = ", ".join(str(link) for link in self.links if self.is_blank(link.place))
        missing = "; ".join(
            link.trouble or link.missing_wal or f"{link}: not done yet" for link in self._missing()
        )
        if not blank:
            return missing
        return (
            f"{blank} cannot vouch for what was acknowledged: it is new or lost its disk."
            f" Bring back the others, with their data, or all of them for a first start: {missing}"
        )

    def is_blank(self, place: int) -> bool:
        """Whether the keeper there is there and does not count, because of what it may have forgotten."""
        follower = self.proposer.followers[place]
        says_so = follower.is_whole is False and not self.proposer.has_won
        return follower.has_greeted and (follower.is_doubted or says_so)

    def _missing(self) -> Sequence[KeeperLink]:
        """To the others that have not done what is their part now."""
        return [link for link in self.links if not (self._is_through(link.place) or self.is_blank(link.place))]

    def _is_through(self, place: int) -> bool:
        """Whether the keeper there has greeted, voted or, after the election, persisted where it starts; and is there."""
        follower = self.proposer.followers[place]
        match self.proposer.stage:
            case Stage.COLLECTING | Stage.LOST:
                return follower.has_greeted
            case Stage.CAMPAIGNING | Stage.WON:
                return follower.vote is not None
            case Stage.LEADING | Stage.OVER:
                return follower.counts and self.proposer.has_persisted(place)
            case stage:
                assert_never(stage)

    def keeper_came_or_went(self) -> None:
        """A connection was made or lost."""
        self._look_again()

    def misplaced(self, error: BaseException) -> None:
        """A keeper was found to be of another cluster, or another keeper's double: it belongs elsewhere.

        Raises ``error`` when no majority can elect us without such keepers.  One of a quorum that works, or still may,
        must not end it, whoever answers first.
        """
        well = sum(not link.is_misplaced for link in self.links)
        if not self.proposer.has_won and well < majority(len(self.links)):
            raise error

    # -- what the proposer says -------------------------------------------------------------------------------

    def act(self, happened: Sequence[actions.Action]) -> None:
        """Take in what one keeper's messages led to.  Raises Fenced and StartOver."""
        for action in happened:
            match action:
                case actions.CommitAdvanced():
                    pass
                case actions.Elected(election):
                    self._tell_members()
                    self._tell_doubts(election)
                    self._elected.set()
                case actions.CampaignLost(keeper, term):
                    self.log.info("campaign lost", keeper=keeper, term=term, own_term=self.proposer.term)
                    self._lost.set()
                case actions.Overtaken(keeper, term):
                    raise Fenced(keeper, term, self.proposer.own_term)
                case actions.Reconfigured(keeper, generation):
                    raise StartOver(f"{keeper} knows a newer configuration, generation {generation}")
                case _:
                    assert_never(action)
        if any(isinstance(action, actions.CommitAdvanced) for action in happened):
            self._on_commit(self.proposer.commit_lsn)
        if happened:
            self._look_sooner()
        self._look_again()

    @property
    def members(self) -> str:
        """Whose votes count, where keepers know a configuration; else empty: all that are listed."""
        configuration = self.proposer.configuration
        return "" if configuration.generation == NO_GENERATION else str(configuration)

    def _tell_members(self) -> None:
        """Say so if others than the keepers that are listed make the quorum, or not all of them."""
        if self.members and any(len(each) != len(self.links) for each in self.proposer.configuration.sets()):
            self.log.warning(
                "the quorum is not the keepers that are listed",
                members=self.members,
                why="the keepers have been told who is a member, and only members count",
            )

    def _tell_doubts(self, election: Election) -> None:
        """Say so if nobody can tell whether more was acknowledged.  Where nobody has WAL of any leader that is a first start.

        One that was interrupted looks like lost disks: a leader acknowledges before any keeper hears of the commit, and
        a keeper that lost its disk then gets some of the WAL again.
        """
        if election.is_vouched_for or election.history.last_term == INITIAL_TERM:
            return
        if any(follower.claims_to_be_whole for follower in self.proposer.followers):
            why = "too few of the keepers remember all that they have acknowledged: the others are new or lost their disks"
        else:
            why = "no keeper has ever heard of a commit: a first start was interrupted, or they lost their disks"
        self.log.error(
            "acknowledged commits may be lost",
            term=election.term,
            quorum_ends_at=format_lsn(election.start_lsn),
            why=why,
            keepers="; ".join(map(self._describe_vote, self.links)),
            remedy="compare quorum_ends_at with what the primary, its standbys and disks that were set aside have",
        )

    def _describe_vote(self, link: KeeperLink) -> str:
        follower = self.proposer.followers[link.place]
        if follower.vote is None:
            return f"{link}: no vote"
        standing = WHOLE if follower.claims_to_be_whole else INCOMPLETE
        lsn = follower.vote.flush_lsn
        log_term = follower.vote.term_history.last_log_term(lsn)
        return f"{link}: {standing}, WAL up to {format_lsn(lsn)} of term {log_term}"

    def strand(self) -> None:
        """A keeper needs WAL that no connected one gives.  Raises StartOver if that lasts and no quorum can form.

        A quorum that has the start of our term commits without the missing WAL: then there is time.
        """
        now = trio.current_time()
        if self.proposer.commit_lsn != INVALID_LSN:
            self._stranded_since = None
        elif self._stranded_since is None:
            self._stranded_since = now
        elif now - self._stranded_since > STRANDED_SECONDS:
            raise StartOver("no keeper that is there gives the WAL that the others need")

    def found_donor(self) -> None:
        self._stranded_since = None

    # -- time -------------------------------------------------------------------------------------------------

    async def _keep_time(self) -> None:
        """Heartbeats, and commits that no WAL carried."""
        while True:
            self._sooner = trio.Event()
            self._next_look_at = max(self._due_at(), trio.current_time() + CLOCK_TICK_SECONDS)
            with trio.move_on_at(self._next_look_at):
                await self._sooner.wait()
                continue
            now = trio.current_time()
            for link in self.links:
                if self.proposer.wakes_at(link.place) <= now:
                    link.pump()

    def _due_at(self) -> float:
        return min(self.proposer.wakes_at(link.place) for link in self.links)

    def _look_sooner(self) -> None:
        """Something may have become due before the time that is waited for; what cannot be said now is due again."""
        if self._due_at() <= trio.current_time():
            self.pump()
        if self._due_at() < self._next_look_at - CLOCK_TICK_SECONDS:
            self._sooner.set()

    async def _drop_silent(self) -> None:
        while True:
            await trio.sleep(SILENCE_LOOKS_SECONDS)
            for place in self.proposer.silent(trio.current_time()):
                self.links[place].drop("it does not answer")
            for place in self.proposer.outdated(trio.current_time()):
                self.links[place].greet_again()

    async def _campaign_again(self) -> None:
        while True:
            await self._lost.wait()
            await trio.sleep(uniform(*RIVALRY_SECONDS))
            self._lost = trio.Event()
            if self.proposer.stage is Stage.LOST:  # meanwhile another link may have heard that it is over
                self.proposer.campaign_again()
                self.pump()
