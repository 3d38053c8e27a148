"""What other keepers say of themselves, asked while somebody looks at this one, so that one page shows them all.

Each is asked for its overview, at once and with a limit; a silent one is a row with its reason.  However many look for the
same, nobody is asked for it more often than once in ``ASK_SECONDS``, and nobody is asked while no one looks.

Their addresses are what the operator said (``--peer-http``), never what a client did.  This keeper may be among them, since in
a StatefulSet all have one list: whoever answers with our own ``instance`` is left out.
"""

import time
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog
import trio

from walkeeper.control import diagnosis
from walkeeper.control.diagnosis import Problem
from walkeeper.control.overview import KeeperJson, OtherKeeperJson, OtherTimelineJson, OverviewJson, of_peer
from walkeeper.ids import NodeId
from walkeeper.links.address import HttpAddress
from walkeeper.links.overview import NoAnswer, answer_of, ask_overview

ASK_SECONDS: Final = 0.9
"""How old an answer may be: less than the second after which whoever watches is told again."""

FINDS_KEPT_MAX: Final = 16
"""As many as may watch may look for different things, each with answers of its own."""

_overview_in: Final = msgspec.json.Decoder(OverviewJson).decode

log = structlog.stdlib.get_logger()


class Peers:
    """``addresses``: of their HTTP ports.  ``node_id``, ``instance``: who asks."""

    def __init__(self, addresses: Sequence[HttpAddress], node_id: int, instance: str) -> None:
        self._node_id = NodeId(node_id)
        self._instance = instance
        self._told = {address: _Told() for address in addresses}
        self._found: dict[str, _Found] = {}

    async def look(self, find: str = "") -> list[OtherKeeperJson]:
        """What they say, or said a moment ago.  ``find`` as they understand it.

        Cancellation: at any time; what was answered is kept.
        """
        if not self._told:
            return []
        found = self._found[find] = self._found.pop(find) if find in self._found else _Found()
        if len(self._found) > FINDS_KEPT_MAX:
            del self._found[next(iter(self._found))]
        async with found.asking:
            if trio.current_time() - found.asked_at >= ASK_SECONDS:
                async with trio.open_nursery() as nursery:
                    for address in self._told:
                        nursery.start_soon(self._ask, address, find, found)
                # Not before: asking a silent one takes longer than an answer stays fresh.
                found.asked_at = trio.current_time()
        return [
            told.shown(address, self._node_id, found.timelines.get(address, []))
            for address, told in self._told.items()
            if not told.is_of(self._instance)
        ]

    async def _ask(self, address: HttpAddress, find: str, found: "_Found") -> None:
        told = self._told[address]
        answer = await answer_of(ask_overview(address, find, _overview_in))
        if isinstance(answer, NoAnswer):
            of_peer_that = diagnosis.of_closed_peer if answer.is_alive else diagnosis.of_silent_peer
            told.failed(of_peer_that(answer.why), address)
        else:
            found.timelines[address] = of_peer(answer.timelines)
            told.answered(answer.keeper, address)


class _Found:
    """One thing that is looked for: when everybody was asked for it last, and what each had of it."""

    def __init__(self) -> None:
        self.asking = trio.Lock()
        self.asked_at = float("-inf")
        self.timelines: dict[HttpAddress, list[OtherTimelineJson]] = {}


class _Told:
    """The state of one peer.  ``complaint``: why its last answer was none."""

    def __init__(self) -> None:
        self.keeper: KeeperJson | None = None
        self.complaint: Problem | None = None
        self.since = time.time()
        self.is_known = False

    def answered(self, keeper: KeeperJson, address: HttpAddress) -> None:
        if not self.is_known or self.complaint is not None:
            self.since = time.time()
            if self.is_known:
                log.info("peer is back", keeper=str(address))
        self.keeper, self.complaint, self.is_known = keeper, None, True

    def failed(self, complaint: Problem, address: HttpAddress) -> None:
        if self.complaint is None:
            self.since = time.time()
            log.info("peer lost", keeper=str(address), error=complaint.what)
        self.complaint, self.is_known = complaint, True

    def is_of(self, instance: str) -> bool:
        """Whether it is that process; one that falls silent is who it was."""
        return self.keeper is not None and self.keeper.instance == instance

    def shown(self, address: HttpAddress, node_id: NodeId, timelines: list[OtherTimelineJson]) -> OtherKeeperJson:
        problems = [self.complaint] if self.complaint else list(_problems_of(self.keeper, node_id))
        return OtherKeeperJson(str(address), self.complaint is None, self.since, problems, self.keeper, timelines)


def _problems_of(keeper: KeeperJson | None, node_id: NodeId) -> Sequence[Problem]:
    """Its own, and what only another can see."""
    if keeper is None:
        return ()
    return [*([diagnosis.of_twin(node_id)] if keeper.id == node_id else ()), *keeper.problems]
