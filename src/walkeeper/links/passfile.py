"""The password file: ``host:port:database:user:password`` lines, the first that fits counts.

Rules, as libpq's: ``*`` fits anything, a backslash keeps ``:`` and ``\\`` literal, ``#`` starts a comment line.  A file
that others may read is not used, and neither is one that is not a plain file; both are told, not fatal.  A Unix
socket in a default directory is ``localhost``.  A physical replication connection asks for the database ``replication``.

Source: PostgreSQL, libpq, "The Password File"; ``fe-connect.c`` (passwordFromFile).
"""

import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from walkeeper.links.conninfo import SOCKET_DIRECTORIES, ConnectionInfo

_COLONS: Final = 4


def with_password(info: ConnectionInfo, database: str, warn: Callable[[str], object]) -> ConnectionInfo:
    """``info`` with the password that the file has for it, unless it has one already; ``warn`` hears why not."""
    if info.password is not None or info.passfile is None:
        return info
    password = find_password(info.passfile, info, database, warn)
    return info if password is None else replace(info, password=password)


def find_password(path: Path, info: ConnectionInfo, database: str, warn: Callable[[str], object]) -> str | None:
    """The password in the file at ``path``, None if there is none for this connection."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            warn(f"password file {path} is not a plain file: not used")
            return None
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            warn(f"password file {path} can be read by others: not used (chmod 0600 {path})")
            return None
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as error:
        warn(f"password file {path} cannot be read: {error.strerror}")
        return None
    host = "localhost" if info.host in SOCKET_DIRECTORIES else info.host
    return _search(text, (host, str(info.port), database, info.user))


def _search(text: str, wanted: tuple[str, ...]) -> str | None:
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        fields = list(_split(line))
        if len(fields) == len(wanted) + 1 and all(map(_fits, fields, wanted)):
            return fields[-1][0]
    return None


def _fits(field: tuple[str, bool], wanted: str) -> bool:
    text, is_literal = field
    return text == wanted or (text == "*" and not is_literal)


def _split(line: str) -> Iterator[tuple[str, bool]]:
    """The fields without their escapes, and whether there were any.  The password is all of the rest."""
    text, escaped, is_literal, colons = "", False, False, 0
    for character in line:
        if escaped:
            text, escaped = text + character, False
        elif character == "\\":
            escaped = is_literal = True
        elif character == ":" and colons < _COLONS:
            yield text, is_literal
            text, is_literal, colons = "", False, colons + 1
        else:
            text += character
    yield text, is_literal
