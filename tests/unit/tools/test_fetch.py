"""What `walkeeper fetch` knows without asking anybody."""

import subprocess
import sys

import pytest

from walkeeper.errors import ConfigError, NotKept
from walkeeper.tools.fetch import require_wal


@pytest.mark.parametrize("file", ["00000002.history", "0000000100000000000000A3.00000028.backup"])
def test_history_and_backup_files_do_not_exist(file: str) -> None:
    with pytest.raises(NotKept):
        require_wal(file)


@pytest.mark.parametrize(
    "file",
    ["", "PG_VERSION", "../pg_wal/0000000100000000000000A3", "0000000100000000000000A", "00000001.History",
     "0000000100000000000000A3.gz", "0000000100000000FFFFFFFF", "0000000100000000000000A3.backup"],
)  # fmt: skip
def test_what_postgresql_never_asks_for_is_a_mistake(file: str) -> None:
    with pytest.raises(ConfigError):
        require_wal(file)


def test_a_segment_that_was_read_ahead_is_found_without_loading_what_only_connections_need() -> None:
    code = "import sys, walkeeper.daemon.cli, walkeeper.tools.fetch; print(*{m.partition('.')[0] for m in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"trio", "structlog", "msgspec", "scramp", "asyncio", "ssl"}.isdisjoint(loaded)
    assert "walkeeper" in loaded
