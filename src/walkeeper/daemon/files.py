"""How many files this process may have open, and how many connections that is enough for.

What storage, the HTTP port and the process itself need is set aside first: connections that come and stay must never
keep a commit from opening a file.

Does not count what is open: the caps that come out of this are kept by ``services`` and ``control``.
Source: getrlimit(2).
"""

import resource
from typing import Final

from walkeeper.control.server import CONNECTIONS_MAX as HTTP_CONNECTIONS_MAX
from walkeeper.daemon.config import CONNECTIONS_MAX_DEFAULT
from walkeeper.errors import ConfigError
from walkeeper.services.listener import TURNED_AWAY_MAX
from walkeeper.storage.disk import FILES_HELD_BACK

OWN_FILES: Final = 64
"""Standard streams, listening sockets, what Trio and libraries have, the lock: some twenty, and as many to spare."""

RESERVED_FILES: Final = OWN_FILES + FILES_HELD_BACK + HTTP_CONNECTIONS_MAX + TURNED_AWAY_MAX

FILES_PER_CONNECTION: Final = 3
"""Its socket, the segment that is written or read for it, and that of a timeline whose writer has gone."""


def raise_limit() -> int:
    """Allow this process as many open files as it may allow itself; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):  # the hard one may be above fs.nr_open
            return soft
    return hard


def settle_connections_max(wanted: int | None, files_max: int) -> int:
    """How many writers and readers there is room for; as many as were ``wanted``, if anybody said so.

    ``files_max``: the limit of open files.  Raises ConfigError when it is too low.
    """
    if files_max == resource.RLIM_INFINITY:
        return wanted or CONNECTIONS_MAX_DEFAULT
    possible = (files_max - RESERVED_FILES) // FILES_PER_CONNECTION
    if possible < (wanted or 1):
        needed = RESERVED_FILES + FILES_PER_CONNECTION * (wanted or 1)
        who = f"--max-connections {wanted}" if wanted else "a keeper of a single connection"
        raise ConfigError(
            f"{who} needs a limit of {needed} open files, it is {files_max}: raise it (ulimit -Hn, LimitNOFILE=)"
        )
    return wanted or min(possible, CONNECTIONS_MAX_DEFAULT)
