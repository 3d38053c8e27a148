"""Reading what a client sends while both sides are in COPY mode.

Does not know what the payloads mean, and does not answer.
Source: PostgreSQL, "COPY Operations"; what ends a COPY BOTH is as in Neon's safekeeper.
"""

from enum import Enum, auto
from typing import Final

import trio

from walkeeper.errors import OutOfTurn
from walkeeper.formats.frontend import CopyData, CopyDone, CopyFail, Terminate
from walkeeper.formats.session import EndOfStream, ServerSession
from walkeeper.links.link import Link

SILENCE_SECONDS_MAX: Final = 600.0
"""A client that has sent nothing for this long is gone; idle proposers send a heartbeat every second."""


class CopyEnd(Enum):
    """How a client ended the copy."""

    DONE = auto()
    FAILED = auto()
    GONE = auto()
    """Terminate, the end of the stream, a lost connection or silence: nobody to answer."""


class CopyReader:
    """The payloads of CopyData, as many at a time as one receive brought."""

    def __init__(self, link: Link, session: ServerSession) -> None:
        self._link = link
        self._session = session
        self.received_bytes = 0
        """Size of the receive buffer that the newest payloads are views into."""

    async def next_payloads(self) -> list[memoryview] | CopyEnd:
        """At least one payload, or how the copy ended.  Payloads are views: keeping one pins its receive buffer.

        Raises PeerError for frames that are malformed or have no place in a copy.

        Cancellation: at any time, nothing is lost.
        """
        while True:
            if payloads := self._session.copy_payloads():
                return payloads
            match self._session.next_event():
                case None:
                    if not await self._feed():
                        return CopyEnd.GONE
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
        received = b""
        try:
            with trio.CancelScope(deadline=trio.current_time() + SILENCE_SECONDS_MAX):
                received = await self._link.receive()
        except trio.BrokenResourceError:
            return False
        if not received:
            return False
        self.received_bytes = len(received)
        self._session.feed(received)
        return True
