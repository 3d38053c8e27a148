"""What keepers say of themselves: whether they are whole."""

from dataclasses import dataclass

import pytest
import trio

from fake_servers import SEGMENT_BYTES, SYSTEM_ID, Client, FakeKeeper
from walkeeper.errors import Malformed, ServerError
from walkeeper.ids import TenantTimelineId
from walkeeper.links.keeper import ask_standing, connect_keeper, identify
from walkeeper.messages import ServerInfo


@dataclass
class OddKeeper(FakeKeeper):
    """Has a timeline, and answers the question about its standing with ``words``, or an error of ``sqlstate``."""

    words: str = ""
    sqlstate: str = ""

    def __post_init__(self) -> None:
        self.exists, self.server = True, ServerInfo(150005, SYSTEM_ID, SEGMENT_BYTES)

    async def answer(self, client: Client, text: str) -> None:
        if text != "SHOW walkeeper_standing":
            await super().answer(client, text)
        elif self.sqlstate:
            await client.fail(self.sqlstate, "no")
        else:
            await client.answer(self.words)


async def standing_of(keeper: FakeKeeper, nursery: trio.Nursery) -> bool | None:
    await nursery.start(keeper.serve)
    async with connect_keeper(keeper.address, TenantTimelineId.of_system(SYSTEM_ID), "test") as connection:
        return await ask_standing(connection, await identify(connection))


@pytest.mark.parametrize(("words", "is_whole"), [("whole", True), ("incomplete", False)])
async def test_a_keeper_says_whether_it_is_whole(words: str, is_whole: bool, nursery: trio.Nursery) -> None:
    assert await standing_of(OddKeeper(words=words), nursery) is is_whole


async def test_a_keeper_without_the_timeline_is_not_whole(nursery: trio.Nursery) -> None:
    assert await standing_of(FakeKeeper(), nursery) is False


@pytest.mark.parametrize("sqlstate", ["42601", "XX000"])
async def test_a_keeper_that_does_not_know_the_question_has_not_answered_it(
    sqlstate: str, nursery: trio.Nursery
) -> None:
    assert await standing_of(OddKeeper(sqlstate=sqlstate), nursery) is None


async def test_a_keeper_that_cannot_answer_now_is_asked_another_time(nursery: trio.Nursery) -> None:
    with pytest.raises(ServerError):
        await standing_of(OddKeeper(sqlstate="57P03"), nursery)


async def test_any_other_standing_is_malformed(nursery: trio.Nursery) -> None:
    with pytest.raises(Malformed):
        await standing_of(OddKeeper(words="broken"), nursery)
