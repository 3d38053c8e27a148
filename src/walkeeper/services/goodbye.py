"""How a stream ends: what is said last, and why.

Does not say it: ``services.connection`` knows the words, the streams know when.
"""

from dataclasses import dataclass
from typing import Final

from walkeeper.errors import WalkeeperError
from walkeeper.lsn import Lsn
from walkeeper.services.copy_in import CopyEnd

GOODBYE_SECONDS_MAX: Final = 3.0
"""How long a peer may take to hear why the connection ends."""


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """A pageserver has everything up to ``lsn``, and nobody writes."""

    application_name: str | None
    lsn: Lsn


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The last thing on its way to the peer: what went wrong, or what else has ended the stream."""

    reason: WalkeeperError | CopyEnd | CaughtUp
