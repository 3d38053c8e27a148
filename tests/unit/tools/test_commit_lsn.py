"""`walkeeper commit-lsn` over keepers in memory."""

from collections.abc import Sequence

import pytest
import trio

from fake_servers import SEGMENT_BYTES, SYSTEM_ID, FakeKeeper
from walkeeper.errors import ConfigError, Unreachable
from walkeeper.ids import TenantTimelineId
from walkeeper.lsn import Lsn
from walkeeper.testing.wal import WalGenerator
from walkeeper.tools.commit_lsn import read_commit_lsn

START = Lsn(0x1000000)


@pytest.fixture
async def keepers(nursery: trio.Nursery) -> Sequence[FakeKeeper]:
    wal = WalGenerator(START, wal_seg_size=SEGMENT_BYTES, system_id=SYSTEM_ID)
    made = [FakeKeeper() for _ in range(3)]
    for keeper, behind in zip(made, (500, 100, 0), strict=True):
        keeper.keep(wal, Lsn(START + 1000 - behind))
        await nursery.start(keeper.serve)
    return made


async def read(keepers: Sequence[FakeKeeper]) -> Lsn:
    return await read_commit_lsn([keeper.address for keeper in keepers], TenantTimelineId.of_system(SYSTEM_ID))


async def test_it_is_what_a_majority_reports(keepers: Sequence[FakeKeeper]) -> None:
    assert await read(keepers) == START + 900
    keepers[2].exists = False
    assert await read(keepers) == START + 500


async def test_without_a_majority_the_error_names_each_trouble(keepers: Sequence[FakeKeeper]) -> None:
    keepers[0].exists = keepers[2].exists = False
    with pytest.raises(Unreachable) as caught:
        await read(keepers)
    for keeper in (keepers[0], keepers[2]):
        assert str(keeper.address) in str(caught.value)


async def test_a_name_that_no_keeper_knows_is_a_mistake(keepers: Sequence[FakeKeeper]) -> None:
    for keeper in keepers:
        keeper.exists = False
    with pytest.raises(ConfigError):
        await read(keepers)
