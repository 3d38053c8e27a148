"""Connection strings as libpq reads them: ``host=db user=keeper`` or ``postgresql://keeper@db/``, and ``PG*`` variables.

Rules: the string wins over the variables, the variables over the defaults.  A keyword libpq does not know is
refused; one that it knows and that changes nothing here is accepted; one whose promise could not be kept (a
certificate revocation list, a required authentication method) is refused, never ignored.

Looks whether default files exist, but does not read any (``passfile``) and does not connect.  One host only: a sidecar belongs to one primary.
Source: PostgreSQL, libpq, "Database Connection Control Functions" and "Environment Variables".
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from walkeeper.errors import ConfigError, Malformed
from walkeeper.formats.sizes import parse_unsigned

DEFAULT_PORT: Final = 5432
CONNECT_TIMEOUT_SECONDS: Final = 10.0
"""How long an attempt may take when nothing says so; libpq would wait for ever."""

SOCKET_DIRECTORIES: Final = ("/var/run/postgresql", "/tmp")  # noqa: S108 (PostgreSQL's own default)
"""Where servers put their Unix sockets unless told otherwise: Debian's and PostgreSQL's default."""


class SslMode(Enum):
    """How much TLS is wanted."""

    DISABLE = "disable"
    PREFER = "prefer"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


class ChannelBinding(Enum):
    DISABLE = "disable"
    PREFER = "prefer"
    REQUIRE = "require"


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """Where and as whom to connect.  ``host`` is a name, an address, or the directory of a Unix socket."""

    host: str
    port: int = DEFAULT_PORT
    user: str = "postgres"
    dbname: str = ""
    password: str | None = field(default=None, repr=False)
    hostaddr: str = ""
    application_name: str = ""
    options: str = ""
    passfile: Path | None = None
    sslmode: SslMode = SslMode.PREFER
    sslrootcert: str = ""
    sslcert: str = ""
    sslkey: str = ""
    channel_binding: ChannelBinding = ChannelBinding.PREFER
    connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS

    @property
    def is_unix_socket(self) -> bool:
        return self.host.startswith(("/", "@")) and not self.hostaddr

    @property
    def socket_path(self) -> str:
        """The Unix socket; ``@`` stands for Linux's abstract name space."""
        path = f"{self.host}/.s.PGSQL.{self.port}"
        return "\0" + path[1:] if path.startswith("@") else path

    def __str__(self) -> str:
        """For people: never the password."""
        return f"{self.host}:{self.port}" if not self.is_unix_socket else self.socket_path.replace("\0", "@")


VARIABLES: Final = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "passfile": "PGPASSFILE",
    "application_name": "PGAPPNAME",
    "options": "PGOPTIONS",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "channel_binding": "PGCHANNELBINDING",
    "connect_timeout": "PGCONNECT_TIMEOUT",
}
"""The keywords understood here and the variables that stand in for them."""

HARMLESS: Final = (
    "client_encoding", "fallback_application_name", "gssencmode", "gsslib", "keepalives", "keepalives_count",
    "keepalives_idle", "keepalives_interval", "krbsrvname", "load_balance_hosts", "replication", "sslcompression",
    "sslsni", "target_session_attrs", "tcp_user_timeout",
)  # fmt: skip
"""Keywords of libpq without an effect on what this client promises."""


def parse_conninfo(text: str, environ: Mapping[str, str], *, login: str | None) -> ConnectionInfo:
    """A connection string, completed from the environment.  ``login`` is the operating system's user name, if it has one.

    Raises ConfigError.
    """
    said = dict(_parse_uri(text) if text.startswith(("postgresql://", "postgres://")) else _parse_pairs(text))
    for keyword in said:
        if keyword not in VARIABLES and keyword not in HARMLESS:
            raise ConfigError(f"connection string: {keyword!r} is not a keyword that walkeeper supports")
    from_environ = {keyword: environ[name] for keyword, name in VARIABLES.items() if environ.get(name)}
    settled = {**from_environ, **{keyword: value for keyword, value in said.items() if value}}
    for keyword, value in settled.items():
        if not can_be_sent(value):
            raise ConfigError(f"connection string: {keyword} is no UTF-8 or has a NUL in it")
    return _build(settled, environ, login)


def _build(settled: Mapping[str, str], environ: Mapping[str, str], login: str | None) -> ConnectionInfo:
    host = settled.get("host") or settled.get("hostaddr") or _default_socket_directory()
    if "," in host or "," in settled.get("port", ""):
        raise ConfigError("connection string: one host only, the primary; there is no trying of several")
    user = settled.get("user", login)
    if user is None:
        raise ConfigError("connection string: say user=...; the account that this runs as has no name")
    home = environ.get("HOME", "")
    passfile = settled.get("passfile") or (f"{home}/.pgpass" if home else "")
    return ConnectionInfo(
        host=host,
        port=_parse_port(settled.get("port", str(DEFAULT_PORT))),
        user=user,
        dbname=settled.get("dbname", user),
        password=settled.get("password"),
        hostaddr=settled.get("hostaddr", ""),
        application_name=settled.get("application_name", ""),
        options=settled.get("options", ""),
        passfile=Path(passfile) if passfile else None,
        sslmode=_one_of(SslMode, "sslmode", settled.get("sslmode", "prefer")),
        sslrootcert=settled.get("sslrootcert") or _if_there(home, "root.crt"),
        sslcert=settled.get("sslcert") or _if_there(home, "postgresql.crt"),
        sslkey=settled.get("sslkey") or _if_there(home, "postgresql.key"),
        channel_binding=_one_of(ChannelBinding, "channel_binding", settled.get("channel_binding", "prefer")),
        connect_timeout_seconds=_parse_timeout(settled.get("connect_timeout", "")),
    )


def can_be_sent(text: str) -> bool:
    """Not so a NUL, and what was no UTF-8 when it was read: that is lone surrogates now."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _default_socket_directory() -> str:
    return next((each for each in SOCKET_DIRECTORIES if Path(each).is_dir()), "localhost")


def _if_there(home: str, name: str) -> str:
    """libpq's default place of a certificate or key, if there is one."""
    path = os.path.join(home, ".postgresql", name)
    return path if home and os.path.isfile(path) else ""  # Path.is_file raises where nobody may look


def _parse_port(text: str) -> int:
    try:
        port = parse_unsigned(text, 16)
    except Malformed:
        port = 0
    if not port:
        raise ConfigError(f"connection string: {text!r} is not a port")
    return port


def _parse_timeout(text: str) -> float:
    """libpq's rule: whole seconds; nothing, 0 and less mean its default, which is ours here."""
    try:
        seconds = float(int(text or "0"))
    except (ValueError, OverflowError):
        raise ConfigError(f"connection string: {text!r} is not a connect_timeout in whole seconds") from None
    return seconds if seconds > 0 else CONNECT_TIMEOUT_SECONDS


Choice = TypeVar("Choice", bound=Enum)


def _one_of(kind: type[Choice], keyword: str, text: str) -> Choice:
    try:
        return kind(text)
    except ValueError:
        known = ", ".join(str(each.value) for each in kind)
        raise ConfigError(f"connection string: {keyword}={text} is not supported, only {known}") from None


# -- keyword = value -----------------------------------------------------------------------------------------


def _parse_pairs(text: str) -> Iterator[tuple[str, str]]:
    """``host = db password = 'it\\'s'``: blanks around the sign, quotes around blanks, backslash escapes."""
    at = _skip_blanks(text, 0)
    while at < len(text):
        sign = text.find("=", at)
        keyword = text[at:sign].strip() if sign >= 0 else ""
        if not keyword or not keyword.replace("_", "").isalnum():
            raise ConfigError(f"connection string: expected keyword=value at {text[at : at + 20]!r}")
        value, at = _parse_value(text, _skip_blanks(text, sign + 1))
        at = _skip_blanks(text, at)
        yield keyword, value


def _skip_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _parse_value(text: str, at: int) -> tuple[str, int]:
    """One value and where it ends."""
    quoted = text[at : at + 1] == "'"
    at += quoted
    value = ""
    while at < len(text):
        character = text[at]
        if character == "\\" and at + 1 < len(text):
            at += 1
            character = text[at]
        elif (quoted and character == "'") or (not quoted and character.isspace()):
            return value, at + quoted
        value += character
        at += 1
    if quoted:
        raise ConfigError("connection string: a quote is not closed")
    return value, at


# -- postgresql:// -------------------------------------------------------------------------------------------


def _parse_uri(text: str) -> Iterator[tuple[str, str]]:
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise ConfigError(f"connection string: {error}") from None
    if parts.fragment:
        raise ConfigError("connection string: a # in a URI must be written %23")
    login, at_sign, place = parts.netloc.rpartition("@")
    if at_sign:
        user, _, password = login.partition(":")
        yield from (("user", unquote(user)), ("password", unquote(password)))
    yield from _parse_place(place)
    yield "dbname", unquote(parts.path[1:])
    yield from parse_qsl(parts.query, keep_blank_values=True)


def _parse_place(place: str) -> Iterator[tuple[str, str]]:
    """``host:port``, ``[address]:port``, or a directory written with %2F."""
    if place.startswith("["):
        host, _, rest = place[1:].partition("]")
        port = rest.removeprefix(":")
    else:
        host, _, port = place.partition(":")
    yield "host", unquote(host)
    yield "port", port
