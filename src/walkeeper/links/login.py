"""Getting in: the startup packet, and an answer to whatever proof the server asks for.

Knows trust, cleartext passwords, MD5, and SCRAM-SHA-256 with and without channel binding (``tls-server-end-point``).
A server that asks for a password which nobody gave, and one that refuses us, is the operator's to put right:
ConfigError, in one line.

Source: PostgreSQL, "Message Flow, Start-up" and "SASL Authentication"; RFC 5802.
"""

import re
import ssl
from hashlib import md5
from typing import Final

from scramp import ScramClient, ScramException

from walkeeper.errors import ConfigError, OutOfTurn, ServerError
from walkeeper.formats.authentication import (
    AuthenticationCleartextPassword,
    AuthenticationMd5Password,
    AuthenticationOk,
    AuthenticationOther,
    AuthenticationSasl,
    AuthenticationSaslContinue,
    AuthenticationSaslFinal,
)
from walkeeper.formats.backend import BackendMessage
from walkeeper.formats.frontend import AuthenticationReply
from walkeeper.links.conninfo import ChannelBinding, ConnectionInfo, can_be_sent

BOUND: Final = "SCRAM-SHA-256-PLUS"
UNBOUND: Final = "SCRAM-SHA-256"

ITERATIONS_MAX: Final = 1_000_000
"""Of a password's hash: PostgreSQL's default is 4096.  They are computed at once, for half a second at most, while
nobody else runs; a server that wants four billion would have us stand still for an hour."""

_DIGITS_MAX: Final = len(str(ITERATIONS_MAX))
_ITERATIONS: Final = re.compile(rb",i=([^,]*)")

_MISCONFIGURED: Final = {
    "28P01": "check the password",
    "28000": "check the user, and pg_hba.conf: a standby needs a line for the database replication",
    "42501": "give the role the right: ALTER ROLE ... REPLICATION",
    "3D000": "check dbname",
    "22023": "check the options",
}
"""SQLSTATEs of refusals that no retry will change, and what to do."""


class PasswordMissing(ConfigError):
    """The server asks for a password, and nobody gave one."""


class LoginRefused(ConfigError):
    """The server does not let us in, and ``said`` why."""

    def __init__(self, said: ServerError, advice: str) -> None:
        super().__init__(f"{said}; {advice}")
        self.said = said


class Login:
    """One exchange of proofs.  ``answer`` gives the reply to each of the server's messages, None if it needs none.

    ``tls`` is the encrypted connection, if it is one.
    """

    def __init__(self, info: ConnectionInfo, tls: ssl.SSLObject | None) -> None:
        self._info = info
        self._tls = tls
        self._scram: ScramClient | None = None
        self._is_bound = False

    def answer(self, request: BackendMessage) -> AuthenticationReply | None:
        """Raises ConfigError when no right answer can be given, OutOfTurn for a broken exchange."""
        match request:
            case AuthenticationOk():
                self._require_binding()
                return None
            case AuthenticationCleartextPassword():
                return AuthenticationReply.of_password(self._password().encode())
            case AuthenticationMd5Password(salt):
                return AuthenticationReply.of_password(_md5_proof(self._password(), self._info.user, salt))
            case AuthenticationSasl(mechanisms):
                return self._begin_scram(mechanisms)
            case AuthenticationSaslContinue(data):
                return self._continue_scram(data)
            case AuthenticationSaslFinal(data):
                self._end_scram(data)
                return None
            case AuthenticationOther(code):
                raise ConfigError(f"{self._info} asks for authentication method {code}, which is not supported")
            case _:
                return None

    def _password(self) -> str:
        if not self._info.password:
            raise PasswordMissing(
                f"{self._info} asks for the password of {self._info.user}: give it in the connection string, PGPASSWORD or a"
                " password file"
            )
        if not can_be_sent(self._info.password):
            raise ConfigError(f"the password of {self._info.user} for {self._info} is no UTF-8 or has a NUL in it")
        return self._info.password

    def _begin_scram(self, mechanisms: tuple[str, ...]) -> AuthenticationReply:
        wanted = self._info.channel_binding
        binding = None
        if self._tls is not None and BOUND in mechanisms and wanted is not ChannelBinding.DISABLE:
            mechanism, binding, self._is_bound = BOUND, ("tls-server-end-point", self._tls), True
        elif UNBOUND in mechanisms:
            mechanism = UNBOUND
        else:
            raise ConfigError(f"{self._info} offers only {', '.join(mechanisms)}, which is not supported")
        try:
            self._scram = ScramClient([mechanism], self._info.user, self._password(), channel_binding=binding)
        except ScramException as error:
            raise ConfigError(f"{self._info}: no {mechanism} with this user and password: {error}") from error
        return AuthenticationReply.of_sasl_mechanism(mechanism, self._scram.get_client_first().encode())

    def _continue_scram(self, data: bytes) -> AuthenticationReply:
        scram = self._require_scram()
        for wanted in _ITERATIONS.findall(data):
            if not wanted.isdigit() or len(wanted) > _DIGITS_MAX or int(wanted) > ITERATIONS_MAX:
                raise OutOfTurn(f"{self._info}: SCRAM wants more iterations than {ITERATIONS_MAX}, or means none")
        try:
            scram.set_server_first(data.decode())
            return AuthenticationReply(scram.get_client_final().encode())
        except (ScramException, UnicodeDecodeError) as error:
            raise OutOfTurn(f"{self._info}: SCRAM: {error}") from error

    def _end_scram(self, data: bytes) -> None:
        """The server proves that it knows the password too."""
        try:
            self._require_scram().set_server_final(data.decode())
        except (ScramException, UnicodeDecodeError) as error:
            raise OutOfTurn(f"{self._info}: SCRAM: {error}") from error

    def _require_scram(self) -> ScramClient:
        if self._scram is None:
            raise OutOfTurn(f"{self._info}: a SASL message without a beginning")
        return self._scram

    def _require_binding(self) -> None:
        if self._info.channel_binding is ChannelBinding.REQUIRE and not self._is_bound:
            raise ConfigError(f"channel_binding=require, but {self._info} let us in without it")


def _md5_proof(password: str, user: str, salt: bytes) -> bytes:
    inner = md5(password.encode() + user.encode(), usedforsecurity=False).hexdigest()
    return b"md5" + md5(inner.encode() + salt, usedforsecurity=False).hexdigest().encode()


def refusal(error: ServerError) -> ServerError | LoginRefused:
    """A server's error as what it means for whoever started us."""
    advice = _MISCONFIGURED.get(error.sqlstate)
    return error if advice is None else LoginRefused(error, advice)
