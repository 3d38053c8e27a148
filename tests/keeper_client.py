"""A blocking client of one keeper, for tests that say exactly these bytes at exactly this moment.

Rules: nothing waits without a limit; whatever the keeper says instead of the expected is raised.  What a proposer
would decide is the caller's: `Client` only knows the messages and the order in which a session begins.

Not here: processes (see programs.py), assertions.
"""

import socket
from types import TracebackType
from typing import Self

from walkeeper.formats.backend import (
    BackendMessage,
    CopyBothResponse,
    DataRow,
    ErrorResponse,
    ReadyForQuery,
    parse_backend_message,
)
from walkeeper.formats.commands import StartWalPush, encode_start_wal_push
from walkeeper.formats.frames import FrameParser, encode_frame
from walkeeper.formats.frontend import CopyData, CopyDone, Query
from walkeeper.formats.proposer import encode_proposer_message, parse_acceptor_message
from walkeeper.formats.startup import StartupMessage, encode_options
from walkeeper.ids import TenantTimelineId
from walkeeper.messages import AcceptorMessage, AppendResponse, ProposerMessage

ANSWER_SECONDS = 10.0  # one fsync of a busy disk, with much to spare
TAKES_NOTHING_SECONDS = 1.0
RECEIVE_BYTES = 64 * 1024


class Refused(Exception):
    """The keeper answered with an ErrorResponse."""

    def __init__(self, error: ErrorResponse) -> None:
        super().__init__(f"{error.sqlstate}: {error.message}")
        self.sqlstate = error.sqlstate
        self.message = error.message


class Ended(Exception):
    """The keeper ended the connection, or the connection was lost, before it said what was waited for."""


class Client:
    """One connection.  As a context manager it ends closed."""

    def __init__(self, port: int, *, version: int = 3, room_bytes: int | None = None) -> None:
        """`room_bytes`: how little the kernel shall keep of what nobody reads here."""
        self.version = version
        self.sock = connect(port, room_bytes)
        self._parser = FrameParser()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()

    # ---- bytes and frames

    def send(self, data: bytes) -> None:
        """All of `data`; raises Ended when the connection is gone."""
        try:
            self.sock.sendall(data)
        except ConnectionError as error:
            raise Ended(str(error)) from error

    def flood(self, data: bytes) -> None:
        """Send until the keeper, or the kernel for it, takes nothing more for a moment."""
        self.sock.settimeout(TAKES_NOTHING_SECONDS)
        try:
            self.sock.sendall(data)
        except (ConnectionError, TimeoutError):
            pass
        self.sock.settimeout(ANSWER_SECONDS)

    def end(self) -> None:
        """End our side; the keeper may still speak."""
        self.sock.shutdown(socket.SHUT_WR)

    def next_message(self) -> BackendMessage:
        """The next thing the keeper says; raises Ended when it says nothing more."""
        while (frame := self._parser.next_frame()) is None:
            self._parser.feed(self._receive())
        return parse_backend_message(frame)

    def _receive(self) -> bytes:
        try:
            received = self.sock.recv(RECEIVE_BYTES)
        except ConnectionError as error:
            raise Ended(str(error)) from error
        if not received:
            raise Ended("the keeper closed the connection")
        return received

    def last_words(self) -> list[BackendMessage]:
        """Everything the keeper still says, up to its end of the connection."""
        said: list[BackendMessage] = []
        try:
            while True:
                said.append(self.next_message())
        except Ended:
            return said

    # ---- the beginning of a session

    def start_up(self, ttid: TenantTimelineId | None, **parameters: str) -> None:
        """Say who we are and wait to be let in; raises Refused."""
        named = {} if ttid is None else {"options": encode_options(ttid)}
        self.send(StartupMessage({"user": "test", **named, **parameters}).encode())
        self._wait_for(ReadyForQuery)

    def query(self, text: str) -> list[tuple[str | None, ...]]:
        """The rows that a simple query brings; raises Refused, and the connection can be used again then."""
        self.send(Query(text).encode())
        rows: list[tuple[str | None, ...]] = []
        refused: Refused | None = None
        while not isinstance(message := self.next_message(), ReadyForQuery):
            if isinstance(message, ErrorResponse):
                refused = Refused(message)
            elif isinstance(message, DataRow):
                rows.append(tuple(None if value is None else value.decode() for value in message.values))
        if refused is not None:
            raise refused
        return rows

    def start_push(self, ttid: TenantTimelineId) -> None:
        """Everything up to the point where a proposer greets; raises Refused."""
        self.start_up(ttid)
        self.send(Query(encode_start_wal_push(StartWalPush(self.version))).encode())
        self._wait_for(CopyBothResponse)

    def _wait_for(self, kind: type[BackendMessage]) -> None:
        while not isinstance(message := self.next_message(), kind):
            if isinstance(message, ErrorResponse):
                raise Refused(message)

    # ---- a proposer's words

    def say(self, *messages: ProposerMessage) -> None:
        """Send messages, each in a CopyData of its own."""
        payloads = (encode_proposer_message(message, self.version) for message in messages)
        self.send(b"".join(encode_frame(b"d", payload) for payload in payloads))

    def hear(self) -> AcceptorMessage:
        """The next reply to a proposer; raises Refused or Ended."""
        match self.next_message():
            case CopyData(payload):
                return parse_acceptor_message(payload, self.version)
            case ErrorResponse() as error:
                raise Refused(error)
            case CopyDone():
                raise Ended("the keeper ended the copy")
            case message:
                raise AssertionError(f"no reply to a proposer: {message}")

    def hear_flushed(self, lsn: int) -> AppendResponse:
        """The first reply that says WAL is durable up to `lsn` at least; raises Refused or Ended."""
        while True:
            reply = self.hear()
            assert isinstance(reply, AppendResponse)
            if reply.flush_lsn >= lsn:
                return reply


def connect(port: int, room_bytes: int | None = None) -> socket.socket:
    """A blocking connection with a limit on each of its calls."""
    sock = socket.socket()
    try:
        if room_bytes is not None:  # counts only when it is set before the connection is made
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room_bytes)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(ANSWER_SECONDS)
        sock.connect(("127.0.0.1", port))
    except OSError:
        sock.close()
        raise
    return sock
