"""Fixtures: a primary, a sidecar and three keepers, all running."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fix_postgres import NewCluster
from replicated import Replicated

READER_SECONDS_MAX = 6
"""How long keepers put up with readers that neither read nor speak."""


@pytest.fixture
def scene(work_directory: Path, new_cluster: NewCluster) -> Iterator[Replicated]:
    """Everything runs, and commits wait for two of three keepers.  Segments of 1 MiB, all of which the primary keeps."""
    primary = new_cluster("primary")
    primary.initdb(segment_mib=1)
    primary.configure(max_slot_wal_keep_size="1GB", wal_keep_size="1GB", max_wal_size="2GB", autovacuum="off")
    primary.start()
    with ExitStack() as stack:
        yield Replicated.begin(
            work_directory, primary, stack, keeper_flags=["--wal-sender-timeout", f"{READER_SECONDS_MAX}s"]
        )
