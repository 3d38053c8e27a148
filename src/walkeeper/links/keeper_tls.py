"""How connections to keepers are encrypted, in the words of libpq: ``sslmode`` and its files.

``keeper_tls`` is set where a command begins (``demand_tls``); its tasks inherit it.  The files are read for every
connection, so that new ones need no restart.

Source: PostgreSQL, libpq, "SSL Support".
"""

from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Final

from walkeeper.links.conninfo import ConnectionInfo, SslMode
from walkeeper.links.tls import client_context

FLAGS: Final = "--keeper-"
"""How the options begin that have libpq's names."""


@dataclass(frozen=True, slots=True)
class KeeperTls:
    """As in ``ConnectionInfo``."""

    sslmode: SslMode = SslMode.PREFER
    sslrootcert: str = ""
    sslcert: str = ""
    sslkey: str = ""


keeper_tls: Final[ContextVar[KeeperTls]] = ContextVar("keeper_tls", default=KeeperTls())  # noqa: B039 (it is frozen)


def demand_tls(wanted: KeeperTls) -> None:
    """Have connections to keepers be encrypted so from now on.  Raises NotEncrypted for files that cannot be used."""
    client_context(with_keeper_tls(ConnectionInfo("the keepers"), wanted), FLAGS)
    keeper_tls.set(wanted)


def with_keeper_tls(info: ConnectionInfo, tls: KeeperTls | None = None) -> ConnectionInfo:
    """``info``, of a keeper, with what is demanded."""
    tls = tls or keeper_tls.get()
    return replace(info, sslmode=tls.sslmode, sslrootcert=tls.sslrootcert, sslcert=tls.sslcert, sslkey=tls.sslkey)
