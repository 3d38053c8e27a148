"""What keepers say is committed, asked before any of them is asked for its vote.

A vote fences whoever leads.  A primary that lacks what is committed cannot lead, so it must not come to that: a stale
copy that somebody has started, with a sidecar, does no harm to the writer that is well.

Not a proof: only keepers that answer at once are heard, and they may not know of the newest commits.  That is
``junction``, after the election.
"""

from collections.abc import Sequence
from typing import Final

from walkeeper.errors import ConfigError
from walkeeper.links.address import Address
from walkeeper.links.keeper_link import Introduction
from walkeeper.links.poll import Answer, Poll, ask_nothing_more, poll
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import majority

ANSWER_SECONDS: Final = 1.0
"""Commits wait meanwhile; a keeper that is there and well answers long before."""


async def ask_commit_lsn(keepers: Sequence[Address], introduction: Introduction) -> Lsn:
    """The highest commit_lsn that they know of, 0 if none.  A majority of answers is enough, fewer are not waited for.

    Whoever cannot be asked, or keeps something else, is left out: its link will tell.
    """

    def belonging(found: Poll[None]) -> Sequence[Answer[None]]:
        return [each for each in found.answers if _belongs(each, introduction)]

    found = await poll(
        keepers,
        introduction.ttid,
        ask_nothing_more,
        application_name=introduction.application_name,
        enough=lambda found: len(belonging(found)) + found.ignorant >= majority(len(keepers)),
        answer_seconds=ANSWER_SECONDS,
        patience_seconds=0,
    )
    return max((each.kept.end_lsn for each in belonging(found)), default=INVALID_LSN)


def _belongs(answer: Answer[None], introduction: Introduction) -> bool:
    try:
        introduction.check(f"keeper {answer.address}", answer.kept)
    except ConfigError:
        return False
    return True
