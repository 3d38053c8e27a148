"""Who is connected to a timeline.

Proposers register for as long as they push WAL, senders for as long as they stream it; a timeline that closes
cancels them all.

Does not own the connections: they are tasks of ``services``, and leave by leaving their ``with`` block.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

import trio


class ReceiverStatus(Enum):
    """How far a proposer got; the values are those of the HTTP API."""

    VOTING = "Voting"
    STREAMING = "Streaming"


@dataclass(slots=True, eq=False)
class Receiver:
    """A connected proposer.  ``connection`` is the keeper's running number of connections."""

    connection: int
    scope: trio.CancelScope
    status: ReceiverStatus = ReceiverStatus.VOTING


class Registry:
    """The connections of one timeline."""

    def __init__(self) -> None:
        self._receivers: list[Receiver] = []
        self._senders: list[trio.CancelScope] = []
        self._is_closed = False

    @contextmanager
    def receiving(self, connection: int) -> Iterator[Receiver]:
        """Register a proposer; the block is cancelled when the timeline closes."""
        with self._scope() as scope:
            receiver = Receiver(connection, scope)
            self._receivers.append(receiver)
            try:
                yield receiver
            finally:
                self._receivers.remove(receiver)

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Register a reader of WAL; the block is cancelled when the timeline closes."""
        with self._scope() as scope:
            self._senders.append(scope)
            try:
                yield
            finally:
                self._senders.remove(scope)

    def _scope(self) -> trio.CancelScope:
        """Whoever comes after the end is cancelled at once."""
        scope = trio.CancelScope()
        if self._is_closed:
            scope.cancel(reason="the timeline is closing")
        return scope

    def receivers(self) -> tuple[Receiver, ...]:
        return tuple(self._receivers)

    def cancel_all(self) -> None:
        """End every connection of this timeline, and every one that is still to come."""
        self._is_closed = True
        for receiver in self._receivers:
            receiver.scope.cancel(reason="the timeline is closing")
        for scope in self._senders:
            scope.cancel(reason="the timeline is closing")
