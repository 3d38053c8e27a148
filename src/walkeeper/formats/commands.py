"""The simple queries that a keeper understands, and the ones that its clients send.

Purpose: query text to values (``parse_command``), and texts for the sidecar (``encode_*``).

Rules: Neon's grammar with its quirks, since its clients are written against it: prefixes are case-sensitive and
searched, what follows a match is ignored, an option list that does not look like one is skipped.  ``SHOW`` is
ours, for ``pg_receivewal``.  A text that cannot be served is ``BadCommand``: the connection stays usable.

Does not execute, and does not know sessions.
Source: Neon's safekeeper commands; PostgreSQL, "Streaming Replication Protocol".
"""

import re
from dataclasses import dataclass
from typing import Final

from walkeeper.errors import BadCommand, Malformed
from walkeeper.formats.sizes import parse_unsigned
from walkeeper.ids import TimelineNumber
from walkeeper.lsn import Lsn, format_lsn, parse_lsn
from walkeeper.terms import Term

DEFAULT_PROTO_VERSION: Final = 2
"""What a bare START_WAL_PUSH means: clients older than the option speak protocol 2."""

COMMAND_LENGTH_MAX: Final = 4096
"""Longest text, in characters, that is looked at; those of clients have some hundred."""

STATUS: Final = "walkeeper_status"
"""The setting, shown by SHOW, that tells an operator all about a timeline, as JSON."""

STANDING: Final = "walkeeper_standing"
"""The setting, shown by SHOW, that tells a writer whether a keeper is whole."""

NODE_ID: Final = "walkeeper_node_id"
"""The setting, shown by SHOW, that tells two keepers from one with two addresses."""

ABOUT: Final = "walkeeper_about"
"""The setting, shown by SHOW, that tells an operator of the keeper itself, as JSON: of no timeline."""

WHOLE: Final = "whole"
INCOMPLETE: Final = "incomplete"


@dataclass(frozen=True, slots=True)
class StartWalPush:
    """A proposer wants to push WAL.  ``proto_version`` is checked where messages are parsed."""

    proto_version: int = DEFAULT_PROTO_VERSION
    allow_timeline_creation: bool = True


@dataclass(frozen=True, slots=True)
class StartReplication:
    """WAL from ``start_lsn`` on: what is committed, or with ``term`` all that the leader of that term has written.

    ``tli``: the only one of PostgreSQL's timeline ids that will do.
    """

    start_lsn: Lsn
    term: Term | None = None
    tli: TimelineNumber | None = None


@dataclass(frozen=True, slots=True)
class IdentifySystem:
    """Asks for the system identifier, PostgreSQL's timeline id and the end of WAL."""


@dataclass(frozen=True, slots=True)
class TimelineStatus:
    """Asks for flush_lsn and commit_lsn."""


@dataclass(frozen=True, slots=True)
class Show:
    """Asks for a setting, its name in lower case."""

    name: str


@dataclass(frozen=True, slots=True)
class SetDateStyle:
    """What psycopg2 says first; needs an answer, not obedience."""


Command = StartWalPush | StartReplication | IdentifySystem | TimelineStatus | Show | SetDateStyle

_START_WAL_PUSH: Final = re.compile(r"START_WAL_PUSH(\s+?\((.*)\))?")
_START_REPLICATION: Final = re.compile(
    r"START_REPLICATION(?: SLOT [^ ]+)?(?: PHYSICAL)? ([0-9A-Fa-f]+/[0-9A-Fa-f]+)"
    r"(?: \(term='([0-9]+)'\)| TIMELINE ([0-9]+))?"
)
_SHOW: Final = re.compile(r"SHOW\s+([A-Za-z_][\w.]*)", re.IGNORECASE)


def parse_command(text: str) -> Command:
    """What a simple query asks for.  Raises BadCommand."""
    if len(text) > COMMAND_LENGTH_MAX:
        raise BadCommand(f"a command has {COMMAND_LENGTH_MAX} characters at most:", text)
    if text.lower().startswith("set datestyle to "):
        return SetDateStyle()
    if text.startswith("START_WAL_PUSH"):
        return _parse_start_wal_push(text)
    if text.startswith("START_REPLICATION"):
        return _parse_start_replication(text)
    if text.startswith("IDENTIFY_SYSTEM"):
        return IdentifySystem()
    if text.startswith("TIMELINE_STATUS"):
        return TimelineStatus()
    if show := _SHOW.fullmatch(text.rstrip("; \t\r\n")):
        return Show(show[1].lower())
    if text.startswith("TIMELINE_HISTORY"):
        raise BadCommand("keepers have no timeline history files, copy it from the primary's pg_wal:", text)
    raise BadCommand("unsupported command", text)


def _parse_start_wal_push(text: str) -> StartWalPush:
    found = _START_WAL_PUSH.search(text)
    assert found is not None, "the prefix alone matches"
    if found[2] is None:
        return StartWalPush()
    version, allow_creation = DEFAULT_PROTO_VERSION, True
    for option in found[2].split(","):
        match option.split():
            case ["proto_version", value, *_]:
                version = _parse_unsigned(_unquoted(value), 32, text)
            case ["allow_timeline_creation", value, *_]:
                allow_creation = _parse_bool(_unquoted(value), text)
            case [_, _, *_]:
                pass  # an option of a newer client
            case _:
                raise BadCommand(f"option {option.strip()!r} has no value in", text)
    return StartWalPush(version, allow_creation)


def _parse_start_replication(text: str) -> StartReplication:
    """A term that does not look exactly like ``(term='5')`` is not seen, and the stream is of committed WAL."""
    found = _START_REPLICATION.search(text)
    if found is None:
        raise BadCommand("failed to parse START_REPLICATION command", text)
    try:
        start_lsn = parse_lsn(found[1])
    except ValueError as error:
        raise BadCommand("failed to parse the LSN of", text) from error
    term = None if found[2] is None else Term(_parse_unsigned(found[2], 64, text))
    tli = None if found[3] is None else TimelineNumber(_parse_unsigned(found[3], 32, text))
    return StartReplication(start_lsn, term, tli)


def _unquoted(value: str) -> str:
    return value.strip("'")


def _parse_unsigned(digits: str, bits: int, text: str) -> int:
    try:
        return parse_unsigned(digits, bits)
    except Malformed as error:
        raise BadCommand(f"{error} in", text) from error


def _parse_bool(word: str, text: str) -> bool:
    if word not in ("true", "false"):
        raise BadCommand(f"neither true nor false: {word!r} in", text)
    return word == "true"


# -- what our own clients send -------------------------------------------------------------------------------


def encode_start_wal_push(command: StartWalPush) -> str:
    """The text that Neon's walproposer sends."""
    allowed = str(command.allow_timeline_creation).lower()
    return f"START_WAL_PUSH (proto_version '{command.proto_version}', allow_timeline_creation '{allowed}')"


def encode_start_replication(start_lsn: Lsn, *, slot: str | None = None, tli: int | None = None) -> str:
    """Asks a PostgreSQL server for WAL: ``slot`` names a physical replication slot, ``tli`` PostgreSQL's timeline id."""
    slot_part = "" if slot is None else f" SLOT {quote_identifier(slot)}"
    tli_part = "" if tli is None else f" TIMELINE {tli}"
    return f"START_REPLICATION{slot_part} PHYSICAL {format_lsn(start_lsn)}{tli_part}"


def encode_start_recovery(start_lsn: Lsn, term: Term) -> str:
    """Asks a keeper for WAL on behalf of the leader of ``term``, committed or not."""
    return f"START_REPLICATION PHYSICAL {format_lsn(start_lsn)} (term='{term}')"


def quote_identifier(name: str) -> str:
    """``name`` as PostgreSQL's replication grammar reads it: quoted, quotes doubled."""
    return '"' + name.replace('"', '""') + '"'
