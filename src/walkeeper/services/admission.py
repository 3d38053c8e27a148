"""How a client gets in: encryption, who it says it is, and the proof of it.

Where keys are configured a token is asked for, as the password; where users are, those in the list are asked to prove
with SCRAM that they know theirs.  Without keys everybody is asked as if there were such a user.

Does not know what clients may do then (``auth.claims``), and has no time limits: the caller wraps.
Source: PostgreSQL, "Message Flow, Start-up" and "SASL Authentication"; CVE-2021-23214 for what follows a request.
"""

from dataclasses import dataclass
from typing import Final

from walkeeper.auth.certificates import Certificates
from walkeeper.auth.claims import EVERYTHING, Claims, Verify
from walkeeper.auth.scram import Exchange, mechanisms
from walkeeper.auth.users import User, Users
from walkeeper.errors import LoginFailed, Malformed, MustUseTls
from walkeeper.formats.authentication import (
    AuthenticationCleartextPassword,
    AuthenticationSasl,
    AuthenticationSaslContinue,
    AuthenticationSaslFinal,
)
from walkeeper.formats.frontend import AuthenticationReply
from walkeeper.formats.session import EndOfStream
from walkeeper.formats.startup import (
    CancelRequest,
    DirectTls,
    EncryptionAnswer,
    GssEncRequest,
    SslRequest,
    StartupMessage,
)
from walkeeper.services.conversation import Conversation

ANYBODY: Final = Claims(EVERYTHING)
"""Who comes in where nobody is asked for anything."""


@dataclass(frozen=True, slots=True)
class Gate:
    """What is asked of whoever comes in: nothing, where it is None.

    ``verify`` reads tokens; ``users`` have passwords; with ``certificates`` there is TLS, and with ``must_encrypt`` nothing
    else.
    """

    verify: Verify | None = None
    users: Users | None = None
    certificates: Certificates | None = None
    must_encrypt: bool = True


OPEN: Final = Gate()


async def receive_startup(talk: Conversation, gate: Gate) -> StartupMessage | None:
    """Who the client says it is; None when it did not want to come in.  Raises PeerError, MustUseTls.

    Cancellation: at any time; there may be no link left to say so.
    """
    while True:
        event = await talk.next_event()
        match event:
            case SslRequest() | DirectTls() if talk.certificate is not None:
                raise Malformed(f"{type(event).__name__} inside of TLS")
            case SslRequest() if gate.certificates is not None:
                if not talk.session.is_between_messages:
                    # Taking them for what comes encrypted would let a man in the middle put words into its mouth.
                    raise Malformed("bytes in clear text behind a request for TLS")
                await talk.send(EncryptionAnswer(accepted=True))
                await talk.encrypt(gate.certificates.current)
            case DirectTls() if gate.certificates is not None:
                await talk.encrypt_directly(gate.certificates.current)
            case SslRequest() | GssEncRequest():
                await talk.send(EncryptionAnswer(accepted=False))
            case StartupMessage():
                return event
            case CancelRequest() | DirectTls() | EndOfStream():
                return None
            case _:
                raise Malformed(f"{type(event).__name__} instead of a startup message")


async def log_in(talk: Conversation, gate: Gate, startup: StartupMessage) -> Claims | None:
    """What the client may do; None when it leaves, as psql does to ask its user.

    Raises MustUseTls for a client in clear text that has to encrypt, AccessDenied for one that proves nothing.
    """
    if gate.certificates is not None and gate.must_encrypt and talk.certificate is None:
        raise MustUseTls
    name = startup.parameters.get("user", "")
    if gate.users is not None and (gate.verify is None or gate.users.find(name) is not None):
        return await _ask_password(talk, gate.users, name)
    if gate.verify is not None:
        return await _ask_token(talk, gate.verify)
    return ANYBODY


async def _ask_token(talk: Conversation, verify: Verify) -> Claims | None:
    await talk.send(AuthenticationCleartextPassword())
    match await talk.next_event():
        case AuthenticationReply(token):
            return verify(token.removesuffix(b"\0"))
        case _:  # nothing else may come now
            return None


async def _ask_password(talk: Conversation, users: Users, name: str) -> Claims | None:
    user, invented = users.find(name), users.invent_secret(name)  # both, so that a stranger costs no more time
    try:
        return await _exchange_proofs(talk, user, Exchange(user.secret if user else invented, _binding(talk)))
    except LoginFailed as failed:
        raise LoginFailed(f"user {name!r}: {failed.why}" if user else f"there is no user {name!r}") from None


async def _exchange_proofs(talk: Conversation, user: User | None, exchange: Exchange) -> Claims | None:
    await talk.send(AuthenticationSasl(mechanisms(_binding(talk))))
    chosen = await talk.next_event()
    if not isinstance(chosen, AuthenticationReply):
        return None
    mechanism, first = chosen.sasl_mechanism()
    await talk.send(AuthenticationSaslContinue(exchange.answer_first(mechanism, first)))
    proof = await talk.next_event()
    if not isinstance(proof, AuthenticationReply):
        return None
    final = exchange.answer_final(proof.data)
    if user is None:
        raise LoginFailed("nobody knows this password")
    await talk.send(AuthenticationSaslFinal(final))
    return user.claims


def _binding(talk: Conversation) -> bytes | None:
    return None if talk.certificate is None else talk.certificate.leaf.binding
