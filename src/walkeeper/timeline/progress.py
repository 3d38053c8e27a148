"""What readers may see of a timeline, and how they wait for more.

The acceptor publishes after every operation and withdraws before a truncation, so a reader never sees a position
that the disk does not back.  Committed WAL needs no more care than that.  A reader of uncommitted WAL compares
``position.term`` and ``truncations`` before and after its read, in the same synchronous stretch in which it hands
the bytes on, and throws them away if either has changed.

Does not read WAL and takes no lock.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from trio_util import AsyncValue

from walkeeper.acceptor.state import AcceptorState
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.terms import INITIAL_TERM, Term


@dataclass(frozen=True, slots=True)
class Position:
    """``term``: the newest voted for; ``last_log_term``: of the last WAL here; both LSNs durable record ends."""

    term: Term = INITIAL_TERM
    last_log_term: Term = INITIAL_TERM
    flush_lsn: Lsn = INVALID_LSN
    commit_lsn: Lsn = INVALID_LSN

    @classmethod
    def of(cls, state: AcceptorState) -> "Position":
        flush_lsn = state.flush_lsn
        last_log_term = state.kept.term_history.last_log_term(flush_lsn)
        return cls(state.term, last_log_term, flush_lsn, state.ahead.commit_lsn)


class Progress:
    """One timeline's public position."""

    def __init__(self) -> None:
        self._position = AsyncValue(Position())
        self._truncations = 0

    @property
    def position(self) -> Position:
        return self._position.value

    @property
    def truncations(self) -> int:
        """How often WAL was withdrawn; a change means that what was read beside it may be something else now."""
        return self._truncations

    def publish(self, position: Position) -> None:
        self._position.value = position  # wakes nobody if it says nothing new

    def withdraw(self, lsn: Lsn) -> None:
        """WAL from ``lsn`` on is about to go."""
        self._truncations += 1
        position = self._position.value
        self.publish(
            replace(position, flush_lsn=min(position.flush_lsn, lsn), commit_lsn=min(position.commit_lsn, lsn))
        )

    async def wait_until(self, reached: Callable[[Position], bool]) -> Position:
        """Return the first position for which ``reached`` holds, the present one included.

        Cancellation: at any time, nothing is lost.
        """
        return await self._position.wait_value(reached)
