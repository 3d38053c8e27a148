"""What the primary hears, and what it does not while it does not read."""

from collections.abc import AsyncIterator

import pytest
import trio

from fake_servers import FakePrimary, until
from walkeeper.formats.commands import encode_start_replication
from walkeeper.links.conninfo import ConnectionInfo, SslMode
from walkeeper.links.postgres import Connection
from walkeeper.links.primary import connect_primary
from walkeeper.lsn import Lsn
from walkeeper.messages import HotStandbyFeedback
from walkeeper.sidecar.reports import Reports

UNKNOWN_MESSAGE = bytes(100_000)  # of a kind that servers ignore


@pytest.fixture
async def primary(nursery: trio.Nursery) -> FakePrimary:
    primary = FakePrimary()
    await nursery.start(primary.serve)
    return primary


@pytest.fixture
async def connection(primary: FakePrimary) -> AsyncIterator[Connection]:
    info = ConnectionInfo("127.0.0.1", primary.port, sslmode=SslMode.DISABLE)
    async with connect_primary(info, "walkeeper") as connection:
        await connection.start_copy(encode_start_replication(primary.wal.lsn))
        yield connection


def congest(connection: Connection) -> int:
    """Send more than the kernel takes at once; returns how much waits."""
    while not connection.link.pending_bytes:
        connection.send_copy_soon(UNKNOWN_MESSAGE)
    return connection.link.pending_bytes


async def test_a_primary_that_does_not_read_piles_up_no_reports(
    primary: FakePrimary, connection: Connection
) -> None:
    reports = Reports(connection)
    pending = congest(connection)
    for lsn in range(1000):
        reports.status(Lsn(lsn))
        reports.hot_standby(HotStandbyFeedback(0, lsn))
    assert connection.link.pending_bytes == pending
    await connection.wait_sent()
    reports.status(Lsn(1000))
    await until(lambda: primary.confirmed_lsn == 1000)
    assert primary.statuses == 1


async def test_what_standbys_need_is_told_later_if_it_could_not_be_told_at_once(
    primary: FakePrimary, connection: Connection
) -> None:
    reports = Reports(connection)
    congest(connection)
    reports.hot_standby(HotStandbyFeedback(0, 30))
    await connection.wait_sent()
    for xmin in (30, 30, 40):
        reports.hot_standby(HotStandbyFeedback(0, xmin))
    await until(lambda: len(primary.heard_needs) == 2)
    assert primary.heard_needs == [(30, 0), (40, 0)]
