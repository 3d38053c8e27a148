"""Fixtures: a throw-away directory and PostgreSQL servers in it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import postgres

NewCluster = Callable[[str], postgres.Cluster]


@pytest.fixture(scope="session")
def pg_binaries() -> postgres.Binaries:
    """PostgreSQL's programs.  A machine without them fails the test: these tests are never skipped."""
    return postgres.find_binaries()


@pytest.fixture
def work_directory() -> Iterator[Path]:
    """A short, throw-away directory that the account of PostgreSQL can pass through (tmp_path is neither)."""
    with postgres.workspace() as path:
        yield path


@pytest.fixture
def new_cluster(work_directory: Path, pg_binaries: postgres.Binaries) -> Iterator[NewCluster]:
    """Make named clusters; none has a data directory yet, and all are destroyed in the end."""
    with ExitStack() as stack:

        def make(name: str) -> postgres.Cluster:
            return stack.enter_context(postgres.Cluster.prepare(work_directory / name, pg_binaries))

        yield make


@pytest.fixture
def pg(new_cluster: NewCluster) -> postgres.Cluster:
    """A running primary with PostgreSQL's own defaults, apart from where it listens."""
    cluster = new_cluster("primary")
    cluster.initdb()
    cluster.start()
    return cluster
