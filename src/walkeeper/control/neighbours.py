"""The other keepers of the quorum: each is asked how far it is, all at once; what it said last is remembered.

This keeper may be among those that are named: whoever answers with our own ``instance`` is no other.  A keeper that is named
twice is one.  An address that has never answered stands for another keeper: whoever counts is rather too careful.  Where we
answer at each of several addresses, all but one of them are wrong, and stand for others, too.

Decides nothing: ``catching_up`` and the daemon's ``leave`` do.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import trio

from walkeeper.control.positions import KeeperPositionsJson, TimelinePositionsJson, read_positions
from walkeeper.links.address import HttpAddress
from walkeeper.links.overview import NoAnswer, answer_of, ask_positions

ITSELF: Final = "this keeper itself answers there"


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another keeper.  ``said``: its last answer, None if there was none; ``trouble``: why there is no newer one.

    ``told``: its timelines as it told them last, None if it never did: while it starts it does not know them.
    """

    address: HttpAddress
    said: KeeperPositionsJson | None = None
    trouble: str = "not asked yet"
    told: Sequence[TimelinePositionsJson] | None = None

    @property
    def is_answering(self) -> bool:
        return not self.trouble

    @property
    def is_us(self) -> bool:
        """At an address of another one."""
        return self.trouble == ITSELF

    @property
    def is_starting(self) -> bool:
        return self.is_answering and self.said is not None and self.said.state == "starting"

    @property
    def is_ready(self) -> bool:
        return self.is_answering and self.said is not None and self.said.is_ready

    @property
    def takes_wal(self) -> bool:
        return self.is_answering and self.said is not None and self.said.takes_wal

    def __str__(self) -> str:
        return f"keeper {self.said.id} ({self.address})" if self.said else str(self.address)

    @property
    def plight(self) -> str:
        """Why it is of no help now, in words."""
        if self.said is None or self.trouble:
            return f"{self}: {self.trouble}"
        if not self.said.takes_wal:
            return f"{self}: takes no WAL: its disk is full or does not answer"
        return f"{self}: {'not caught up' if self.said.state == 'serving' else self.said.state}"


class Neighbours:
    """``addresses``: of their HTTP ports, perhaps ours among them.  ``node_id``, ``instance``: who asks."""

    def __init__(self, addresses: Sequence[HttpAddress], node_id: int, instance: str) -> None:
        self.node_id = node_id
        self._instance = instance
        self._asked = {address: Neighbour(address) for address in addresses}
        self._asking = trio.Lock()

    def __bool__(self) -> bool:
        """Whether anybody is named."""
        return bool(self._asked)

    async def look(self) -> Sequence[Neighbour]:
        """Ask all of them now; those that are others.

        Cancellation: at any time; what was answered is kept.
        """
        async with self._asking, trio.open_nursery() as nursery:
            for address in self._asked:
                nursery.start_soon(self._ask, address)
        return self.others()

    def others(self) -> Sequence[Neighbour]:
        """Each once, as it was seen last."""
        found: dict[object, Neighbour] = {}
        for each in self._asked.values():
            if each.said is not None and each.said.instance == self._instance:
                continue
            # A twin of ours, with our number and another instance, is another one all the same.
            is_twin = each.said is not None and each.said.id == self.node_id
            key: object = each.address if each.said is None or is_twin else each.said.id
            if key not in found or each.is_answering:
                found[key] = each
        if not found and len(self._asked) > 1:
            return [Neighbour(address, None, ITSELF) for address in list(self._asked)[1:]]
        return list(found.values())

    def tally(self) -> Mapping[str, int]:
        """How many of the others are in which state."""
        states = Counter(
            "ready" if each.is_ready else "unready" if each.is_answering else "silent" for each in self.others()
        )
        return {state: states[state] for state in ("ready", "unready", "silent")} if self else {}

    async def _ask(self, address: HttpAddress) -> None:
        before = self._asked[address]
        said = await answer_of(_positions_at(address))
        if isinstance(said, NoAnswer):
            self._asked[address] = replace(before, trouble=said.why)
        else:
            told = before.told if said.state == "starting" else said.timelines
            self._asked[address] = Neighbour(address, said, "", told)


async def _positions_at(address: HttpAddress) -> KeeperPositionsJson:
    return await read_positions(await ask_positions(address))
