"""Both sides of a PostgreSQL session, without input and output: which message may come when.

Purpose: ``ServerSession`` for a keeper, ``ClientSession`` for whoever talks to PostgreSQL or to a keeper.

Use: ``feed`` what was received (nothing, at the end of the stream); take ``next_event`` until it is None, which
means that more must be received; ``send`` gives the bytes of what is to be said.  While both sides stream,
``copy_payloads`` takes many events at once.

Rules: the tables at the end say all there is to say about order.  A peer that speaks out of turn gets OutOfTurn,
one that speaks gibberish Malformed, and the session is closed; speaking out of turn oneself is a bug (an assert).

Does not know passwords, commands or what is streamed.  Model: h11.
Source: PostgreSQL, "Message Flow".
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Generic, Protocol, TypeVar

from walkeeper.errors import Malformed, OutOfTurn, PeerError
from walkeeper.formats.authentication import (
    AuthenticationCleartextPassword,
    AuthenticationMd5Password,
    AuthenticationOk,
    AuthenticationOther,
    AuthenticationSasl,
    AuthenticationSaslContinue,
    AuthenticationSaslFinal,
)
from walkeeper.formats.backend import (
    BackendKeyData,
    BackendMessage,
    CommandComplete,
    CopyBothResponse,
    DataRow,
    EmptyQueryResponse,
    ErrorResponse,
    NoticeResponse,
    ParameterStatus,
    ReadyForQuery,
    RowDescription,
    parse_backend_message,
)
from walkeeper.formats.frames import FRAME_BYTES_MAX, PASSWORD_BYTES_MAX, FrameParser
from walkeeper.formats.frontend import (
    AuthenticationReply,
    CopyData,
    CopyDone,
    CopyFail,
    ExtendedQuery,
    FrontendMessage,
    Query,
    Sync,
    Terminate,
    parse_frontend_message,
)
from walkeeper.formats.startup import (
    CancelRequest,
    DirectTls,
    EncryptionAnswer,
    GssEncRequest,
    SslRequest,
    StartupMessage,
    StartupPacket,
    parse_startup_packet,
)
from walkeeper.messages import Slice

WELCOME: Final = (
    AuthenticationOk(),
    ParameterStatus("client_encoding", "UTF8"),
    ParameterStatus("integer_datetimes", "on"),
    ParameterStatus("server_version", "14.1"),
    ReadyForQuery(),
)
"""What a keeper says to whoever it lets in: what Neon's safekeeper says, which its clients were tested against."""


@dataclass(frozen=True, slots=True)
class EndOfStream:
    """The peer will say nothing more; its last message was complete."""


class ServerState(Enum):
    STARTUP = auto()
    """The client has not said who it is."""
    AUTHENTICATING = auto()
    """The server decides about the client."""
    READY = auto()
    """The client may ask."""
    ANSWERING = auto()
    """The server answers a query; what the client sends meanwhile waits."""
    SKIPPING = auto()
    """An extended query was refused; what belongs to it is skipped, up to Sync."""
    COPY = auto()
    """Both sides stream."""
    COPY_ENDING = auto()
    """The client has ended its half of the stream; the server may say goodbye."""
    CLOSED = auto()


class ClientState(Enum):
    STARTUP = auto()
    """Nothing said yet, or the question of encryption is settled."""
    ASKING_ENCRYPTION = auto()
    """The server owes one byte."""
    AUTHENTICATING = auto()
    """The server asks who is there."""
    SETTING_UP = auto()
    """The client is in; the server tells its settings."""
    READY = auto()
    """The client may ask."""
    WAITING = auto()
    """The server answers a query."""
    COPY = auto()
    """Both sides stream."""
    COPY_RECEIVING = auto()
    """The client has ended its half of the stream."""
    COPY_SENDING = auto()
    """The server has ended its half of the stream; the client must end its own."""
    CLOSED = auto()


class _Encodable(Protocol):
    def encode(self) -> bytes: ...


_State = TypeVar("_State", ServerState, ClientState)
_Received = TypeVar("_Received")
_Sent = TypeVar("_Sent", bound=_Encodable)
_Turns = Mapping[_State, Mapping[type, _State]]
"""By state: each kind of message that may come, and the state that it leads to."""


class _Session(ABC, Generic[_State, _Received, _Sent]):
    """What the two sides share.  ``state`` may be looked at."""

    def __init__(self, *, first: _State, closed: _State, receives: _Turns[_State], sends: _Turns[_State]) -> None:
        self.state: _State = first
        self._closed: _State = closed
        self._receives: _Turns[_State] = receives
        self._sends: _Turns[_State] = sends
        self._parser = FrameParser()
        self._has_ended = False

    def feed(self, received: Slice) -> None:
        """Hands over what was received, while ``is_starved``; an empty buffer is the end."""
        if received:
            self._parser.feed(received)
        else:
            self._has_ended = True

    @property
    def is_starved(self) -> bool:
        """Whether more must be received before anything can be taken; if not, one has to look."""
        return self._parser.is_starved

    def next_event(self) -> _Received | EndOfStream | None:
        """The next message of the peer; None means that more must be received.

        Raises Malformed or OutOfTurn, and the session is closed then.
        """
        assert self.state in self._receives, f"nothing is awaited while {self.state.name}"
        try:
            message = self._parse_next()
            if message is None:
                return self._end_of_stream()
            self.state = self._state_after(message)
        except PeerError:
            self.state = self._closed
            raise
        return message

    def copy_payloads(self) -> list[memoryview]:
        """The payloads of CopyData that have arrived, some hundreds at most; none: look at ``next_event``.

        Raises Malformed.
        """
        assert CopyData in self._receives.get(self.state, {}), f"no stream while {self.state.name}"
        try:
            return self._parser.copy_payloads()
        except PeerError:
            self.state = self._closed
            raise

    def send(self, *messages: _Sent) -> bytes:
        """The bytes of ``messages``, each of which it must be our turn to say."""
        for message in messages:
            turns = self._sends.get(self.state, {})
            assert type(message) in turns, f"{type(message).__name__} cannot be said while {self.state.name}"
            self.state = turns[type(message)]
        return b"".join([message.encode() for message in messages])

    @abstractmethod
    def _parse_next(self) -> _Received | None:
        """The next message, in or out of turn.  Raises Malformed."""

    def _state_after(self, message: _Received) -> _State:
        try:
            return self._receives[self.state][type(message)]
        except KeyError:
            raise OutOfTurn(f"{type(message).__name__} came while {self.state.name}") from None

    def _end_of_stream(self) -> EndOfStream | None:
        if not self._has_ended:
            return None
        if not self._parser.is_between_frames:
            raise Malformed("the stream ended inside a message")
        self.state = self._closed
        return EndOfStream()


class ServerSession(_Session[ServerState, StartupPacket | FrontendMessage, EncryptionAnswer | BackendMessage]):
    """A keeper's side."""

    def __init__(self) -> None:
        super().__init__(
            first=ServerState.STARTUP,
            closed=ServerState.CLOSED,
            receives=SERVER_RECEIVES,
            sends=SERVER_SENDS,
        )

    @property
    def is_between_messages(self) -> bool:
        """Whether nothing has been received behind the last event, so that the stream may change to TLS here."""
        return self._parser.is_between_frames

    def take_rest(self) -> bytes:
        """What has been received behind the last event, and belongs to TLS."""
        return self._parser.take_rest()

    def next_event(self) -> StartupPacket | FrontendMessage | EndOfStream | None:
        while True:
            was_skipping = self.state is ServerState.SKIPPING
            event = super().next_event()
            if event is None or not was_skipping or self.state is not ServerState.SKIPPING:
                return event

    def _parse_next(self) -> StartupPacket | FrontendMessage | None:
        if self.state is ServerState.STARTUP:
            packet = self._parser.next_startup()
            return None if packet is None else parse_startup_packet(packet)
        is_stranger = self.state is ServerState.AUTHENTICATING
        frame = self._parser.next_frame(PASSWORD_BYTES_MAX if is_stranger else FRAME_BYTES_MAX)
        return None if frame is None else parse_frontend_message(frame)


ClientMessage = (
    SslRequest | StartupMessage | Query | AuthenticationReply | CopyData | CopyDone | CopyFail | Terminate
)
"""What a client of ours says."""


class ClientSession(_Session[ClientState, EncryptionAnswer | BackendMessage, ClientMessage]):
    """The side of whoever talks to PostgreSQL or to a keeper."""

    def __init__(self) -> None:
        super().__init__(
            first=ClientState.STARTUP,
            closed=ClientState.CLOSED,
            receives=CLIENT_RECEIVES,
            sends=CLIENT_SENDS,
        )

    def _parse_next(self) -> EncryptionAnswer | BackendMessage | None:
        if self.state is ClientState.ASKING_ENCRYPTION:
            return self._parse_encryption_answer()
        frame = self._parser.next_frame()
        return None if frame is None else parse_backend_message(frame)

    def _parse_encryption_answer(self) -> EncryptionAnswer | None:
        match self._parser.next_byte():
            case None:
                return None
            case b"N":
                return EncryptionAnswer(accepted=False)
            case b"S" if self._parser.is_between_frames:
                return EncryptionAnswer(accepted=True)
            case b"S":
                # Taking them for the server's would let a man in the middle put words into its mouth.
                raise Malformed("bytes in clear text after the server agreed to TLS")
            case answer:
                raise Malformed(f"neither S nor N in answer to a request for TLS: {answer!r}")


# -- who may say what, when ------------------------------------------------------------------------------------

_S, _C = ServerState, ClientState

SERVER_RECEIVES: Final[_Turns[ServerState]] = {
    _S.STARTUP: {
        SslRequest: _S.STARTUP,
        GssEncRequest: _S.STARTUP,
        StartupMessage: _S.AUTHENTICATING,
        CancelRequest: _S.CLOSED,
        DirectTls: _S.STARTUP,
    },
    _S.AUTHENTICATING: {AuthenticationReply: _S.AUTHENTICATING},
    _S.READY: {
        Query: _S.ANSWERING,
        ExtendedQuery: _S.SKIPPING,
        Sync: _S.ANSWERING,
        Terminate: _S.CLOSED,
    },
    _S.SKIPPING: {
        Query: _S.SKIPPING,
        ExtendedQuery: _S.SKIPPING,
        Sync: _S.ANSWERING,
        Terminate: _S.CLOSED,
    },
    _S.COPY: {
        CopyData: _S.COPY,
        CopyDone: _S.COPY_ENDING,
        CopyFail: _S.COPY_ENDING,
        Terminate: _S.CLOSED,
    },
}

SERVER_SENDS: Final[_Turns[ServerState]] = {
    _S.STARTUP: {EncryptionAnswer: _S.STARTUP, ErrorResponse: _S.CLOSED},
    _S.AUTHENTICATING: {
        AuthenticationCleartextPassword: _S.AUTHENTICATING,
        AuthenticationSasl: _S.AUTHENTICATING,
        AuthenticationSaslContinue: _S.AUTHENTICATING,
        AuthenticationSaslFinal: _S.AUTHENTICATING,
        AuthenticationOk: _S.AUTHENTICATING,
        ParameterStatus: _S.AUTHENTICATING,
        ReadyForQuery: _S.READY,
        ErrorResponse: _S.CLOSED,
    },
    _S.READY: {ErrorResponse: _S.CLOSED},
    _S.ANSWERING: {
        RowDescription: _S.ANSWERING,
        DataRow: _S.ANSWERING,
        CommandComplete: _S.ANSWERING,
        ErrorResponse: _S.ANSWERING,
        ReadyForQuery: _S.READY,
        CopyBothResponse: _S.COPY,
    },
    _S.SKIPPING: {ErrorResponse: _S.SKIPPING},
    _S.COPY: {CopyData: _S.COPY, ErrorResponse: _S.CLOSED},
    _S.COPY_ENDING: {CopyData: _S.COPY_ENDING, CopyDone: _S.CLOSED, ErrorResponse: _S.CLOSED},
    # Replies that were under way when the client left or spoke wrongly, and the last words to it.
    _S.CLOSED: {CopyData: _S.CLOSED, ErrorResponse: _S.CLOSED, CommandComplete: _S.CLOSED},
}


def _at_any_time(state: ClientState) -> dict[type, ClientState]:
    """What a server may say in between, whatever else happens."""
    return {NoticeResponse: state, ParameterStatus: state}


def _in_flight(state: ClientState) -> dict[type, ClientState]:
    """What our half of a stream may still say when the server has ended the stream; the server skips it."""
    return {CopyData: state, CopyDone: state, CopyFail: state}


CLIENT_RECEIVES: Final[_Turns[ClientState]] = {
    _C.ASKING_ENCRYPTION: {EncryptionAnswer: _C.STARTUP},
    _C.AUTHENTICATING: {
        **_at_any_time(_C.AUTHENTICATING),
        AuthenticationCleartextPassword: _C.AUTHENTICATING,
        AuthenticationMd5Password: _C.AUTHENTICATING,
        AuthenticationSasl: _C.AUTHENTICATING,
        AuthenticationSaslContinue: _C.AUTHENTICATING,
        AuthenticationSaslFinal: _C.AUTHENTICATING,
        AuthenticationOther: _C.AUTHENTICATING,
        AuthenticationOk: _C.SETTING_UP,
        ErrorResponse: _C.CLOSED,
    },
    _C.SETTING_UP: {
        **_at_any_time(_C.SETTING_UP),
        BackendKeyData: _C.SETTING_UP,
        ReadyForQuery: _C.READY,
        ErrorResponse: _C.CLOSED,
    },
    _C.READY: {**_at_any_time(_C.READY), ErrorResponse: _C.CLOSED},
    _C.WAITING: {
        **_at_any_time(_C.WAITING),
        RowDescription: _C.WAITING,
        DataRow: _C.WAITING,
        CommandComplete: _C.WAITING,
        EmptyQueryResponse: _C.WAITING,
        ErrorResponse: _C.WAITING,
        ReadyForQuery: _C.READY,
        CopyBothResponse: _C.COPY,
    },
    _C.COPY: {
        **_at_any_time(_C.COPY),
        CopyData: _C.COPY,
        CopyDone: _C.COPY_SENDING,
        CommandComplete: _C.WAITING,  # a walsender that shuts down ends like this
        ErrorResponse: _C.WAITING,
    },
    _C.COPY_RECEIVING: {
        **_at_any_time(_C.COPY_RECEIVING),
        CopyData: _C.COPY_RECEIVING,
        CopyDone: _C.WAITING,
        ErrorResponse: _C.WAITING,
    },
    _C.COPY_SENDING: {**_at_any_time(_C.COPY_SENDING), ErrorResponse: _C.WAITING},
}

CLIENT_SENDS: Final[_Turns[ClientState]] = {
    _C.STARTUP: {SslRequest: _C.ASKING_ENCRYPTION, StartupMessage: _C.AUTHENTICATING},
    _C.AUTHENTICATING: {AuthenticationReply: _C.AUTHENTICATING},
    _C.READY: {**_in_flight(_C.READY), Query: _C.WAITING, Terminate: _C.CLOSED},
    _C.WAITING: {**_in_flight(_C.WAITING), Terminate: _C.CLOSED},
    _C.COPY: {
        CopyData: _C.COPY,
        CopyDone: _C.COPY_RECEIVING,
        CopyFail: _C.COPY_RECEIVING,
        Terminate: _C.CLOSED,
    },
    _C.COPY_RECEIVING: {Terminate: _C.CLOSED},
    _C.COPY_SENDING: {
        CopyData: _C.COPY_SENDING,
        CopyDone: _C.WAITING,
        CopyFail: _C.WAITING,
        Terminate: _C.CLOSED,
    },
    _C.CLOSED: _in_flight(_C.CLOSED),
}
