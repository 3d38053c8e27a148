"""A primary and keepers in memory that speak over real sockets: what writers are tested against without any disk.

Purpose: as much of a server as a sidecar can notice, and switches for what can go wrong with it (``hold``, ``cut``).
Not here: durability, several clients with different rights, anything a real server refuses that no test asks for.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from walkeeper.errors import Malformed
from walkeeper.formats.backend import (
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
    INCOMPLETE,
    NODE_ID,
    STANDING,
    WHOLE,
    IdentifySystem,
    StartReplication,
    StartWalPush,
    TimelineStatus,
    parse_command,
)
from walkeeper.formats.frontend import CopyData, Query
from walkeeper.formats.proposer import encode_acceptor_message, parse_proposer_message
from walkeeper.formats.replication import (
    PrimaryKeepalive,
    StandbyStatusUpdate,
    encode_keepalive,
    encode_xlog_data_head,
    parse_standby_message,
)
from walkeeper.formats.session import WELCOME, EndOfStream, ServerSession, ServerState
from walkeeper.formats.startup import EncryptionAnswer, SslRequest, StartupMessage
from walkeeper.formats.xlog import RecordScanner
from walkeeper.ids import NodeId
from walkeeper.links.address import Address
from walkeeper.lsn import LSN_MAX, Lsn, format_lsn
from walkeeper.membership import NO_CONFIGURATION, Configuration
from walkeeper.messages import (
    NO_HOT_STANDBY,
    AcceptorGreeting,
    AcceptorMessage,
    AppendRequest,
    AppendResponse,
    HotStandbyFeedback,
    ProposerElected,
    ProposerGreeting,
    ProposerMessage,
    ServerInfo,
    VoteRequest,
    VoteResponse,
)
from walkeeper.terms import INITIAL_TERM, Term, TermHistory
from walkeeper.testing.wal import WalGenerator

SYSTEM_ID = 7241562384010203040
SEGMENT_BYTES = 1 << 20
CHUNK_BYTES = 128 * 1024
KEEPALIVE_SECONDS = 1.0
UNTIL_SECONDS = 300.0  # longer than any deadline of a writer

NEWS = trio.lowlevel.ParkingLot()
"""Everybody who waits for something to change: senders, whoever is held, and tests."""


class Client:
    """One connection of a server: what has arrived, and what to say."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._session = ServerSession()
        self._sending = trio.Lock()

    async def next(self) -> object:
        """The next message; EndOfStream for ever after the client has left."""
        if self._session.state is ServerState.CLOSED:
            return EndOfStream()
        while (event := self._session.next_event()) is None:
            self._session.feed(await self._stream.receive_some())
        return event

    async def send(self, *messages: BackendMessage | EncryptionAnswer) -> None:
        async with self._sending:
            await self._stream.send_all(self._session.send(*messages))

    async def answer(self, *values: str | None) -> None:
        """One row of text."""
        columns = RowDescription(tuple(Column(f"c{place}") for place in range(len(values))))
        await self.send(columns, DataRow.of(*values), CommandComplete("SELECT"), ReadyForQuery())

    async def fail(self, sqlstate: str, text: str) -> None:
        await self.send(ErrorResponse(text, sqlstate), ReadyForQuery())


@dataclass
class Server:
    """Listens on a free port of the loopback address.  ``queries`` are all that were asked, ``startups`` what all clients
    said first, and ``parameters`` what the last one did.

    ``heard_needs`` are the (xmin, catalog_xmin) of all hot standby feedback.  Clients with the application names in ``deaf_to``
    get no answers.
    """

    port: int = 0
    held: bool = False
    stutters: bool = False
    parameters: dict[str, str] = field(default_factory=dict)
    startups: list[dict[str, str]] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    heard_needs: list[tuple[int, int]] = field(default_factory=list)
    deaf_to: set[str] = field(default_factory=set)
    _scopes: set[trio.CancelScope] = field(default_factory=set)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        (listener,) = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._welcome, [listener])

    async def _welcome(self, stream: trio.SocketStream) -> None:
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                async with stream:
                    await self._converse(Client(stream))
            except* (trio.BrokenResourceError, trio.ClosedResourceError, Malformed):
                pass  # the client hung up, perhaps in the middle of a word
            finally:
                self._scopes.discard(scope)

    def cut(self) -> None:
        """All connections break."""
        for scope in self._scopes:
            scope.cancel()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Within the block the server takes everything and answers nothing."""
        self.held = True
        try:
            yield
        finally:
            self.held = False
            NEWS.unpark_all()

    async def while_held(self) -> None:
        while self.held:
            await NEWS.park()

    async def _converse(self, client: Client) -> None:
        name = None
        while True:
            match await client.next():
                case SslRequest():
                    await client.send(EncryptionAnswer(accepted=False))
                case StartupMessage(parameters):
                    self.parameters = dict(parameters)
                    self.startups.append(self.parameters)
                    name = parameters.get("application_name")
                    await self.welcome(client)
                case Query() if name in self.deaf_to:
                    await trio.sleep_forever()
                case Query(text):
                    await self.while_held()
                    self.queries.append(text)
                    await self.answer(client, text)
                case _:
                    return

    async def welcome(self, client: Client) -> None:
        """Let the client in."""
        await client.send(*WELCOME)

    async def answer(self, client: Client, text: str) -> None:
        raise NotImplementedError

    async def send_wal(
        self, client: Client, begin: Lsn, read: Callable[[Lsn], bytes], end: Callable[[], Lsn]
    ) -> None:
        """Stream from ``begin`` on what ``read`` gives, for ever."""
        await client.send(CopyBothResponse())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear_standby, client, nursery.cancel_scope)
            while True:
                await self.while_held()
                if wal := read(begin)[:CHUNK_BYTES]:
                    message = CopyData(encode_xlog_data_head(begin, end(), 0) + wal)
                    await client.send(*([message, message] if self.stutters else [message]))
                    self.stutters = False
                    begin = Lsn(begin + len(wal))
                    continue
                with trio.move_on_after(KEEPALIVE_SECONDS) as limit:
                    await NEWS.park()
                if limit.cancelled_caught:
                    await client.send(CopyData(encode_keepalive(PrimaryKeepalive(end(), 0, False))))

    async def _hear_standby(self, client: Client, scope: trio.CancelScope) -> None:
        while True:
            match await client.next():
                case CopyData(payload):
                    message = parse_standby_message(memoryview(payload))
                    if isinstance(message, StandbyStatusUpdate):
                        await self.hear_status(client, message)
                    elif isinstance(message, HotStandbyFeedback):
                        self.heard_needs.append((message.xmin, message.catalog_xmin))
                case _:
                    scope.cancel()
                    return

    async def hear_status(self, client: Client, status: StandbyStatusUpdate) -> None:
        pass


@dataclass
class FakePrimary(Server):
    """A primary whose WAL the test writes with ``wal``; ``confirmed_lsn`` is what the sidecar has reported.

    ``earlier_lsns`` are told to the next that ask how far it is; WAL below ``removed_below`` is gone.  ``odd_answers``
    are the rows that commands with these beginnings get instead of theirs.  WAL at ``sends_below`` is not flushed yet.
    Clients with ``refused_names`` are not let in.
    """

    wal: WalGenerator = field(
        default_factory=lambda: WalGenerator(Lsn(0x1000000), wal_seg_size=SEGMENT_BYTES, system_id=SYSTEM_ID)
    )
    settings: dict[str, str] = field(default_factory=dict)
    slots: dict[str, Lsn] = field(default_factory=dict)
    refusals: dict[str, tuple[str, str]] = field(default_factory=dict)
    odd_answers: dict[str, tuple[str | None, ...]] = field(default_factory=dict)
    confirmed_lsn: Lsn = Lsn(0)
    earlier_lsns: list[Lsn] = field(default_factory=list)
    switched_at: Lsn = Lsn(0)
    removed_below: Lsn = Lsn(0)
    sends_below: Lsn = LSN_MAX
    refused_names: set[str] = field(default_factory=set)
    statuses: int = 0

    def __post_init__(self) -> None:
        defaults = {
            "server_version_num": "150005",
            "wal_segment_size": "1MB",
            "synchronous_commit": "on",
            "synchronous_standby_names": "walkeeper",
            "max_slot_wal_keep_size": "10GB",
        }
        self.settings = defaults | self.settings

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.port)

    def read(self, begin: Lsn) -> bytes:
        """From ``begin`` on; nothing while that has not been written."""
        end = min(self.wal.lsn, self.sends_below)
        return (
            self.wal.wal[begin - self.wal.start : max(end - self.wal.start, 0)] if begin >= self.wal.start else b""
        )

    async def welcome(self, client: Client) -> None:
        if self.parameters.get("application_name") in self.refused_names:
            await client.send(ErrorResponse("no room", "57P03"))
            raise trio.BrokenResourceError
        await client.send(*WELCOME)

    async def answer(self, client: Client, text: str) -> None:
        for prefix, (sqlstate, message) in self.refusals.items():
            if text.startswith(prefix):
                await client.fail(sqlstate, message)
                return
        for prefix, values in self.odd_answers.items():
            if text.startswith(prefix):
                await client.answer(*values)
                return
        match text.split():
            case ["SHOW", name]:
                await client.answer(self.settings[name])
            case ["IDENTIFY_SYSTEM"]:
                flushed = self.earlier_lsns.pop() if self.earlier_lsns else self.wal.lsn
                await client.answer(str(self.wal.system_id), str(self.wal.tli), format_lsn(flushed), None)
            case ["TIMELINE_HISTORY", tli]:
                await client.answer(
                    f"{int(tli):08X}.history", f"1\t{format_lsn(self.switched_at)}\tno recovery target\n"
                )
            case ["READ_REPLICATION_SLOT", name]:
                restart = self.slots.get(name.strip('"'))
                found = (
                    (None, None, None) if restart is None else ("physical", format_lsn(restart), str(self.wal.tli))
                )
                await client.answer(*found)
            case ["CREATE_REPLICATION_SLOT", name, *_]:
                self.slots[name.strip('"')] = self.wal.lsn
                await client.answer(name, "0/0", None, None)
            case ["START_REPLICATION", *_]:
                command = parse_command(text)
                assert isinstance(command, StartReplication)
                if command.start_lsn < self.removed_below:
                    gone = "requested WAL segment 000000010000000000000001 has already been removed"
                    await client.send(CopyBothResponse(), ErrorResponse(gone, "58P01"))
                else:
                    await self.send_wal(client, command.start_lsn, self.read, lambda: self.wal.lsn)
            case _:
                await client.fail("42601", "syntax error")

    async def hear_status(self, client: Client, status: StandbyStatusUpdate) -> None:
        await self.while_held()
        self.confirmed_lsn = status.flush_lsn
        NEWS.unpark_all()
        self.statuses += 1
        if status.reply_requested:
            await client.send(CopyData(encode_keepalive(PrimaryKeepalive(self.wal.lsn, 0, False))))


@dataclass
class FakeKeeper(Server):
    """A keeper: real rules, no disk.  WAL lies in ``wal`` from ``start_lsn`` on.

    ``is_forgetful``: it never says that it has persisted a commit_lsn.  ``babbles_once``: its next vote is followed by
    something that means nothing, in one breath.  ``drops_appends``: any ends the connection.  Readers of committed WAL lose the connection at ``breaks_at``, wait for
    ever at ``stalls_at``, and get nothing below ``removed_below``.
    """

    node_id: NodeId = NodeId(1)
    exists: bool = False
    is_whole: bool = False
    server: ServerInfo | None = None
    tli: int = 1
    term: Term = INITIAL_TERM
    history: TermHistory = TermHistory()
    start_lsn: Lsn = Lsn(0)
    wal: bytearray = field(default_factory=bytearray)
    commit_lsn: Lsn = Lsn(0)
    scanner: RecordScanner | None = None
    appends: int = 0
    answers_show: bool = True
    tells_node_id: bool = False
    configuration: Configuration = NO_CONFIGURATION
    steals_elections: bool = False
    is_forgetful: bool = False
    hot_standby: HotStandbyFeedback = NO_HOT_STANDBY
    dies_after_voting: bool = False
    breaks_at: Lsn = LSN_MAX
    stalls_at: Lsn = LSN_MAX
    removed_below: Lsn = Lsn(0)
    babbles_once: bool = False
    drops_appends: bool = False
    refuses_readers: bool = False

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.port)

    @property
    def write_lsn(self) -> Lsn:
        return Lsn(self.start_lsn + len(self.wal))

    @property
    def flush_lsn(self) -> Lsn:
        return self.scanner.record_end if self.scanner else Lsn(0)

    def wipe(self) -> None:
        """The disk is lost."""
        self.cut()
        self.exists, self.is_whole = False, False
        self.scanner, self.wal, self.start_lsn = None, bytearray(), Lsn(0)
        self.term, self.history, self.commit_lsn, self.server = INITIAL_TERM, TermHistory(), Lsn(0), None

    def adopt(self, wal: WalGenerator, *history: tuple[int, int]) -> None:
        """As if the leaders of ``history`` (default: one) had written all of ``wal``, and it had become whole by it."""
        self.is_whole = True
        self.exists, self.server, self.start_lsn = (
            True,
            ServerInfo(150005, wal.system_id, SEGMENT_BYTES),
            wal.start,
        )
        self.history = TermHistory.of(*(history or ((1, wal.start),)))
        self.term, self.wal, self.commit_lsn = self.history.last_term, bytearray(wal.wal), wal.start
        scanner = RecordScanner.start(wal.start, pg_major=15, wal_seg_size=SEGMENT_BYTES, inside_record=True)
        self.scanner = scanner.scan([wal.wal])

    def read_flushed(self, begin: Lsn) -> bytes:
        return bytes(self.wal[begin - self.start_lsn : max(self.flush_lsn - self.start_lsn, 0)])

    def keep(self, wal: WalGenerator, commit_lsn: Lsn, pg_version: int = 150005) -> None:
        """As if a leader had written it all, and told of commits up to ``commit_lsn``."""
        self.is_whole = True
        self.exists, self.server = True, ServerInfo(pg_version, wal.system_id, SEGMENT_BYTES)
        self.start_lsn, self.wal, self.commit_lsn = wal.start, bytearray(wal.wal), commit_lsn

    def read_committed(self, begin: Lsn) -> bytes:
        if begin >= self.breaks_at:
            raise trio.BrokenResourceError
        end = min(self.commit_lsn, self.breaks_at, self.stalls_at)
        return bytes(self.wal[begin - self.start_lsn : max(end - self.start_lsn, 0)])

    async def answer(self, client: Client, text: str) -> None:
        command = parse_command(text)
        if isinstance(command, StartWalPush):
            await self._receive_wal(client)
        elif not self.exists or self.server is None:
            await client.fail("42704", f"timeline {self.parameters.get('options')} was not found in global map")
        elif isinstance(command, IdentifySystem):
            await client.answer(str(self.server.system_id), str(self.tli), format_lsn(self.commit_lsn), None)
        elif isinstance(command, TimelineStatus):
            await client.answer(format_lsn(self.flush_lsn), format_lsn(self.commit_lsn))
        elif isinstance(command, StartReplication):
            if self.refuses_readers:
                await client.fail("58030", "its disk does not answer")
            elif command.start_lsn < max(self.start_lsn, self.removed_below):
                await client.send(CopyBothResponse(), ErrorResponse("there is no such segment", "58P01"))
            elif command.term is None:
                await self.send_wal(client, command.start_lsn, self.read_committed, lambda: self.commit_lsn)
            elif command.term != self.term:
                await client.fail("55000", f"failed to acquire term {command.term}, current term {self.term}")
            else:
                await self.send_wal(client, command.start_lsn, self.read_flushed, lambda: self.flush_lsn)
        elif self.tells_node_id and text == f"SHOW {NODE_ID}":
            await client.answer(str(self.node_id))
        elif self.answers_show and text == f"SHOW {STANDING}":
            await client.answer(WHOLE if self.is_whole else INCOMPLETE)
        elif self.answers_show and text == "SHOW wal_segment_size":
            await client.answer(f"{self.server.wal_seg_size >> 20}MB")
        elif self.answers_show and text == "SHOW server_version_num":
            await client.answer(str(self.server.pg_version))
        else:
            await client.fail("42601", "unsupported command")

    async def _receive_wal(self, client: Client) -> None:
        await client.send(CopyBothResponse())
        while not isinstance(event := await client.next(), EndOfStream):
            assert isinstance(event, CopyData)
            await self.while_held()
            reply = self._hear(parse_proposer_message(event.payload, 3))
            NEWS.unpark_all()
            if reply is not None:
                said = [CopyData(encode_acceptor_message(reply, 3))]
                if self.babbles_once and isinstance(reply, VoteResponse):
                    self.babbles_once = False
                    said.append(CopyData(b"babble"))
                await client.send(*said)
            self.held |= self.dies_after_voting and isinstance(reply, VoteResponse)

    def _hear(self, message: ProposerMessage) -> AcceptorMessage | None:
        match message:
            case ProposerGreeting():
                self.exists = True
                if self.server is None or message.server.system_id:
                    self.server = message.server
                return AcceptorGreeting(self.node_id, self.configuration, self.term)
            case VoteRequest():
                granted, self.term = self.term < message.term, max(self.term, message.term)
                history = self.history.up_to(self.flush_lsn)
                return VoteResponse(
                    self.configuration.generation, self.term, granted, self.flush_lsn, Lsn(0), history
                )
            case ProposerElected():
                self.term = max(self.term, message.term)
                if self.steals_elections:
                    self.term = Term(self.term + 1)  # another candidate was faster
                if self.term == message.term:
                    self._obey(message)
                return None
            case AppendRequest():
                return self._append(message)

    def _obey(self, elected: ProposerElected) -> None:
        assert self.server is not None
        start = elected.start_streaming_at
        assert start >= self.commit_lsn, "invariant 10: nothing committed is truncated"
        if self.scanner is None:
            self.start_lsn = start
        del self.wal[start - self.start_lsn :]
        self.wal += bytes(start - self.write_lsn)  # the padding of an XLOG_SWITCH that had not come
        self.history = elected.term_history
        self.commit_lsn = max(self.commit_lsn, self.history.entries[0].lsn)
        self.scanner = RecordScanner.start(
            start,
            pg_major=self.server.pg_major,
            wal_seg_size=self.server.wal_seg_size,
            inside_record=start == self.start_lsn and start % 8192 == 0,
        )

    def _append(self, append: AppendRequest) -> AppendResponse:
        if self.drops_appends:
            raise trio.BrokenResourceError
        if self.term > append.term:
            return AppendResponse(self.configuration.generation, self.term)
        assert self.scanner is not None, "AppendRequest before ProposerElected"
        assert append.begin_lsn == self.write_lsn, "invariant 6: no gap, no rewrite"
        self.appends += 1
        self.wal += append.wal
        self.scanner = self.scanner.scan([append.wal]) if append.wal else self.scanner
        self.commit_lsn = max(self.commit_lsn, min(append.commit_lsn, self.flush_lsn))
        self.is_whole |= 0 < append.commit_lsn <= self.flush_lsn
        persisted = Lsn(0) if self.is_forgetful else self.commit_lsn
        return AppendResponse(
            self.configuration.generation, self.term, self.flush_lsn, persisted, self.hot_standby
        )


@dataclass
class RecordingLog:
    """Remembers what was said."""

    lines: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def info(self, event: str, **fields: object) -> None:
        self.lines.append((event, fields))
        NEWS.unpark_all()

    def warning(self, event: str, **fields: object) -> None:
        self.info(event, **fields)

    def error(self, event: str, **fields: object) -> None:
        self.info(event, **fields)

    def said(self, event: str) -> list[dict[str, object]]:
        return [fields for said, fields in self.lines if said == event]


async def until(condition: Callable[[], bool]) -> None:
    """Tell everybody what the test has changed, and return when ``condition`` holds.

    What nobody tells is looked at every second.
    """
    NEWS.unpark_all()
    with trio.fail_after(UNTIL_SECONDS):
        while not condition():
            with trio.move_on_after(1):
                await NEWS.park()
