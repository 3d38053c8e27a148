"""The first packets of a connection, and the ``options`` by which a client names its timeline.

Purpose: startup packets in both directions; the tokens of the ``options`` parameter.

Rules: the protocol version is not checked, and of two parameters with one name the first counts; both are how
Neon's safekeeper takes them.  Unknown parameters and options are skipped, known ones with a bad value are
Malformed.

Does not answer, and does not decide what is served: an ``interpreted`` stream is only recognised here.
Source: PostgreSQL ``libpq/pqcomm.h`` (startup codes); the options are Neon's.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Final, TypeVar

from walkeeper.errors import Malformed
from walkeeper.formats.cursor import Reader, Writer
from walkeeper.formats.sizes import parse_unsigned
from walkeeper.ids import TenantId, TenantTimelineId, TimelineId
from walkeeper.messages import Slice

PROTOCOL_3_0: Final = 0x0003_0000
_CANCEL_REQUEST: Final = 1234 << 16 | 5678
_SSL_REQUEST: Final = 1234 << 16 | 5679
_GSS_ENC_REQUEST: Final = 1234 << 16 | 5680
_SPECIAL: Final = 1234
"""The high half of codes that are no protocol versions."""


def _encode_packet(body: bytes) -> bytes:
    return bytes(Writer().u32(4 + len(body)).raw(body))


@dataclass(frozen=True, slots=True)
class SslRequest:
    """Asks for TLS; answered by one byte, ``EncryptionAnswer``."""

    def encode(self) -> bytes:
        return _encode_packet(bytes(Writer().u32(_SSL_REQUEST)))


@dataclass(frozen=True, slots=True)
class GssEncRequest:
    """Asks for GSSAPI encryption; answered by one byte, ``EncryptionAnswer``."""

    def encode(self) -> bytes:
        return _encode_packet(bytes(Writer().u32(_GSS_ENC_REQUEST)))


@dataclass(frozen=True, slots=True)
class DirectTls:
    """A TLS handshake has begun without asking; its first byte is consumed."""

    FIRST_BYTE: ClassVar[bytes] = b"\x16"


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Asks to cancel what another connection does."""

    process_id: int
    secret: int

    def encode(self) -> bytes:
        return _encode_packet(bytes(Writer().u32(_CANCEL_REQUEST).u32(self.process_id).u32(self.secret)))


@dataclass(frozen=True, slots=True)
class StartupMessage:
    """Who connects, to what: ``parameters`` by name (``user``, ``database``, ``options``, ``replication``, ...)."""

    parameters: Mapping[str, str]

    def encode(self) -> bytes:
        body = Writer().u32(PROTOCOL_3_0)
        for name, value in self.parameters.items():
            body.cstring(name).cstring(value)
        return _encode_packet(bytes(body.u8(0)))


StartupPacket = SslRequest | GssEncRequest | DirectTls | CancelRequest | StartupMessage


@dataclass(frozen=True, slots=True)
class EncryptionAnswer:
    """The server's single byte: S and then TLS, or N and on in clear text."""

    accepted: bool

    def encode(self) -> bytes:
        return b"S" if self.accepted else b"N"


def parse_startup_packet(packet: Slice) -> StartupPacket:
    """What ``FrameParser.next_startup`` found.  Raises Malformed."""
    if len(packet) == 1:
        return DirectTls()
    reader = Reader(packet, "startup packet")
    code = reader.u32()
    if code >> 16 != _SPECIAL:
        return StartupMessage(_parse_parameters(bytes(reader.rest())))
    request: StartupPacket
    if code == _SSL_REQUEST:
        request = SslRequest()
    elif code == _GSS_ENC_REQUEST:
        request = GssEncRequest()
    elif code == _CANCEL_REQUEST:
        request = CancelRequest(reader.u32(), reader.u32())
    else:
        reader.fail(f"unknown request code {code & 0xFFFF}")
    reader.finish()
    return request


def _parse_parameters(raw: bytes) -> dict[str, str]:
    """Pairs of C strings and one more NUL.  A name without a value is ignored."""
    if not raw.endswith(b"\0"):
        raise Malformed("StartupMessage: its parameters do not end in NUL")
    try:
        strings = raw[:-1].removesuffix(b"\0").decode().split("\0")
    except UnicodeDecodeError as error:
        raise Malformed("StartupMessage: its parameters are not UTF-8") from error
    parameters: dict[str, str] = {}
    for name, value in zip(strings[::2], strings[1::2], strict=False):
        parameters.setdefault(name, value)
    return parameters


# -- options ------------------------------------------------------------------------------------------------


class StreamProtocol(Enum):
    """What START_REPLICATION is to send: WAL as it is, or records decoded for one pageserver shard."""

    VANILLA = "vanilla"
    INTERPRETED = "interpreted"


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """What the ``options`` parameter says."""

    tenant_id: TenantId | None = None
    timeline_id: TimelineId | None = None
    availability_zone: str | None = None
    protocol: StreamProtocol = StreamProtocol.VANILLA

    @property
    def ttid(self) -> TenantTimelineId | None:
        """The timeline, if both halves of its name were given."""
        if self.tenant_id is None or self.timeline_id is None:
            return None
        return TenantTimelineId(self.tenant_id, self.timeline_id)


_SHARD_BITS: Final = {"shard_count": 8, "shard_number": 8, "shard_stripe_size": 32}


def encode_options(ttid: TenantTimelineId) -> str:
    """The ``options`` of a client that wants ``ttid``, in the words of Neon's walproposer."""
    return f"-c timeline_id={ttid.timeline_id} tenant_id={ttid.tenant_id}"


def parse_options(text: str) -> ConnectionOptions:
    """Reads ``-c timeline_id=... tenant_id=...``; of two tokens with one key the last counts.

    Raises Malformed for a bad value, and when the shard does not go with the protocol.
    """
    tenant_id = timeline_id = availability_zone = None
    protocol = StreamProtocol.VANILLA
    shard: set[str] = set()
    for token in split_options(text):
        key, separator, value = token.partition("=")
        if not separator:
            continue
        match key:
            case "tenant_id" | "ztenantid":
                tenant_id = _parse_id(TenantId, key, value)
            case "timeline_id" | "ztimelineid":
                timeline_id = _parse_id(TimelineId, key, value)
            case "availability_zone":
                availability_zone = value
            case "protocol":
                protocol = _parse_protocol(value)
            case "shard_count" | "shard_number" | "shard_stripe_size":
                _check_shard_number(key, value)
                shard.add(key)
            case _:
                pass
    _check_shard(protocol, shard)
    return ConnectionOptions(tenant_id, timeline_id, availability_zone, protocol)


def split_options(text: str) -> Iterator[str]:
    """Tokens between unescaped ASCII blanks.

    A backslash keeps the next character from splitting and stays in the token, as in Neon's parser (libpq's
    removes it); so values must not need escapes.
    """
    token, escaped = "", False
    for character in text:
        if character in " \t\n\f\r" and not escaped:
            if token:
                yield token
            token = ""
        else:
            token += character
            escaped = character == "\\" and not escaped
    if token:
        yield token


_Id = TypeVar("_Id", TenantId, TimelineId)


def _parse_id(kind: type[_Id], key: str, value: str) -> _Id:
    try:
        return kind.parse(value)
    except ValueError as error:
        raise Malformed(f"option {key}: {error}") from error


def _parse_protocol(value: str) -> StreamProtocol:
    """``{"type":"vanilla"}``; the arguments of an interpreted stream are for whoever serves one."""
    try:
        described: Any = json.loads(value)
        return StreamProtocol(described["type"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Malformed(f"option protocol: unknown {value!r}") from error


def _check_shard_number(key: str, value: str) -> None:
    try:
        parse_unsigned(value, _SHARD_BITS[key])
    except Malformed as error:
        raise Malformed(f"option {key}: {error}") from error


def _check_shard(protocol: StreamProtocol, given: set[str]) -> None:
    expected = set() if protocol is StreamProtocol.VANILLA else set(_SHARD_BITS)
    if given != expected:
        raise Malformed(
            f"option protocol: {protocol.value} needs {sorted(expected)} of the shard options, got {sorted(given)}"
        )
