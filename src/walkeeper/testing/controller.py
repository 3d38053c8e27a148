"""Who decides which keepers form the quorum of a simulated cluster, as Neon's storage controller does.

A change goes through a joint configuration: a majority of the old members has it; a majority of the new ones has it,
and everything that the first majority had; then the new members stand alone.  Only keepers that are whole count: others
do not know what they may have lost.  Whatever is decided is never forgotten here, and an operation that fails is tried
again.

Source: Neon's RFC 035, without its copying of WAL: new members are filled by the writer, from a donor.
Asks keepers past their network.  Does not decide when a change happens (``faults``).
"""

from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Final

import trio

from walkeeper.acceptor.state import AcceptorState
from walkeeper.ids import TenantTimelineId
from walkeeper.links.address import KEEPER_PORT
from walkeeper.lsn import Lsn, format_lsn
from walkeeper.membership import Configuration, Generation, Member, majority
from walkeeper.messages import ProposerGreeting, ServerInfo
from walkeeper.terms import Term
from walkeeper.testing.machine import KeeperMachine
from walkeeper.timeline.timelines import Timelines

PAUSE_SECONDS: Final = 0.3
"""Between two questions to a keeper, on average."""


class Controller:
    """``configuration`` is what was decided last.  The first ``members`` of ``machines`` begin."""

    def __init__(
        self,
        machines: Sequence[KeeperMachine],
        members: int,
        ttid: TenantTimelineId,
        server: ServerInfo,
        random: Random,
        tell: Callable[[str], None],
    ) -> None:
        self.configuration = Configuration(Generation(1), tuple(map(_member, machines[:members])))
        self.is_changing = False
        self._machines = {machine.node_id: machine for machine in machines}
        self._ttid = ttid
        self._server = server
        self._random = random
        self._tell = tell

    def sets(self) -> Sequence[Sequence[KeeperMachine]]:
        """Whose majorities are needed, by what was decided last."""
        return [self._machines_of(members) for members in self.configuration.sets()]

    def _machines_of(self, members: Sequence[Member]) -> Sequence[KeeperMachine]:
        return [self._machines[member.id] for member in members]

    async def create(self, start_lsn: Lsn) -> None:
        """Make the timeline on every member."""
        for machine in self._machines_of(self.configuration.members):

            async def create(timelines: Timelines) -> None:
                await timelines.create(
                    self._ttid,
                    self._server,
                    configuration=self.configuration,
                    start_lsn=start_lsn,
                    commit_lsn=start_lsn,
                )

            await machine.administer(create)

    def change(self, nursery: trio.Nursery, lot: int, leave: Callable[[KeeperMachine], Awaitable[None]]) -> None:
        """Put one or two machines that are no members in the places of some that are; these ``leave`` in the end.

        Which ones, ``lot`` says.  Nothing if a change is going on already.
        """
        if not self.is_changing:
            self.is_changing = True
            nursery.start_soon(self._replace_members, lot, leave)

    async def _replace_members(self, lot: int, leave: Callable[[KeeperMachine], Awaitable[None]]) -> None:
        old = self.configuration.members
        outside = [each for node, each in self._machines.items() if node not in self.configuration]
        count = 1 + lot % 2
        leaving = [old[(lot + number) % len(old)] for number in range(count)]
        joining = [_member(outside[(lot + number) % len(outside)]) for number in range(count)]
        new = (*(member for member in old if member not in leaving), *joining)
        self._decide(old, new)
        states = await self._majority_with(old, lambda state: state.is_whole)
        log_end = max(map(_log_end, states))
        term = max(state.term for state in states)
        self._tell(f"controller: new members need {format_lsn(log_end[1])} of term {log_end[0]}, and term {term}")
        await self._majority_with(
            new, lambda state: state.is_whole and state.term >= term and _log_end(state) >= log_end
        )
        self._decide(new, None)
        await self._majority_with(new, lambda state: state.is_whole)
        for machine in self._machines_of(leaving):
            await leave(machine)
        self.is_changing = False

    def _decide(self, members: tuple[Member, ...], new_members: tuple[Member, ...] | None) -> None:
        self.configuration = Configuration(Generation(self.configuration.generation + 1), members, new_members)
        names = " and ".join(", ".join(member.host for member in each) for each in self.configuration.sets())
        self._tell(f"controller: generation {self.configuration.generation} is {names}")

    async def _majority_with(
        self, members: Sequence[Member], is_enough: Callable[[AcceptorState], bool]
    ) -> Sequence[AcceptorState]:
        """The states of a majority of ``members`` that are in our configuration, each good enough when it was asked."""
        enough: dict[KeeperMachine, AcceptorState] = {}
        while len(enough) < majority(len(members)):
            machine = self._random.choice(self._machines_of(members))
            await trio.sleep(self._random.expovariate(1 / PAUSE_SECONDS))
            state = await machine.administer(self._switch)
            if state is not None and is_enough(state):
                enough[machine] = state
        return list(enough.values())

    async def _switch(self, timelines: Timelines) -> AcceptorState:
        timeline = timelines.get(self._ttid)
        await timeline.process(ProposerGreeting(self._ttid, self.configuration, self._server))
        return timeline.require_state()


def _member(machine: KeeperMachine) -> Member:
    return Member(machine.node_id, machine.host.name, KEEPER_PORT)


def _log_end(state: AcceptorState) -> tuple[Term, Lsn]:
    return state.term_history.last_log_term(state.flush_lsn), state.flush_lsn
