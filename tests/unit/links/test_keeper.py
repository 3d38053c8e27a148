"""Where keepers are, and what they say of themselves."""

from dataclasses import dataclass

import pytest
import trio

from fake_servers import SEGMENT_BYTES, SYSTEM_ID, Client, FakeKeeper
from walkeeper.errors import Malformed, ServerError
from walkeeper.ids import TenantTimelineId
from walkeeper.links.address import Address
from walkeeper.links.keeper import ask_standing, connect_keeper, identify, parse_keepers
from walkeeper.messages import ServerInfo


def test_keepers_are_listed_with_commas_and_have_a_default_port() -> None:
    assert parse_keepers("a:5455, b,[::1]:5456,[2001:db8::1]") == (
        Address("a", 5455),
        Address("b", 5454),
        Address("::1", 5456),
        Address("2001:db8::1", 5454),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a,",
        "a:0",
        "a:65536",
        "a:port",
        ":5454",
        "[::1",
        "[::1]5454",
        "::1",
        "a:1,b:1,a:1",
        ",".join(f"k{n}" for n in range(32)),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_keepers(text)


def test_an_address_prints_as_it_is_written() -> None:
    assert [str(each) for each in parse_keepers("a:1,[::1]:2")] == ["a:1", "[::1]:2"]


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
