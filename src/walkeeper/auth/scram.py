"""SCRAM-SHA-256, the server's side: whether somebody knows a password, without either side telling it.

With a certificate (``binding``) the exchange can be bound to it: then nobody in the middle can pass it on.

Rules: each step costs some hashes, for a stranger exactly as many as for a user; everything that is wrong is LoginFailed,
with the reason for the log.  The name in the exchange does not count, as at PostgreSQL, whose clients leave it empty.

Does not know who there is (``users``) and does not speak: ``services.admission`` does.
Source: RFC 5802, RFC 7677, RFC 5929 (tls-server-end-point); PostgreSQL, "SASL Authentication".
"""

import re
from base64 import b64decode, b64encode
from hashlib import sha256
from hmac import compare_digest, digest
from secrets import token_bytes
from typing import Final

from walkeeper.auth.users import KEY_BYTES, Secret
from walkeeper.errors import LoginFailed

BOUND: Final = "SCRAM-SHA-256-PLUS"
UNBOUND: Final = "SCRAM-SHA-256"
BINDING_NAME: Final = b"tls-server-end-point"

NONCE_BYTES: Final = 18
"""As PostgreSQL's."""

_FIRST: Final = re.compile(
    rb"(?P<header>(?P<flag>n|y|p=(?P<binding>[A-Za-z0-9.-]+)),,)(?P<bare>n=[^,]*,r=(?P<nonce>[\x21-\x2b\x2d-\x7e]+))"
)
_FINAL: Final = re.compile(
    rb"(?P<bare>c=(?P<channel>[A-Za-z0-9+/=]+),r=(?P<nonce>[\x21-\x2b\x2d-\x7e]+)),p=(?P<proof>[A-Za-z0-9+/=]+)"
)


def mechanisms(binding: bytes | None) -> tuple[str, ...]:
    """What is offered, the favourite first."""
    return (UNBOUND,) if binding is None else (BOUND, UNBOUND)


class Exchange:
    """One login.  ``answer_first``, then ``answer_final``; both raise LoginFailed.

    ``binding``: the hash of the certificate that the client sees, None without TLS.
    """

    def __init__(self, secret: Secret, binding: bytes | None) -> None:
        self._secret = secret
        self._binding = binding
        self._nonce = b64encode(token_bytes(NONCE_BYTES))
        self._channel = b""
        self._said = b""

    def answer_first(self, mechanism: str, message: bytes) -> bytes:
        """Salt and iterations, for the client's choice of a mechanism and its first message."""
        if mechanism not in mechanisms(self._binding):
            raise LoginFailed(f"the client chose {mechanism[:40]!r}, which was not offered")
        first = _FIRST.fullmatch(message)
        if first is None:
            raise LoginFailed("the first message of SCRAM cannot be read")
        self._channel = b64encode(first["header"] + self._bound_to(mechanism, first))
        self._nonce = first["nonce"] + self._nonce
        salt = b64encode(self._secret.salt)
        answer = b"r=%b,s=%b,i=%d" % (self._nonce, salt, self._secret.iterations)
        self._said = first["bare"] + b"," + answer
        return answer

    def _bound_to(self, mechanism: str, first: re.Match[bytes]) -> bytes:
        """What the client has to repeat of the certificate."""
        is_bound = first["binding"] is not None
        if is_bound != (mechanism == BOUND):
            raise LoginFailed("the client chose one mechanism and began another")
        if first["flag"] == b"y" and self._binding is not None:
            raise LoginFailed("the client believes that no channel binding was offered: somebody is in the middle")
        if not is_bound:
            return b""
        if first["binding"] != BINDING_NAME:
            raise LoginFailed("the client wants to be bound to something else than the certificate")
        assert self._binding is not None, "the mechanism was offered"
        return self._binding

    def answer_final(self, message: bytes) -> bytes:
        """Our own proof, for one that is good."""
        final = _FINAL.fullmatch(message)
        if final is None:
            raise LoginFailed("the last message of SCRAM cannot be read")
        if not compare_digest(final["channel"], self._channel):
            raise LoginFailed("the client sees another certificate: somebody is in the middle")
        if not compare_digest(final["nonce"], self._nonce):
            raise LoginFailed("the client answers another question")
        everything = self._said + b"," + final["bare"]
        signature = digest(self._secret.stored_key, everything, "sha256")
        key = _xor(_decode_proof(final["proof"]), signature)
        if not compare_digest(sha256(key).digest(), self._secret.stored_key):
            raise LoginFailed("wrong password")
        return b"v=" + b64encode(digest(self._secret.server_key, everything, "sha256"))


def _decode_proof(text: bytes) -> bytes:
    try:
        proof = b64decode(text, validate=True)
    except ValueError:
        proof = b""
    if len(proof) != KEY_BYTES:
        raise LoginFailed("the proof is none of SHA-256")
    return proof


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
