"""Who is connected to a timeline, and what its readers report.

Proposers register for as long as they push WAL, senders for as long as they stream it; a timeline that closes
cancels them all.  What standbys still need to see is merged over all of them and goes to the proposer with every
answer to WAL; what a pageserver reports goes to the proposers at once.

Whoever else uses a timeline's files without its lock is a visitor; a timeline that is deleted waits for all of them.

Does not own the connections: they are tasks of ``services``, and leave by leaving their ``with`` block.
Source: Neon's ``send_wal.rs`` (WalSenders) and ``receive_wal.rs`` (WalReceivers).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from typing import assert_never

import structlog
import trio

from walkeeper.formats.replication import StandbyMessage, StandbyStatusUpdate
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.messages import (
    NO_HOT_STANDBY,
    AppendResponse,
    HotStandbyFeedback,
    PageserverFeedback,
    merge_hot_standby,
)

log = structlog.stdlib.get_logger()


class ReceiverStatus(Enum):
    """How far a proposer got; the values are those of the HTTP API."""

    VOTING = "Voting"
    STREAMING = "Streaming"


@dataclass(frozen=True, slots=True)
class Client:
    """Who is at the other end: the keeper's running number of the connection, and what is known of the peer.

    ``only_reads``: nothing that it says may be kept, or reach writers as a pageserver's word.
    """

    connection: int
    peer: str = ""
    application_name: str | None = None
    only_reads: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits at a proposer's connection: messages for the disk, the receive buffers that are held for it, and replies
    for a peer that does not read."""

    messages: int = 0
    pinned_bytes: int = 0
    replies: int = 0


@dataclass(slots=True, eq=False)
class Receiver:
    """A connected proposer.  ``tell`` hands it a pageserver's feedback; it must not wait or raise."""

    client: Client
    scope: trio.CancelScope
    tell: Callable[[PageserverFeedback], None]
    waiting: Callable[[], Waiting] = Waiting
    status: ReceiverStatus = ReceiverStatus.VOTING


@dataclass(slots=True, eq=False)
class Sender:
    """A connected reader of WAL: how far it was sent, and what it has reported.

    It is taken for a pageserver until it reports as a standby does.
    """

    client: Client
    scope: trio.CancelScope
    sent_lsn: Lsn = INVALID_LSN
    status: StandbyStatusUpdate | None = None
    hot_standby: HotStandbyFeedback | None = None
    pageserver: PageserverFeedback | None = None

    @property
    def is_standby(self) -> bool:
        return self.status is not None or self.hot_standby is not None

    @property
    def remote_consistent_lsn(self) -> Lsn:
        """Up to where it needs nothing any more; 0 if it never said."""
        return self.pageserver.remote_consistent_lsn if self.pageserver else INVALID_LSN


class Registry:
    """The connections of one timeline."""

    def __init__(self) -> None:
        self.hot_standby = NO_HOT_STANDBY
        """What the standbys that are connected still need to see."""
        self.remote_consistent_lsn = INVALID_LSN
        """The highest that a pageserver has reported."""
        self.pageserver: PageserverFeedback | None = None
        """The last report of a pageserver."""
        self.pageserver_reports = 0
        self.is_corruption_reported = False
        self._receivers: list[Receiver] = []
        self._senders: list[Sender] = []
        self._visitors = 0
        self._left = trio.Event()
        self._is_closed = False

    @contextmanager
    def receiving(
        self,
        client: Client,
        tell: Callable[[PageserverFeedback], None],
        waiting: Callable[[], Waiting] = Waiting,
    ) -> Iterator[Receiver]:
        """Register a proposer; the block is cancelled when the timeline closes."""
        with self._scope() as scope:
            receiver = Receiver(client, scope, tell, waiting)
            self._receivers.append(receiver)
            try:
                yield receiver
            finally:
                self._receivers.remove(receiver)
                self._left.set()

    @contextmanager
    def sending(self, client: Client) -> Iterator[Sender]:
        """Register a reader of WAL; the block is cancelled when the timeline closes."""
        with self._scope() as scope:
            sender = Sender(client, scope)
            self._senders.append(sender)
            try:
                yield sender
            finally:
                self._senders.remove(sender)
                self._merge()
                self._left.set()

    @contextmanager
    def visiting(self) -> Iterator[None]:
        """Use the files for a moment, within the block.  Nobody sends a visitor away: it asks again at every step."""
        self._visitors += 1
        try:
            yield
        finally:
            self._visitors -= 1
            self._left.set()

    async def wait_left(self) -> None:
        """Return when nobody is left.

        Cancellation: at any time, nothing is lost.
        """
        while self._receivers or self._senders or self._visitors:
            self._left = trio.Event()
            await self._left.wait()

    def _scope(self) -> trio.CancelScope:
        """Whoever comes after the end is cancelled at once."""
        scope = trio.CancelScope()
        if self._is_closed:
            scope.cancel(reason="the timeline is closing")
        return scope

    # -- feedback -------------------------------------------------------------------------------------------

    def record(self, sender: Sender, message: StandbyMessage) -> None:
        """Take in what a reader reports."""
        match message:
            case StandbyStatusUpdate():
                sender.status, sender.pageserver = message, None
            case HotStandbyFeedback():
                sender.hot_standby, sender.pageserver = message, None
                self._merge()
            case PageserverFeedback() if sender.client.only_reads:
                pass
            case PageserverFeedback():
                needed = sender.hot_standby
                sender.pageserver, sender.status, sender.hot_standby = message, None, None
                if needed:
                    self._merge()
                self.pageserver, self.pageserver_reports = message, self.pageserver_reports + 1
                if message.corruption_detected and not self.is_corruption_reported:
                    self.is_corruption_reported = True
                    log.error("a pageserver reports damage", application=sender.client.application_name)
                self.remote_consistent_lsn = max(self.remote_consistent_lsn, message.remote_consistent_lsn)
                for receiver in self._receivers:
                    receiver.tell(message)
            case _:
                assert_never(message)

    def _merge(self) -> None:
        self.hot_standby = merge_hot_standby(each.hot_standby for each in self._senders if each.hot_standby)

    def annotate(self, reply: AppendResponse) -> AppendResponse:
        """``reply`` with what standbys need: the acceptor does not know of them."""
        return reply if self.hot_standby is NO_HOT_STANDBY else replace(reply, hot_standby=self.hot_standby)

    def may_stop(self, sender: Sender, commit_lsn: Lsn) -> bool:
        """Whether a pageserver has all there will be: nobody writes, and it needs nothing below ``commit_lsn``.

        Standbys are never sent away.
        """
        if sender.is_standby or self._receivers:
            return False
        return commit_lsn == INVALID_LSN or sender.remote_consistent_lsn >= commit_lsn

    # -- for those who look ---------------------------------------------------------------------------------

    def receivers(self) -> tuple[Receiver, ...]:
        return tuple(self._receivers)

    def senders(self) -> tuple[Sender, ...]:
        return tuple(self._senders)

    def cancel_all(self) -> None:
        """End every connection of this timeline, and every one that is still to come."""
        self._is_closed = True
        scopes = [receiver.scope for receiver in self._receivers] + [sender.scope for sender in self._senders]
        for scope in scopes:
            scope.cancel(reason="the timeline is closing")
