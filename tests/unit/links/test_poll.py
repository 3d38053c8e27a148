"""What keepers say of one timeline, asked all at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from fake_servers import SEGMENT_BYTES, SYSTEM_ID, Client, FakeKeeper
from walkeeper.errors import ConfigError
from walkeeper.formats.authentication import AuthenticationCleartextPassword
from walkeeper.formats.backend import BackendMessage, ErrorResponse
from walkeeper.ids import FIRST_TLI, NodeId, TenantTimelineId
from walkeeper.links.address import Address
from walkeeper.links.keeper import ENCRYPT, FAILED, FINAL, TOKEN, Advice, KeptTimeline, connect_keeper
from walkeeper.links.poll import ANSWER_SECONDS, Answer, Poll, Trouble, poll
from walkeeper.links.postgres import Connection
from walkeeper.lsn import Lsn
from walkeeper.membership import majority
from walkeeper.testing.wal import WalGenerator

START = Lsn(0x1000000)
TTID = TenantTimelineId.of_system(SYSTEM_ID)


def result(place: int, commit_lsn: int | None) -> Answer[None] | Trouble:
    address = Address("k", place + 1)
    if commit_lsn is None:
        return Trouble(address, f"{address} is away")
    return Answer(address, KeptTimeline(SYSTEM_ID, FIRST_TLI, Lsn(commit_lsn)), None)


def results(*commit_lsns: int | None) -> Poll[None]:
    return Poll([result(place, lsn) for place, lsn in enumerate(commit_lsns)])


@given(st.lists(st.none() | st.integers(0, 9), min_size=1, max_size=7))
def test_a_majority_of_those_who_were_listed_reports_the_commit_lsn_or_more(reported: list[int | None]) -> None:
    found = results(*reported).commit_lsn
    there = [lsn for lsn in reported if lsn is not None]
    needed = majority(len(reported))
    if len(there) < needed:
        assert found is None
    else:
        assert found is not None
        assert sum(lsn >= found for lsn in there) >= needed
        assert sum(lsn > found for lsn in there) < needed


def test_the_error_for_a_missing_majority_names_every_trouble() -> None:
    text = str(results(7, None, None).missing())
    assert "k:2 is away" in text
    assert "k:3 is away" in text
    assert "2 of 3" in text


# -- over the network ----------------------------------------------------------------------------------------


@dataclass
class Doorkeeper(FakeKeeper):
    """Asks for a token, or answers whoever comes with `refusal`."""

    refusal: BackendMessage | None = None

    async def welcome(self, client: Client) -> None:
        await client.send(self.refusal or AuthenticationCleartextPassword())


@pytest.mark.parametrize(
    ("refusal", "why", "advice"),
    [
        (None, " asks for a token: --auth-token-path", TOKEN),
        (ErrorResponse("JWT authentication error", "XX000"), ": JWT authentication error", TOKEN),
        (
            ErrorResponse("permission denied", "42501"),
            ": permission denied; check the token (--auth-token-path)",
            TOKEN,
        ),
        (ErrorResponse("must connect with TLS", "XX000"), ": must connect with TLS", ENCRYPT),
        (ErrorResponse("No space left", "53100"), ": No space left", FAILED),
        (ErrorResponse("bad", "22023"), ": bad; check the options", FINAL),
    ],
)
async def test_a_keeper_that_does_not_let_us_in_says_what_would_help(
    nursery: trio.Nursery, refusal: BackendMessage | None, why: str, advice: Advice
) -> None:
    keeper = Doorkeeper(refusal=refusal)
    await nursery.start(keeper.serve)
    (trouble,) = (await ask([keeper])).troubles
    assert (trouble.why, trouble.advice) == (f"keeper {keeper.address}{why}", advice)
    assert trouble.advice.is_unseen is (advice in (TOKEN, ENCRYPT))


async def test_what_another_keeper_wants_is_not_told_of_the_one_that_let_us_in(nursery: trio.Nursery) -> None:
    ours, other = FakeKeeper(), Doorkeeper()
    for each in (ours, other):
        await nursery.start(each.serve)
    with pytest.raises(ConfigError, match=f"^keeper {other.address} asks for a token"):
        async with connect_keeper(ours.address, TTID, "test"), connect_keeper(other.address, TTID, "test"):
            raise AssertionError("both let us in")


@pytest.fixture
async def keepers(nursery: trio.Nursery) -> Sequence[FakeKeeper]:
    wal = WalGenerator(START, wal_seg_size=SEGMENT_BYTES, system_id=SYSTEM_ID)
    wal.logical_message("test", bytes(2000))
    made = [FakeKeeper() for _ in range(3)]
    for keeper in made:
        keeper.keep(wal, wal.lsn)
        await nursery.start(keeper.serve)
    return made


async def ask(keepers: Sequence[FakeKeeper], **options: Any) -> Poll[str | None]:
    async def show(connection: Connection) -> str | None:
        ((answer,),) = await connection.query("SHOW wal_segment_size")
        return answer

    return await poll([each.address for each in keepers], TTID, show, application_name="test", **options)


async def test_every_keeper_answers_in_the_order_of_the_list(keepers: Sequence[FakeKeeper]) -> None:
    keepers[1].commit_lsn = START
    found = await ask(keepers)
    assert [each.address for each in found.answers] == [keeper.address for keeper in keepers]
    assert [each.kept.end_lsn for each in found.answers] == [keeper.commit_lsn for keeper in keepers]
    assert {each.told for each in found.answers} == {"1MB"}
    assert found.commit_lsn == found.highest_commit_lsn == keepers[0].commit_lsn


async def test_a_keeper_that_hangs_costs_the_patience_and_no_more(
    autojump_clock: MockClock, keepers: Sequence[FakeKeeper]
) -> None:
    before = trio.current_time()
    with keepers[1].hold():
        found = await ask(keepers, patience_seconds=1.0)
    assert trio.current_time() - before == pytest.approx(1.0, abs=0.5)
    assert found.has_majority
    (trouble,) = found.troubles
    assert trouble.address == keepers[1].address
    assert str(keepers[1].address) in trouble.why


async def test_without_a_majority_nobody_is_waited_for_without_end(
    autojump_clock: MockClock, keepers: Sequence[FakeKeeper]
) -> None:
    before = trio.current_time()
    with keepers[1].hold(), keepers[2].hold():
        found = await ask(keepers, patience_seconds=1.0)
    assert trio.current_time() - before == pytest.approx(ANSWER_SECONDS, abs=0.5)
    assert found.commit_lsn is None


async def test_a_keeper_without_the_timeline_is_no_part_of_a_majority(keepers: Sequence[FakeKeeper]) -> None:
    keepers[0].exists = keepers[1].exists = False
    found = await ask(keepers)
    assert not found.has_majority
    assert not found.is_unknown
    keepers[2].exists = False
    assert (await ask(keepers)).is_unknown


async def test_two_keepers_that_never_heard_of_it_are_enough_to_call_it_unknown(
    autojump_clock: MockClock, keepers: Sequence[FakeKeeper]
) -> None:
    keepers[0].exists = keepers[1].exists = False
    with keepers[2].hold():
        assert (await ask(keepers)).is_unknown
    keepers[1].exists = True
    with keepers[2].hold():
        assert not (await ask(keepers)).is_unknown


async def test_a_question_that_a_keeper_does_not_know_is_its_trouble(keepers: Sequence[FakeKeeper]) -> None:
    keepers[0].answers_show = False
    found = await ask(keepers)
    assert [each.address for each in found.troubles] == [keepers[0].address]


async def test_with_patience_for_it_keepers_that_fail_are_asked_again_until_there_are_enough(
    autojump_clock: MockClock, keepers: Sequence[FakeKeeper], nursery: trio.Nursery
) -> None:
    for keeper in keepers[:2]:
        keeper.answers_show = False

    async def recover() -> None:
        await trio.sleep(20)
        keepers[0].answers_show = True

    nursery.start_soon(recover)
    before = trio.current_time()
    found = await ask(keepers, retry_seconds=60.0)
    assert 20 <= trio.current_time() - before < 25
    assert found.has_majority
    assert [each.address for each in found.troubles] == [keepers[1].address]


async def test_that_patience_has_an_end(autojump_clock: MockClock, keepers: Sequence[FakeKeeper]) -> None:
    before = trio.current_time()
    with keepers[1].hold(), keepers[2].hold():
        found = await ask(keepers, retry_seconds=60.0)
    assert trio.current_time() - before == pytest.approx(60, abs=1)
    assert [each.address for each in found.answers] == [keepers[0].address]


async def test_a_keeper_under_two_names_has_one_voice(
    autojump_clock: MockClock, keepers: Sequence[FakeKeeper]
) -> None:
    """It had two: with another keeper down it was a majority, and WAL that it lacked did not exist."""
    for number, keeper in enumerate(keepers):
        keeper.tells_node_id = True
        keeper.node_id = NodeId(1 if number < 2 else 3)
    found = await ask(keepers)
    assert len(found.answers) == 2
    assert "list it once" in "".join(each.why for each in found.troubles)


async def test_a_keeper_that_refuses_for_good_or_does_not_have_the_timeline_is_asked_once(
    autojump_clock: MockClock, keepers: Sequence[FakeKeeper]
) -> None:
    keepers[1].exists = False

    async def refuse(connection: Connection) -> None:
        raise ConfigError("put it right")

    found = await poll(
        [each.address for each in keepers], TTID, refuse, application_name="test", retry_seconds=60.0
    )
    assert [keeper.queries for keeper in keepers] == [["SHOW walkeeper_node_id", "IDENTIFY_SYSTEM"]] * 3
    assert [each.may_pass for each in found.troubles] == [False] * 3


async def test_whoever_asks_says_how_many_answers_are_enough(
    autojump_clock: MockClock, keepers: Sequence[FakeKeeper]
) -> None:
    before = trio.current_time()
    with keepers[1].hold(), keepers[2].hold():
        found = await ask(keepers, enough=lambda found: bool(found.answers), patience_seconds=0)
    assert trio.current_time() - before < 1
    assert [each.address for each in found.answers] == [keepers[0].address]
