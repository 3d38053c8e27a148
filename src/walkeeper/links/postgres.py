"""A client of PostgreSQL, and of keepers, which speak the same protocol: connect, ask, stream.

Rules: every failure of the network is ``Unreachable``, every ErrorResponse ``ServerError``, everything that whoever
started us has to put right ``ConfigError``; all name the server.  Only connecting has a time limit, the
connection string's; for the rest the caller wraps.  A server that does not stop talking starves nobody: limits fire.

Does not pipeline, prepare or cancel: simple queries with text results and COPY BOTH are all that replication needs.
Source: PostgreSQL, "Message Flow".
"""

import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final, TypeVar

import trio

from walkeeper.errors import Malformed, NotEncrypted, OutOfTurn, PeerError, ServerError, Unreachable
from walkeeper.formats.backend import (
    BackendMessage,
    CommandComplete,
    CopyBothResponse,
    DataRow,
    ErrorResponse,
    ParameterStatus,
    ReadyForQuery,
)
from walkeeper.formats.frontend import CopyData, CopyDone, Query
from walkeeper.formats.session import ClientMessage, ClientSession, EndOfStream
from walkeeper.formats.startup import EncryptionAnswer, SslRequest, StartupMessage
from walkeeper.links.conninfo import ConnectionInfo, SslMode
from walkeeper.links.dial import network, why_not_dialled
from walkeeper.links.link import Link
from walkeeper.links.login import Login, refusal
from walkeeper.links.tls import client_context
from walkeeper.links.tls_link import TlsLink
from walkeeper.messages import Slice

EVENTS_PER_TURN: Final = 64
"""Messages that are taken in without a turn of the scheduler: under a millisecond.  One receive can bring a hundred
thousand, and time limits fire only where others have a turn."""

ROWS_MAX: Final = 100
"""Rows of an answer: those to what is asked of servers here have one, rarely two."""

PARAMETERS_MAX: Final = 100
"""Settings that a server tells unasked: PostgreSQL has some fifteen."""

_HTTP: Final = repr(b"H")
"""How ``HTTP/1.1 400`` looks to who waits for one byte that says whether there is TLS."""

Row = tuple[str | None, ...]

T = TypeVar("T")


@contextmanager
def time_limit(seconds: float, server: str, what: str = "answer") -> Iterator[None]:
    """Raises Unreachable when the block takes longer: ``what`` is expected of ``server`` in it."""
    with trio.move_on_after(seconds) as limit:
        yield
    if limit.cancelled_caught:
        raise Unreachable(server, f"no {what} within {seconds:g} s")


class Connection:
    """One connection to the server called ``name``.  ``parameters`` are the settings it told unasked."""

    def __init__(self, name: str, link: Link) -> None:
        self.name = name
        self.link = link
        self.parameters: dict[str, str] = {}
        self._session = ClientSession()
        self._taken = 0
        """Messages since others had a turn."""

    # -- asking -----------------------------------------------------------------------------------------------

    async def query(self, text: str) -> Sequence[Row]:
        """The rows of a simple query, as text.  Raises ServerError, and the connection stays usable.

        Raises Malformed for more than ROWS_MAX of them.
        """
        await self._send(Query(text))
        rows: list[Row] = []
        failure: ServerError | None = None
        while True:
            match await self._next_event():
                case DataRow(values):
                    if len(rows) == ROWS_MAX:
                        raise Malformed(f"{self.name}: more than {ROWS_MAX} rows in answer to {text}")
                    rows.append(self._as_text(values))
                case ErrorResponse() as error:
                    failure = self._server_error(error)
                case ReadyForQuery():
                    break
                case CopyBothResponse() | CopyData() | CopyDone():
                    raise OutOfTurn(f"{self.name}: a stream in answer to {text}")
                case _:
                    pass
        if failure is not None:
            raise failure
        return rows

    def _as_text(self, values: Sequence[bytes | None]) -> Row:
        try:
            return tuple(None if value is None else value.decode() for value in values)
        except UnicodeDecodeError as error:
            raise Malformed(f"{self.name}: a value that is no UTF-8: {error}") from error

    async def ask(self, question: str, read: Callable[[Row], T]) -> T:
        """What ``read`` makes of the one row that answers ``question``.

        Raises ServerError, and Malformed for another number of rows and when ``read`` raises ValueError or Malformed.
        """
        rows = await self.query(question)
        try:
            (row,) = rows
            return read(row)
        except (ValueError, Malformed) as error:
            raise Malformed(f"{self.name}: {question} was answered with {rows}: {error}") from error

    async def show(self, setting: str, parse: Callable[[str], T]) -> T:
        """The value of a setting.  Raises as ``ask`` does."""

        def read(row: Row) -> T:
            (value,) = row
            return parse(value or "")

        return await self.ask(f"SHOW {setting}", read)

    async def start_copy(self, text: str) -> None:
        """Ask for a stream in both directions.  Raises ServerError, and the connection stays usable."""
        await self._send(Query(text))
        failure: ServerError | None = None
        while True:
            match await self._next_event():
                case CopyBothResponse():
                    return
                case ErrorResponse() as error:
                    failure = self._server_error(error)
                case ReadyForQuery() if failure is not None:
                    raise failure
                case DataRow() | CommandComplete() as answer:
                    raise OutOfTurn(f"{self.name}: {type(answer).__name__} in answer to {text}")
                case _:
                    pass

    # -- streaming --------------------------------------------------------------------------------------------

    async def receive_copies(self) -> Sequence[memoryview]:
        """The payloads of CopyData that have arrived, at least one and at most ``PAYLOADS_MAX``.

        Raises ServerError or Unreachable when the server has ended the stream.
        Cancellation: at any time, nothing is lost.
        """
        while True:
            await self._let_others_run()
            try:
                if self._session.is_starved:
                    self._session.feed(await self._receive())
                if payloads := self._session.copy_payloads():
                    self._taken += len(payloads)
                    return payloads
            except PeerError as broken:
                raise self._named(broken) from broken
            match await self._next_event_or_more():
                case CopyData(payload):
                    return [memoryview(payload)]
                case CopyDone() | CommandComplete():
                    raise Unreachable(self.name, "the server ended the stream")
                case ErrorResponse() as error:
                    raise self._server_error(error)
                case _:
                    pass

    async def _let_others_run(self) -> None:
        """Once in a while.  Cancellation: nothing is lost."""
        if self._taken >= EVENTS_PER_TURN:
            self._taken = 0
            await trio.lowlevel.checkpoint()

    def send_copy_soon(self, payload: Slice) -> None:
        """Send one CopyData, without waiting.  Raises Unreachable."""
        self.send_soon(self._session.send(CopyData(payload)))

    def send_soon(self, *pieces: Slice) -> None:
        """Send bytes that are whole CopyData frames, without waiting.  Raises Unreachable."""
        try:
            self.link.send_soon(*pieces)
        except trio.BrokenResourceError as error:
            raise Unreachable(self.name, str(error)) from error

    async def wait_sent(self) -> None:
        """Raises Unreachable.  Cancellation: at any time, the rest stays pending."""
        try:
            await self.link.wait_sent()
        except trio.BrokenResourceError as error:
            raise Unreachable(self.name, str(error)) from error

    # -- the startup phase ------------------------------------------------------------------------------------

    async def encrypt(self, info: ConnectionInfo) -> None:
        """Change to TLS if ``info`` wants it and the server can.  Raises NotEncrypted if it must and cannot."""
        if info.sslmode is SslMode.DISABLE or info.is_unix_socket:
            return
        await self._send(SslRequest())
        if (await self._hear_about_encryption()).accepted:
            tls = TlsLink(self.link, self._tls_context(info), info.host)
            try:
                await tls.shake_hands()
            except ssl.SSLCertVerificationError as error:
                raise NotEncrypted(
                    f"{self.name}: its certificate is not trusted: {error.verify_message}"
                ) from error
            except (ssl.SSLError, trio.BrokenResourceError) as error:
                raise Unreachable(self.name, f"TLS: {error}") from error
            self.link = tls
        elif info.sslmode is not SslMode.PREFER:
            raise NotEncrypted(f"{self.name} does not offer TLS, but sslmode={info.sslmode.value}")

    async def _hear_about_encryption(self) -> EncryptionAnswer:
        try:
            answer = await self._next_event()
        except Malformed as error:
            if str(error).endswith(_HTTP):
                raise Malformed(f"{self.name}: it speaks HTTP: is it the port of --listen-http?") from error
            raise
        assert isinstance(answer, EncryptionAnswer)
        return answer

    def _tls_context(self, info: ConnectionInfo) -> ssl.SSLContext:
        try:
            return client_context(info)
        except NotEncrypted as error:
            raise NotEncrypted(f"{self.name}: {error}") from None

    async def log_in(self, info: ConnectionInfo, more: Mapping[str, str]) -> None:
        """``more`` are startup parameters besides user and database.  Raises ConfigError, ServerError."""
        optional = {"application_name": info.application_name, "options": info.options}
        parameters = {"user": info.user, "database": info.dbname, "client_encoding": "UTF8", **more}
        parameters |= {name: value for name, value in optional.items() if value}
        await self._send(StartupMessage(parameters))
        login = Login(info, self.link.tls if isinstance(self.link, TlsLink) else None)
        while True:
            match await self._next_event():
                case ReadyForQuery():
                    return
                case ErrorResponse() as error:
                    raise refusal(self._server_error(error))
                case EncryptionAnswer():
                    raise OutOfTurn(f"{self.name}: a second answer about encryption")
                case event:
                    if (reply := login.answer(event)) is not None:
                        await self._send(reply)

    # -- words ------------------------------------------------------------------------------------------------

    async def _send(self, message: ClientMessage) -> None:
        self.send_soon(self._session.send(message))
        await self.wait_sent()

    async def _next_event(self) -> BackendMessage | EncryptionAnswer:
        while (event := await self._next_event_or_more()) is None:
            pass
        return event

    async def _next_event_or_more(self) -> BackendMessage | EncryptionAnswer | None:
        """The next event, or None when something was received that it may be made of."""
        await self._let_others_run()
        self._taken += 1
        try:
            event = self._session.next_event()
            if event is None:
                self._session.feed(await self._receive())
                return None
        except PeerError as error:
            raise self._named(error) from error
        if isinstance(event, EndOfStream):
            raise Unreachable(self.name, "the server closed the connection")
        if isinstance(event, ParameterStatus):
            self.parameters[event.name] = event.value
            if len(self.parameters) > PARAMETERS_MAX:
                raise Malformed(f"{self.name}: more than {PARAMETERS_MAX} settings")
        return event

    async def _receive(self) -> bytes:
        try:
            return await self.link.receive()
        except trio.BrokenResourceError as error:
            raise Unreachable(self.name, str(error)) from error

    def _named(self, error: PeerError) -> PeerError:
        return type(error)(f"{self.name}: {error}")

    def _server_error(self, error: ErrorResponse) -> ServerError:
        return ServerError(self.name, error.sqlstate, error.message, error.hint)


@asynccontextmanager
async def connect(info: ConnectionInfo, name: str = "", **startup: str) -> AsyncIterator[Connection]:
    """A connection, closed at the end of the block.  ``startup`` are more startup parameters.

    Raises Unreachable, ServerError or ConfigError.
    """
    name = name or str(info)
    link = await _open(info, name)
    connection = Connection(name, link)
    try:
        with time_limit(info.connect_timeout_seconds, name, "login"):
            await connection.encrypt(info)
            await connection.log_in(info, startup)
        yield connection
    finally:
        await connection.link.aclose()


async def _open(info: ConnectionInfo, name: str) -> Link:
    try:
        with time_limit(info.connect_timeout_seconds, name, "connection"):
            return await network.get()(info)
    except OSError as error:
        raise Unreachable(name, why_not_dialled(error)) from error
    raise AssertionError("the block returns or raises")
