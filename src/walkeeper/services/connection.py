"""One client of the keeper, from its first byte to its last: startup, commands, and which service they lead to.

A command that fails is answered and the connection goes on; a stream (START_WAL_PUSH, START_REPLICATION) takes the
connection over and ends it.  Everything that goes wrong ends here: a named error is one line in the log and an
answer, an unnamed one is logged with its traceback and ends this connection only.

Every command that names a timeline is held against what the client may do, as it has proved when it came in.

Does not know how clients come in: ``admission`` does.  Source: PostgreSQL, "Message Flow"; Neon's safekeeper for its
answers.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Final, Protocol, assert_never

import structlog
import trio

from walkeeper.auth.claims import Claims
from walkeeper.errors import (
    AccessDenied,
    BadCommand,
    Malformed,
    NotFound,
    TermChanged,
    TimelineUnavailable,
    TlsFailed,
    TooManyClients,
    WalkeeperError,
)
from walkeeper.formats.backend import (
    INT4_OID,
    BackendMessage,
    Column,
    CommandComplete,
    CopyBothResponse,
    DataRow,
    ErrorResponse,
    ReadyForQuery,
    RowDescription,
)
from walkeeper.formats.commands import (
    ABOUT,
    INCOMPLETE,
    NODE_ID,
    STANDING,
    STATUS,
    WHOLE,
    Command,
    IdentifySystem,
    SetDateStyle,
    Show,
    StartReplication,
    StartWalPush,
    TimelineStatus,
    parse_command,
)
from walkeeper.formats.frontend import (
    CopyDone,
    ExtendedQuery,
    FrontendMessage,
    Query,
    Sync,
    Terminate,
)
from walkeeper.formats.session import WELCOME, EndOfStream, ServerState
from walkeeper.formats.sizes import format_size
from walkeeper.formats.startup import (
    ConnectionOptions,
    StartupMessage,
    StartupPacket,
    StreamProtocol,
    parse_options,
)
from walkeeper.ids import FIRST_TLI, TenantTimelineId
from walkeeper.links.link import Link, send_all
from walkeeper.links.throttle import throttled_logger
from walkeeper.lsn import Lsn, format_lsn
from walkeeper.messages import ProposerGreeting
from walkeeper.services import status
from walkeeper.services.admission import OPEN, Gate, log_in, receive_startup
from walkeeper.services.budget import Budget
from walkeeper.services.conversation import Conversation
from walkeeper.services.copy_in import SILENCE_SECONDS_MAX, CopyEnd, CopyReader
from walkeeper.services.goodbye import GOODBYE_SECONDS_MAX, CaughtUp, Goodbye
from walkeeper.services.instruments import Instruments
from walkeeper.services.receive_wal import read_greeting, serve_proposer
from walkeeper.services.send_wal import RECOVERY_APPLICATION_NAME, STRETCH_BYTES_MAX, send_wal
from walkeeper.services.sqlstate import FEATURE_NOT_SUPPORTED, SUCCESSFUL_COMPLETION, error_response
from walkeeper.services.strangers import Strangers
from walkeeper.services.turnstile import Turnstile
from walkeeper.timeline.registry import Client
from walkeeper.timeline.timeline import Timeline
from walkeeper.timeline.timelines import Timelines

STARTUP_SECONDS_MAX: Final = 30.0
"""How long a stranger may take to say who it is."""

TURNED_AWAY_SECONDS_MAX: Final = 2.0
"""The same for one that there is no room for: its descriptor is needed."""

LINGER_SECONDS_MAX: Final = 2.0
"""How long what a client still sends is read away after the last word, so that a reset does not swallow that word."""

PRIVATE_MODE: Final = "0700"
"""What pg_receivewal makes its files with: WAL holds what the database holds."""

COMMAND_NAMES: Final[Mapping[type[Command], str]] = {
    StartWalPush: "START_WAL_PUSH",
    StartReplication: "START_REPLICATION",
    IdentifySystem: "IDENTIFY_SYSTEM",
    TimelineStatus: "TIMELINE_STATUS",
    Show: "SHOW",
    SetDateStyle: "SET",
}
"""What commands are counted by; never the client's own words, since a label once used stays for ever."""

_SAY_WHOSE_WAL: Final = "connect with options='-c tenant_id=... timeline_id=...'"

log = throttled_logger()


class Serving(Protocol):
    """Who says when to stop waiting for clients."""

    def while_serving(self) -> AbstractContextManager[trio.CancelScope]: ...


class Connection:
    """A client.  ``serve`` is its whole life.

    ``reader_seconds_max``: how long a reader of WAL may say nothing, or not read what it is sent; ``gate``: what is asked of
    it before it is let in.
    """

    def __init__(
        self,
        client: Client,
        link: Link,
        timelines: Timelines,
        draining: Serving,
        turnstile: Turnstile,
        strangers: Strangers,
        instruments: Instruments,
        reader_seconds_max: float = SILENCE_SECONDS_MAX,
        gate: Gate = OPEN,
        budget: Budget | None = None,
    ) -> None:
        self._budget = budget or Budget()
        self._client = client
        self._reader_seconds_max = reader_seconds_max
        self._traffic = link
        self._talk = Conversation(link, turnstile)
        self._timelines = timelines
        self._draining = draining
        self._turnstile = turnstile
        self._instruments = instruments
        self._strangers = strangers
        self._options = ConnectionOptions()
        self._gate = gate
        self._claims: Claims | None = None

    async def serve(self, *, is_welcome: bool = True) -> None:
        """Serve the client until it leaves, is sent away, or has to go.

        One that is not welcome may say who it is, as it would not understand an answer before, and hears that there is
        no room.

        Cancellation: an operation that has begun is finished, the rest is dropped.
        """
        with structlog.contextvars.bound_contextvars(connection=self._client.connection):
            self._instruments.connection_begins(self._traffic)
            try:
                if await self._serve(is_welcome):
                    await self._linger()
            except trio.BrokenResourceError:
                log.info("connection lost")
            except Exception:  # the boundary of a connection
                log.exception("connection failed unexpectedly")
            finally:
                self._instruments.connection_ends(self._traffic)
                await self._talk.link.aclose()

    async def drop(self) -> None:
        """End it without a word.  Cancellation: at any time."""
        await self._talk.link.aclose()

    async def _serve(self, is_welcome: bool) -> bool:
        """False if nobody is waited for any more: its place was needed before it said who it is."""
        startup_seconds_max = STARTUP_SECONDS_MAX if is_welcome else TURNED_AWAY_SECONDS_MAX
        try:
            with (
                trio.move_on_after(startup_seconds_max) as limit,
                self._strangers.being_one() if is_welcome else nullcontext(trio.CancelScope()) as place,
                self._draining.while_serving(),
            ):
                if not await self._start_up(is_welcome):
                    return True
            if place.cancelled_caught:
                return False
            if limit.cancelled_caught or self._talk.session.state is not ServerState.READY:
                log.info("connection ended before it began")
                return True
            with structlog.contextvars.bound_contextvars(
                ttid=str(self._options.ttid), application=self._client.application_name
            ):
                await self._answer_queries()
        except TlsFailed as error:  # there is no way to say so
            self._note(error)
        except WalkeeperError as error:
            await self._say_last(error)
        return True

    # -- startup ----------------------------------------------------------------------------------------------

    async def _start_up(self, is_welcome: bool) -> bool:
        """Let the client in; False when it did not want to come in."""
        startup = await receive_startup(self._talk, self._gate)
        if startup is None:
            return False
        if not is_welcome:
            raise TooManyClients
        self._take_parameters(startup)
        self._claims = await log_in(self._talk, self._gate, startup)
        if self._claims is None:
            return False
        self._client = replace(self._client, only_reads=self._claims.user is not None)
        self._instruments.connection_identified(
            self._traffic, self._client.application_name, self._options.availability_zone
        )
        await self._talk.send(*WELCOME)
        return True

    def _take_parameters(self, startup: StartupMessage) -> None:
        self._client = replace(self._client, application_name=startup.parameters.get("application_name"))
        self._options = parse_options(startup.parameters.get("options", ""))

    # -- commands ---------------------------------------------------------------------------------------------

    async def _answer_queries(self) -> None:
        while self._talk.session.state is not ServerState.CLOSED:
            event: StartupPacket | FrontendMessage | EndOfStream = EndOfStream()
            with self._draining.while_serving(), trio.move_on_after(SILENCE_SECONDS_MAX):
                event = await self._talk.next_event()
            match event:
                case Query(text):
                    if not await self._answer_query(text):
                        return
                case ExtendedQuery():
                    refusal = "only simple queries are understood here"
                    await self._talk.send(ErrorResponse(refusal, FEATURE_NOT_SUPPORTED))
                case Sync():
                    await self._talk.send(ReadyForQuery())
                case Terminate() | EndOfStream():
                    return
                case _:
                    raise Malformed(f"{type(event).__name__} instead of a query")

    async def _answer_query(self, text: str) -> bool:
        """Answer; False when the query has taken the connection over and the connection is at its end."""
        try:
            command = parse_command(text)
            word = COMMAND_NAMES[type(command)]
            self._instruments.query_received(word)
            try:
                match command:
                    case StartWalPush():
                        return await self._push(command)
                    case StartReplication():
                        return await self._replicate(command)
                    case IdentifySystem():
                        await self._talk.send(*self._identify_system(), ReadyForQuery())
                    case TimelineStatus():
                        await self._talk.send(*self._timeline_status(), ReadyForQuery())
                    case SetDateStyle():
                        await self._talk.send(CommandComplete("SELECT 1"), ReadyForQuery())
                    case Show(name):
                        await self._talk.send(*self._show(name), ReadyForQuery())
                    case _:
                        assert_never(command)
            finally:
                self._instruments.query_finished(word)
        except WalkeeperError as error:
            if self._talk.session.state is not ServerState.ANSWERING:
                raise
            self._note(error)
            await self._talk.send(error_response(error), ReadyForQuery())
        return True

    def _require_ttid(self) -> TenantTimelineId:
        if self._options.tenant_id is None:
            raise BadCommand(f"tenantid is required: {_SAY_WHOSE_WAL}")
        if self._options.timeline_id is None:
            raise BadCommand(f"timelineid is required: {_SAY_WHOSE_WAL}")
        ttid = self._options.ttid
        assert ttid is not None
        assert self._claims is not None, "nobody is asked for a timeline who has not come in"
        self._claims.require(ttid.tenant_id)
        return ttid

    def _require_writer(self) -> TenantTimelineId:
        ttid = self._require_ttid()
        assert self._claims is not None
        self._claims.require_writer()
        return ttid

    def _timeline(self) -> Timeline:
        return self._timelines.get(self._require_ttid())

    def _identify_system(self) -> list[BackendMessage]:
        timeline = self._timeline()
        state = timeline.require_state()
        position = timeline.progress.position
        name = self._client.application_name or ""
        is_recovery = name == RECOVERY_APPLICATION_NAME or name.startswith("safekeeper")
        lsn = position.flush_lsn if is_recovery else position.commit_lsn
        columns = (Column("systemid"), Column("timeline", INT4_OID, 4), Column("xlogpos"), Column("dbname"))
        tli = state.wal.tli or FIRST_TLI
        row = DataRow.of(str(state.kept.server.system_id), str(tli), format_lsn(lsn), None)
        return [RowDescription(columns), row, CommandComplete("IDENTIFY_SYSTEM")]

    def _timeline_status(self) -> list[BackendMessage]:
        """One row, or none when there is no such timeline."""
        rows: list[BackendMessage] = []
        try:
            state = self._timeline().require_state()
            rows.append(DataRow.of(format_lsn(state.wal.flush_lsn), format_lsn(state.ahead.commit_lsn)))
        except NotFound:
            pass
        columns = (Column("flush_lsn"), Column("commit_lsn"))
        return [RowDescription(columns), *rows, CommandComplete("TIMELINE_STATUS")]

    def _show(self, name: str) -> list[BackendMessage]:
        """Settings of the server whose WAL this is, as that server would show them, and how its timeline is here."""
        if name == NODE_ID:
            return _one_value(name, str(self._timelines.node_id))
        if name == ABOUT:
            return _one_value(name, status.describe_keeper(self._timelines.node_id))
        timeline = self._timeline()
        state = timeline.require_state()
        server = state.kept.server
        match name:
            case "server_version_num":
                value = str(server.pg_version)
            case "wal_segment_size":
                value = format_size(server.wal_seg_size)
            case "data_directory_mode":
                value = PRIVATE_MODE
            case name if name == STANDING:
                value = WHOLE if state.is_whole else INCOMPLETE
            case name if name == STATUS:
                value = status.describe_timeline(timeline.node_id, timeline.statistics(), state)
            case _:
                raise BadCommand("unrecognized configuration parameter", name)
        return _one_value(name, value)

    # -- streams ----------------------------------------------------------------------------------------------

    async def _push(self, command: StartWalPush) -> bool:
        """The rest of a proposer's connection."""
        ttid = self._require_writer()
        await self._talk.send(CopyBothResponse())
        source = CopyReader(self._talk.link, self._talk.session)
        greeting: tuple[ProposerGreeting, list[memoryview]] | CopyEnd = CopyEnd.GONE
        with self._draining.while_serving():
            greeting = await read_greeting(source, command.proto_version)
        if isinstance(greeting, CopyEnd):
            await self._say_goodbye(Goodbye(greeting))
            return False
        first, early = greeting
        try:
            timeline = self._timelines.get(ttid)
        except NotFound:
            if not command.allow_timeline_creation:
                log.info("timeline does not exist and the proposer must not create it")
                return False  # Neon's proposer takes silence as the answer
            timeline = await self._timelines.create(ttid, first.server, configuration=first.configuration)
        log.info("proposer begins", protocol=command.proto_version)
        said = await serve_proposer(
            self._talk.link,
            source,
            timeline,
            client=self._client,
            version=command.proto_version,
            first=first,
            early=early,
            encode_goodbye=self._encode_goodbye,
            while_serving=self._draining.while_serving,
            instruments=self._instruments,
            budget=self._budget,
        )
        if said and isinstance(said.reason, WalkeeperError):
            self._note(said.reason)
        log.info("proposer ends")
        return False

    async def _replicate(self, command: StartReplication) -> bool:
        """The rest of a reader's connection."""
        if self._options.protocol is not StreamProtocol.VANILLA:
            raise BadCommand(
                'interpreted WAL is not served: connect with protocol={"type":"vanilla"} in the options'
            )
        timeline = self._timeline()
        with self._budget.reading(STRETCH_BYTES_MAX):
            await self._talk.send(CopyBothResponse())
            # A standby that pauses has no room for more: the kernel must not give it up before its time.
            self._talk.link.give_up_after(self._reader_seconds_max)
            source = CopyReader(self._talk.link, self._talk.session, self._reader_seconds_max, self._turnstile)
            said = Goodbye(CopyEnd.GONE)
            with self._draining.while_serving():
                said = await send_wal(
                    self._talk.link,
                    source,
                    timeline,
                    command,
                    self._client,
                    self._reader_seconds_max,
                    self._instruments,
                )
            if isinstance(said.reason, WalkeeperError):
                self._note(said.reason)
            await self._say_goodbye(said)
        return False

    async def _say_goodbye(self, goodbye: Goodbye) -> None:
        with trio.move_on_after(GOODBYE_SECONDS_MAX):
            await send_all(self._talk.link, self._encode_goodbye(goodbye))

    def _encode_goodbye(self, goodbye: Goodbye) -> bytes:
        """The last words of a stream."""
        match goodbye.reason:
            case CopyEnd.DONE:  # libpq takes the end of the connection for a fault unless the command is complete
                return self._talk.session.send(CopyDone(), CommandComplete("START_STREAMING"))
            case CopyEnd.FAILED:
                return self._talk.session.send(ErrorResponse("received CopyFail", SUCCESSFUL_COMPLETION))
            case CaughtUp(name, lsn):
                return self._talk.session.send(ErrorResponse(_caught_up(name, lsn), SUCCESSFUL_COMPLETION))
            case CopyEnd.GONE:
                return b""
            case TimelineUnavailable():
                return b""  # a timeline that is going says nothing, and the client looks elsewhere
            case error:
                return self._talk.session.send(error_response(error))

    # -- words ------------------------------------------------------------------------------------------------

    async def _say_last(self, error: WalkeeperError) -> None:
        self._note(error)
        with trio.move_on_after(LINGER_SECONDS_MAX):
            await self._talk.send(error_response(error))

    def _note(self, error: WalkeeperError) -> None:
        match error:
            case NotFound():  # no fault: every sidecar asks before it creates its timeline
                log.info("timeline does not exist", error=str(error))
            case TermChanged():  # nor is this: so a leader's reading ends, or begins a moment too early
                log.info("reader sent away", error=str(error))
            case AccessDenied():
                self._instruments.refused(error)
                log.warning("access denied", why=error.why, peer=self._client.peer, ttid=str(self._options.ttid))
            case TooManyClients():  # whoever found that out has counted and told it
                pass
            case _:
                self._instruments.refused(error)
                log.warning("request refused", error=str(error), kind=type(error).__name__, peer=self._client.peer)

    async def _linger(self) -> None:
        """End our side and read away the client's, for a moment."""
        with trio.move_on_after(LINGER_SECONDS_MAX):
            await self._talk.link.send_eof()
            while await self._talk.link.receive():
                pass


def _one_value(name: str, value: str) -> list[BackendMessage]:
    return [RowDescription((Column(name),)), DataRow.of(value), CommandComplete("SHOW")]


def _caught_up(application_name: str | None, lsn: Lsn) -> str:
    """In the very words that Neon's pageserver looks for."""
    name = "None" if application_name is None else f'Some("{application_name}")'
    return f"ending streaming to {name} at {format_lsn(lsn)}, receiver is caughtup and there is no computes"
