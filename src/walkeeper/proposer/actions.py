"""What the proposer tells its caller beyond messages to keepers.

Messages are not among these: the caller asks ``Proposer.next_message`` when a connection can take one, so that
nothing ever queues up for a keeper that does not read.
"""

from dataclasses import dataclass

from walkeeper.lsn import Lsn
from walkeeper.membership import Generation
from walkeeper.proposer.election import Election
from walkeeper.terms import Term


@dataclass(frozen=True, slots=True)
class Elected:
    """The campaign is won.  No keeper hears of it before ``Proposer.lead``."""

    election: Election


@dataclass(frozen=True, slots=True)
class CampaignLost:
    """``keeper`` has promised itself to ``term``, ours or a higher one; ``Proposer.campaign_again`` tries a higher."""

    keeper: str
    term: Term


@dataclass(frozen=True, slots=True)
class Overtaken:
    """``keeper`` is at ``term``, above the one we led: another writer has taken over.  There is no way back."""

    keeper: str
    term: Term


@dataclass(frozen=True, slots=True)
class Reconfigured:
    """``keeper`` knows a newer membership than we were elected under: start over with a new ``Proposer``."""

    keeper: str
    generation: Generation


@dataclass(frozen=True, slots=True)
class CommitAdvanced:
    """A quorum has fsynced everything up to ``commit_lsn``."""

    commit_lsn: Lsn


Action = Elected | CampaignLost | Overtaken | Reconfigured | CommitAdvanced
