"""What PostgreSQL calls the modules that write WAL records: the names that pg_waldump prints.

Does not know what their records mean.
Source: PostgreSQL ``access/rmgrlist.h`` (the same from 14 to 18), and ``access/rmgr.h`` for those of extensions.
"""

from typing import Final

_NAMES: Final = (
    "XLOG", "Transaction", "Storage", "CLOG", "Database", "Tablespace", "MultiXact", "RelMap", "Standby", "Heap2",
    "Heap", "Btree", "Hash", "Gin", "Gist", "Sequence", "SPGist", "BRIN", "CommitTs", "ReplicationOrigin", "Generic",
    "LogicalMessage",
)  # fmt: skip

_CUSTOM_MIN: Final = 128


def resource_manager_name(rmid: int) -> str:
    """``10`` -> ``'Heap'``; ``custom130`` for one of an extension, ``unknown42`` for one that nobody has."""
    if rmid < len(_NAMES):
        return _NAMES[rmid]
    return f"{'custom' if rmid >= _CUSTOM_MIN else 'unknown'}{rmid:03d}"
