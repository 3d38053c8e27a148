"""Users who may read WAL: stock clients, which have a password and not a token.

A file has a line for each: ``name:SCRAM-SHA-256$4096:salt$StoredKey:ServerKey``, as PostgreSQL keeps passwords
(``pg_authid.rolpassword``), and perhaps ``:`` and the only tenant whose WAL the user may read.  Empty lines and those
that begin with ``#`` do not count.  Nobody can log in with what is in the file.

Does not ask anybody for a password (``scram``), and reads the file where it is called: ``upkeep`` does so elsewhere.
Source: PostgreSQL, ``pg_authid``; RFC 5803.
"""

import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import digest
from pathlib import Path
from typing import Final

from walkeeper.auth.claims import EVERYTHING, TENANT, Claims
from walkeeper.errors import ConfigError
from walkeeper.ids import TenantId
from walkeeper.storage.disk import read_regular

USERS_FILE_BYTES_MAX: Final = 1024 * 1024
"""Thousands of users; more is another file."""

ITERATIONS_MAX: Final = 1_000_000
"""More than our own clients take: it is they who compute them."""

KEY_BYTES: Final = 32
"""Of a SHA-256."""

_BASE64: Final = "[A-Za-z0-9+/]+={0,2}"
_LINE: Final = re.compile(
    rf"(?P<name>[^:]+):SCRAM-SHA-256\$(?P<iterations>[1-9][0-9]{{0,6}}):(?P<salt>{_BASE64})"
    rf"\$(?P<stored>{_BASE64}):(?P<server>{_BASE64})(?::(?P<tenant>[0-9a-f]{{32}}))?"
)


@dataclass(frozen=True, slots=True)
class Secret:
    """What is kept of a password: enough to see that somebody knows it, too little to show that."""

    iterations: int
    salt: bytes
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class User:
    secret: Secret
    claims: Claims


class Users:
    """The users of the moment."""

    def __init__(self, known: Mapping[str, User]) -> None:
        self.known = known

    def find(self, name: str) -> User | None:
        return self.known.get(name)

    def invent_secret(self, name: str) -> Secret:
        """For a stranger: one that nobody knows the password of, and that looks like the others.

        Always the same for a name, on every keeper that has this file and after a restart: a salt that changes would
        tell that there is no such user.
        """
        model = next(iter(self.known.values())).secret
        seed = sha256(model.stored_key + model.server_key).digest()

        def invent(what: bytes) -> bytes:
            return digest(seed, what + name.encode(), "sha256")

        salt = invent(b"salt")[: len(model.salt)]
        return Secret(model.iterations, salt, invent(b"stored"), invent(b"server"))


def load_users(path: Path) -> Mapping[str, User]:
    """The users in the file at ``path``, by name.  Raises ConfigError if there is none, or a line that is none."""
    try:
        raw = read_regular(path, USERS_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the users in {path}: {error.strerror}") from None
    if len(raw) > USERS_FILE_BYTES_MAX:
        raise ConfigError(f"{path} has more than {USERS_FILE_BYTES_MAX} bytes")
    try:
        lines = raw.decode().splitlines()
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8") from None
    return _parse(lines, path)


def _parse(lines: Sequence[str], path: Path) -> Mapping[str, User]:
    known: dict[str, User] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        where = f"{path}, line {number}"
        match = _LINE.fullmatch(line.rstrip())
        if match is None:  # what is there may be a password: it is not repeated
            raise ConfigError(f"{where}: expected name:SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey[:tenant]")
        name = match["name"]
        if name in known:
            raise ConfigError(f"{where}: there are two users {name!r}")
        known[name] = User(_secret(match, where), _claims(name, match["tenant"]))
    if not known:
        raise ConfigError(f"there is no user in {path}")
    return known


def _secret(match: re.Match[str], where: str) -> Secret:
    iterations = int(match["iterations"])
    try:
        salt, stored, server = (b64decode(match[each], validate=True) for each in ("salt", "stored", "server"))
    except ValueError:
        raise ConfigError(f"{where}: what should be base64 is not") from None
    if len(stored) != KEY_BYTES or len(server) != KEY_BYTES or iterations > ITERATIONS_MAX:
        raise ConfigError(f"{where}: no SCRAM-SHA-256 has such keys, or so many iterations")
    return Secret(iterations, salt, stored, server)


def _claims(name: str, tenant: str | None) -> Claims:
    return Claims(EVERYTHING, None, name) if tenant is None else Claims(TENANT, TenantId.parse(tenant), name)
