"""How a PostgreSQL server asks who is there: the eight shapes of its Authentication message that matter.

Purpose: one value per request, so that whoever logs in can match on them.

Rules: a request that nobody here can answer (GSSAPI, SSPI, Kerberos) is not an error of the peer: it is
``AuthenticationOther``, whose code says which it was.

Does not compute answers: that takes a password, which this room does not see.
Source: PostgreSQL, "Message Formats"; ``libpq/protocol.h`` (AUTH_REQ_*).
"""

from dataclasses import dataclass
from typing import ClassVar, Final

from walkeeper.formats.cursor import Reader, Writer
from walkeeper.formats.frames import FrameMessage


class _Authentication(FrameMessage):
    __slots__ = ()
    TAG = b"R"
    CODE: ClassVar[int]

    def details(self) -> bytes:
        return b""

    def body(self) -> bytes:
        return bytes(Writer().u32(self.CODE).raw(self.details()))


@dataclass(frozen=True, slots=True)
class AuthenticationOk(_Authentication):
    """The client is in."""

    CODE = 0


@dataclass(frozen=True, slots=True)
class AuthenticationCleartextPassword(_Authentication):
    """Asks for the password as it is."""

    CODE = 3


@dataclass(frozen=True, slots=True)
class AuthenticationMd5Password(_Authentication):
    """Asks for ``md5`` and md5(md5(password + user) + salt) in hexadecimal digits."""

    CODE = 5
    salt: bytes

    def details(self) -> bytes:
        return self.salt


@dataclass(frozen=True, slots=True)
class AuthenticationSasl(_Authentication):
    """Offers SASL mechanisms, the server's favourite first."""

    CODE = 10
    mechanisms: tuple[str, ...]

    def details(self) -> bytes:
        body = Writer()
        for mechanism in self.mechanisms:
            body.cstring(mechanism)
        return bytes(body.u8(0))


@dataclass(frozen=True, slots=True)
class AuthenticationSaslContinue(_Authentication):
    """The server's next message of the SASL exchange."""

    CODE = 11
    data: bytes

    def details(self) -> bytes:
        return self.data


@dataclass(frozen=True, slots=True)
class AuthenticationSaslFinal(_Authentication):
    """The server's last message of the SASL exchange, by which it proves itself."""

    CODE = 12
    data: bytes

    def details(self) -> bytes:
        return self.data


@dataclass(frozen=True, slots=True)
class AuthenticationOther(FrameMessage):
    """Asks for something else: ``code`` is PostgreSQL's AUTH_REQ number."""

    TAG = b"R"
    code: int

    def body(self) -> bytes:
        return bytes(Writer().u32(self.code))


Authentication = (
    AuthenticationOk
    | AuthenticationCleartextPassword
    | AuthenticationMd5Password
    | AuthenticationSasl
    | AuthenticationSaslContinue
    | AuthenticationSaslFinal
    | AuthenticationOther
)

AUTHENTICATION_TAG: Final = _Authentication.TAG


def parse_authentication(body: memoryview) -> Authentication:
    """Raises Malformed."""
    reader = Reader(body, "Authentication")
    request = _parse_request(reader)
    reader.finish()
    return request


def _parse_request(reader: Reader) -> Authentication:
    match reader.u32():
        case AuthenticationOk.CODE:
            return AuthenticationOk()
        case AuthenticationCleartextPassword.CODE:
            return AuthenticationCleartextPassword()
        case AuthenticationMd5Password.CODE:
            return AuthenticationMd5Password(bytes(reader.take(4)))
        case AuthenticationSasl.CODE:
            return AuthenticationSasl(_parse_mechanisms(reader))
        case AuthenticationSaslContinue.CODE:
            return AuthenticationSaslContinue(bytes(reader.rest()))
        case AuthenticationSaslFinal.CODE:
            return AuthenticationSaslFinal(bytes(reader.rest()))
        case code:
            reader.rest()
            return AuthenticationOther(code)


def _parse_mechanisms(reader: Reader) -> tuple[str, ...]:
    mechanisms: list[str] = []
    while mechanism := reader.cstring():
        mechanisms.append(mechanism)
    return tuple(mechanisms)
