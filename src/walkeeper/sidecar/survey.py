"""What keepers say is committed, asked before any of them is asked for its vote.

A vote fences whoever leads.  A primary that lacks what is committed cannot lead, so it must not come to that: a stale
copy that somebody has started, with a sidecar, does no harm to the writer that is well.

Not a proof: only keepers that answer at once are heard, and they may not know of the newest commits.  That is
``junction``, after the election.
"""

from collections.abc import Sequence
from typing import Final

import trio

from walkeeper.errors import ConfigError, PeerError, ServerError, Unreachable
from walkeeper.links.address import Address
from walkeeper.links.keeper import connect_keeper, identify
from walkeeper.links.keeper_link import Introduction
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import majority

ANSWER_SECONDS: Final = 1.0
"""Commits wait meanwhile; a keeper that is there and well answers long before."""


async def ask_commit_lsn(keepers: Sequence[Address], introduction: Introduction) -> Lsn:
    """The highest commit_lsn that they know of, 0 if none.  A majority of answers is enough, fewer are not waited for."""
    known: list[Lsn] = []

    async def ask(address: Address) -> None:
        commit_lsn = await _commit_lsn(address, introduction)
        if commit_lsn is not None:
            known.append(commit_lsn)
        if len(known) >= majority(len(keepers)):
            nursery.cancel_scope.cancel()

    with trio.move_on_after(ANSWER_SECONDS):
        async with trio.open_nursery() as nursery:
            for address in keepers:
                nursery.start_soon(ask, address)
    return max(known, default=INVALID_LSN)


async def _commit_lsn(address: Address, introduction: Introduction) -> Lsn | None:
    """None if it cannot be asked, or keeps something else: its link will tell."""
    try:
        async with connect_keeper(address, introduction.ttid, introduction.application_name) as connection:
            kept = await identify(connection)
            introduction.check(connection.name, kept)
            return kept.end_lsn if kept else INVALID_LSN
    except (Unreachable, ServerError, PeerError, ConfigError):
        return None
