"""Reading what a client sends while both sides are in COPY mode.

Does not know what the payloads mean, and does not answer.
Source: PostgreSQL, "COPY Operations"; what ends a COPY BOTH is as in Neon's safekeeper.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from math import inf
from typing import Final

import trio

from walkeeper.errors import OutOfTurn
from walkeeper.formats.frames import PAYLOADS_MAX
from walkeeper.formats.frontend import CopyData, CopyDone, CopyFail, Terminate
from walkeeper.formats.session import EndOfStream, ServerSession, ServerState
from walkeeper.links.link import FLOOD_BYTES_MAX, Link
from walkeeper.services.turnstile import MORSEL_BYTES, Turnstile

SILENCE_SECONDS_MAX: Final = 600.0
"""A client that has sent nothing for this long is gone; idle proposers send a heartbeat every second."""

SILENCE_SLACK: Final = 0.01
"""By what part of that time it may be given up earlier: moving a deadline costs more than looking at the clock."""


class CopyEnd(Enum):
    """How a client ended the copy."""

    DONE = auto()
    FAILED = auto()
    GONE = auto()
    """Terminate, the end of the stream, a lost connection, silence, or a goodbye of ours: nobody to answer."""


class CopyReader:
    """The payloads of CopyData, as many at a time as one receive brought.  To be read in a ``listening`` block.

    ``silence_seconds_max``: how long the client may say nothing.  ``turnstile``: where it is let in morsel by
    morsel; a proposer has none.
    """

    def __init__(
        self,
        link: Link,
        session: ServerSession,
        silence_seconds_max: float = SILENCE_SECONDS_MAX,
        turnstile: Turnstile | None = None,
    ) -> None:
        self._link = link
        self._session = session
        self._silence_seconds_max = silence_seconds_max
        self._turnstile = turnstile
        self._payloads_in_turn = 0
        self._patience = trio.CancelScope()
        self._received_bytes = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """A block that is left when the client has been silent for too long: it is gone.

        Whoever waits for anything else in it says so first, with ``stop_listening``.
        """
        with trio.CancelScope(deadline=trio.current_time() + self._silence_seconds_max) as self._patience:
            yield

    def stop_listening(self) -> None:
        """Until the next payloads are asked for, it is not the client that is waited for."""
        self._patience.deadline = inf

    def take_received_bytes(self) -> int:
        """How much was received since this was asked last: the buffers that the payloads since then are views into."""
        taken, self._received_bytes = self._received_bytes, 0
        return taken

    async def next_payloads(self) -> list[memoryview] | CopyEnd:
        """At least one payload, or how the copy ended.  Payloads are views: keeping one pins its receive buffer.

        Raises PeerError for frames that are malformed or have no place in a copy.

        Cancellation: at any time, nothing is lost.
        """
        while True:
            if self._session.is_starved and not await self._feed():
                return CopyEnd.GONE
            await self._let_others_run()
            if self._session.state is ServerState.CLOSED:  # a goodbye was said while this waited
                return CopyEnd.GONE
            if payloads := self._session.copy_payloads():
                self._payloads_in_turn += len(payloads)
                return payloads
            match self._session.next_event():
                case None:
                    pass
                case CopyData(payload):
                    return [memoryview(payload)]
                case CopyDone():
                    return CopyEnd.DONE
                case CopyFail():
                    return CopyEnd.FAILED
                case Terminate() | EndOfStream():
                    return CopyEnd.GONE
                case event:
                    raise OutOfTurn(f"{type(event).__name__} during a copy")

    async def _feed(self) -> bool:
        """Receive; False when there is nobody any more, even in the middle of a frame."""
        self._be_patient()
        try:
            received = await self._link.receive(MORSEL_BYTES if self._turnstile else FLOOD_BYTES_MAX)
        except trio.BrokenResourceError:
            return False
        if not received:
            return False
        self._received_bytes += len(received)
        self._session.feed(received)
        return True

    async def _let_others_run(self) -> None:
        """Before more of what has been received is taken."""
        if self._turnstile:
            self.stop_listening()  # the others are waited for, not this client
            await self._turnstile.go_through()
        elif self._payloads_in_turn >= PAYLOADS_MAX:
            self._payloads_in_turn = 0
            await trio.lowlevel.checkpoint()

    def _be_patient(self) -> None:
        """The silence begins now, or has begun a moment ago."""
        deadline = trio.current_time() + self._silence_seconds_max
        if not 0.0 <= deadline - self._patience.deadline <= SILENCE_SLACK * self._silence_seconds_max:
            self._patience.deadline = deadline
