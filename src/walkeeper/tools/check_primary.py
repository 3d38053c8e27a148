"""``walkeeper check --primary``: can a sidecar stream from this primary, and will commits wait for it?

Asked over a physical replication connection, the very one that a sidecar opens: that it can be had is the first thing
to be checked, and a role that may do nothing else can answer for the rest.

Changes nothing.  Source: PostgreSQL, "Server Configuration".
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from walkeeper.errors import ConfigError, PeerError, ServerError, Unreachable
from walkeeper.links.conninfo import ConnectionInfo
from walkeeper.links.poll import ANSWER_SECONDS
from walkeeper.links.postgres import Connection, time_limit
from walkeeper.links.primary import connect_primary, examine, flaw_of_standby_names
from walkeeper.lsn import format_lsn
from walkeeper.tools.verdicts import Verdict, fail, ok, warn

RELOAD: Final = "SELECT pg_reload_conf();"

SENDER_SECONDS_MIN: Final = 5.0
"""A sidecar reports every second; what is less than some of those ends streams for a hiccup."""

Settings = Mapping[str, str]


async def check_primary(info: ConnectionInfo, sidecar: str) -> tuple[list[Verdict], int | None]:
    """The verdicts, and the system identifier if it could be had.  ``sidecar``: its name.

    Cancellation: at any time.
    """
    subject = f"primary {info}"
    verdicts: list[Verdict] = []
    system_id = None
    try:
        with time_limit(ANSWER_SECONDS, subject):
            async with connect_primary(info, "walkeeper_check") as connection:
                primary = await examine(connection)
                system_id = primary.server.system_id
                version = primary.server.pg_version
                verdicts.append(
                    ok(
                        subject,
                        f"PostgreSQL {version // 10000}.{version % 10000}, system id {system_id},"
                        f" WAL up to {format_lsn(primary.flush_lsn)}; {info.user} may replicate",
                    )
                )
                settings = {name: await _show(connection, name) for name in RULES}
                verdicts += judge(settings, subject, sidecar)
    except (ConfigError, ServerError) as error:
        verdicts.append(fail(subject, _without(subject, error), "put right what it says"))
    except (Unreachable, PeerError) as error:
        verdicts.append(
            fail(subject, _without(subject, error), "start it, or look at its address and its network")
        )
    return verdicts, system_id


def _without(subject: str, error: Exception) -> str:
    """The line begins with it already."""
    return str(error).removeprefix(subject).removeprefix(":").strip()


async def _show(connection: Connection, name: str) -> str:
    return await connection.show(name, str)


def judge(settings: Settings, subject: str, sidecar: str) -> Iterator[Verdict]:
    """A verdict on each setting."""
    for name, rule in RULES.items():
        what = f"{name} is {settings[name]!r}"
        found = rule(settings[name], sidecar)
        yield ok(subject, what) if found is None else found(subject, what)


Found = Callable[[str, str], Verdict]
Rule = Callable[[str, str], Found | None]


def _failing(why: str, remedy: str) -> Found:
    return lambda subject, what: fail(subject, f"{what}: {why}", remedy)


def _warning(why: str, remedy: str) -> Found:
    return lambda subject, what: warn(subject, f"{what}: {why}", remedy)


def _wal_level(value: str, _sidecar: str) -> Found | None:
    if value != "minimal":
        return None
    return _failing("WAL cannot be streamed", "ALTER SYSTEM SET wal_level = 'replica'; and restart it")


def _at_least_one(value: str, _sidecar: str) -> Found | None:
    return None if value != "0" else _failing("the sidecar needs one", "raise it, and restart the primary")


def _slot_limit(value: str, _sidecar: str) -> Found | None:
    if value != "-1":
        return None
    return _warning(
        "a slot may fill its disk while keepers are away, and the sidecar makes none without --unsafe-slot",
        f"ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'; {RELOAD}",
    )


def _standby_names(value: str, sidecar: str) -> Found | None:
    flaw = flaw_of_standby_names(value, sidecar)
    remedy = f"once the sidecar says leading: ALTER SYSTEM SET synchronous_standby_names = '{sidecar}'; {RELOAD}"
    return _warning(flaw, remedy) if flaw else None


def _synchronous_commit(value: str, _sidecar: str) -> Found | None:
    if value not in ("off", "local"):
        return None
    return _warning(
        "commits return before any keeper has them", f"ALTER SYSTEM SET synchronous_commit = 'on'; {RELOAD}"
    )


_SECONDS: Final = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def _sender_timeout(value: str, _sidecar: str) -> Found | None:
    match = re.fullmatch(r"(\d+)(ms|s|min|h|d)?", value)
    seconds = int(match[1]) * _SECONDS[match[2] or "ms"] if match else 0.0
    remedy = f"ALTER SYSTEM SET wal_sender_timeout = '60s'; {RELOAD}"
    if not seconds:
        return _warning("a sidecar whose machine is gone is never missed, and its slot stays taken", remedy)
    return _warning("a hiccup ends the stream", remedy) if seconds < SENDER_SECONDS_MIN else None


def _fsync(value: str, _sidecar: str) -> Found | None:
    if value == "on":
        return None
    return _failing("its own WAL and data are not durable: it may lack what keepers have", "turn it on")


def _full_page_writes(value: str, _sidecar: str) -> Found | None:
    if value == "on":
        return None
    return _warning("pages that a crash tears cannot be made whole from WAL", "turn it on")


def _checksums(value: str, _sidecar: str) -> Found | None:
    if value == "on":
        return None
    return _warning("damage of its data files goes unnoticed; keepers verify WAL only", "pg_checksums --enable")


RULES: Final[Mapping[str, Rule]] = {
    "wal_level": _wal_level,
    "max_wal_senders": _at_least_one,
    "max_replication_slots": _at_least_one,
    "max_slot_wal_keep_size": _slot_limit,
    "synchronous_standby_names": _standby_names,
    "synchronous_commit": _synchronous_commit,
    "wal_sender_timeout": _sender_timeout,
    "fsync": _fsync,
    "full_page_writes": _full_page_writes,
    "data_checksums": _checksums,
}
"""What is asked of it, and what is thought of the answer."""
