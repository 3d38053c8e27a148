"""TLS to keepers: what is demanded at the start, and what comes of one that cannot be had later."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from certified import Pki
from fake_servers import FakeKeeper
from keeping import TTID
from walkeeper.errors import ConfigError, Unreachable
from walkeeper.links.conninfo import SslMode
from walkeeper.links.keeper import connect_keeper
from walkeeper.links.keeper_tls import KeeperTls, demand_tls, keeper_tls


@pytest.fixture(autouse=True)
def _nothing_demanded() -> Iterator[None]:
    before = keeper_tls.get()
    yield
    keeper_tls.set(before)


async def reach() -> str:
    """Why a keeper without TLS cannot be reached; empty if it can."""
    async with trio.open_nursery() as nursery:
        keeper = FakeKeeper()
        await nursery.start(keeper.serve)
        why = ""
        try:
            async with connect_keeper(keeper.address, TTID, "test"):
                pass
        except Unreachable as error:
            why = error.why
        nursery.cancel_scope.cancel()
    return why


async def test_a_keeper_without_tls_will_do_unless_it_is_demanded() -> None:
    assert await reach() == ""
    demand_tls(KeeperTls(SslMode.REQUIRE))
    assert "does not offer TLS" in await reach()


def test_files_that_cannot_be_used_are_told_at_the_start(tmp_path: Path) -> None:
    for demanded in (
        KeeperTls(SslMode.VERIFY_FULL),
        KeeperTls(SslMode.VERIFY_FULL, str(tmp_path / "nowhere")),
        KeeperTls(SslMode.REQUIRE, sslcert=str(tmp_path / "nowhere")),
    ):
        with pytest.raises(ConfigError):
            demand_tls(demanded)
    assert keeper_tls.get() == KeeperTls()


async def test_a_file_that_is_gone_later_is_no_reason_to_end(tmp_path: Path) -> None:
    pki = Pki.begin(tmp_path)
    certificate, key = pki.issue_client()
    demand_tls(KeeperTls(SslMode.VERIFY_FULL, str(pki.root), str(certificate), str(key)))
    assert "does not offer TLS" in await reach()
