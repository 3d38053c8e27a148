"""Whether a segment exists: who has to say so."""

from dataclasses import replace
from pathlib import Path

import pytest

from walkeeper.errors import ConfigError, NotKept
from walkeeper.formats.segments import segment_name
from walkeeper.ids import FIRST_TLI, TenantTimelineId, TimelineNumber
from walkeeper.links.address import Address
from walkeeper.links.keeper import KeptTimeline
from walkeeper.links.poll import Answer, Poll, Trouble
from walkeeper.lsn import Lsn
from walkeeper.messages import ServerInfo
from walkeeper.tools.fetch_config import FetchConfig
from walkeeper.tools.fetch_search import Search

SIZE = 1 << 20
SERVER = ServerInfo(150005, 0, SIZE)
SYSTEM_ID = 77
BEGIN, END = Lsn(5 * SIZE), Lsn(6 * SIZE)
KEEPERS = tuple(Address("k", port) for port in (1, 2, 3))
NAME = segment_name(1, 5, SIZE)


def config(file: str = NAME) -> FetchConfig:
    ttid = TenantTimelineId.of_system(SYSTEM_ID)
    return FetchConfig(
        KEEPERS, ttid, file, Path("got"), server=None, system_id=None, ahead_bytes=0, may_be_unfinished=True,
        timeout_seconds=1.0,
    )  # fmt: skip


def answer(
    place: int, lsn: int, tli: TimelineNumber = FIRST_TLI, system_id: int = SYSTEM_ID, server: ServerInfo = SERVER
) -> Answer[ServerInfo]:
    return Answer(KEEPERS[place], KeptTimeline(system_id, tli, Lsn(lsn)), server)


def away(place: int, *, is_ignorant: bool = False) -> Trouble:
    return Trouble(KEEPERS[place], f"{KEEPERS[place]} is away", is_ignorant)


def found(*lsns: int | None) -> Poll[ServerInfo]:
    return Poll([away(place) if lsn is None else answer(place, lsn) for place, lsn in enumerate(lsns)])


def test_a_segment_ends_where_the_wal_of_a_majority_does() -> None:
    wanted = Search(config()).look(found(BEGIN + 100, BEGIN + 100, None))
    assert wanted is not None
    assert (wanted.begin_lsn, wanted.stop_lsn, wanted.end_lsn) == (BEGIN, BEGIN + 100, END)
    whole = Search(config()).look(found(END + 100, END + 200, END))
    assert whole is not None
    assert whole.stop_lsn == END


def test_the_keepers_that_know_of_most_are_asked_first() -> None:
    wanted = Search(config()).look(found(END, BEGIN + 5, END + 100))
    assert wanted is not None
    assert [each.address for each in wanted.sources] == [KEEPERS[2], KEEPERS[0], KEEPERS[1]]


def test_a_keeper_that_is_away_has_not_said_that_it_has_nothing() -> None:
    for is_ignorant, silent in [(False, [KEEPERS[2]]), (True, [])]:
        wanted = Search(config()).look(Poll([answer(0, END), answer(1, END), away(2, is_ignorant=is_ignorant)]))
        assert wanted is not None
        assert [each.address for each in wanted.silent] == silent


def test_a_segment_behind_the_end_does_not_exist() -> None:
    for lsn in (BEGIN, BEGIN - 1, 1):
        with pytest.raises(NotKept):
            Search(config()).look(found(lsn, lsn, None))


def test_nothing_can_be_told_without_a_majority() -> None:
    search = Search(config())
    assert search.look(found(END, None, None)) is None
    assert "k:2 is away" in str(search.why)
    assert Search(config()).look(Poll([answer(0, BEGIN), away(1, is_ignorant=True), away(2)])) is None


@pytest.mark.parametrize("behind", [BEGIN + 50, BEGIN, BEGIN - SIZE])
def test_an_end_of_which_one_keeper_knows_better_is_none(behind: int) -> None:
    search = Search(config())
    for _ in range(3):
        assert search.look(found(BEGIN + 100, behind, None)) is None
    assert "walkeeper sync" in str(search.why)
    wanted = search.look(found(BEGIN + 100, BEGIN + 100, None))
    assert wanted is not None
    assert wanted.stop_lsn == BEGIN + 100


def test_what_a_keeper_hears_of_while_the_others_are_waited_for_need_not_be_waited_for() -> None:
    search = Search(config())
    assert search.look(found(BEGIN + 100, BEGIN, None)) is None
    wanted = search.look(found(BEGIN + 300, BEGIN + 200, None))
    assert wanted is not None
    assert wanted.stop_lsn == BEGIN + 200


def test_a_later_end_does_not_matter_for_a_whole_segment() -> None:
    assert Search(config()).look(found(END + 9 * SIZE, END, None)) is not None


def test_another_timeline_id_of_postgresql_does_not_exist() -> None:
    with pytest.raises(NotKept):
        Search(config(segment_name(2, 5, SIZE))).look(found(END, END, END))


def test_nothing_can_be_told_while_nothing_is_committed() -> None:
    assert Search(config()).look(found(0, 0, None)) is None


def test_a_timeline_that_nobody_knows_is_a_mistake() -> None:
    with pytest.raises(ConfigError):
        Search(config()).look(Poll([away(0, is_ignorant=True), away(1, is_ignorant=True), away(2)]))


@pytest.mark.parametrize(
    "other",
    [
        answer(1, END, system_id=78),
        answer(1, END, tli=TimelineNumber(2)),
        answer(1, END, server=replace(SERVER, pg_version=160001)),
        answer(1, END, server=replace(SERVER, wal_seg_size=2 * SIZE)),
    ],
)
def test_keepers_that_contradict_each_other_are_not_believed(other: Answer[ServerInfo]) -> None:
    with pytest.raises(ConfigError):
        Search(config()).look(Poll([answer(0, END), other, away(2)]))


def test_keepers_of_another_cluster_than_was_said_are_refused() -> None:
    with pytest.raises(ConfigError):
        Search(replace(config(), system_id=78)).look(found(END, END, END))


def test_minor_versions_may_differ_and_a_system_id_may_be_unknown() -> None:
    others = answer(1, END, server=replace(SERVER, pg_version=150011)), answer(2, END, system_id=0)
    wanted = Search(config()).look(Poll([answer(0, END), *others]))
    assert wanted is not None
    assert wanted.server == replace(SERVER, system_id=SYSTEM_ID)


def test_a_name_that_fits_no_segment_of_this_size_is_a_mistake() -> None:
    large = replace(SERVER, wal_seg_size=1 << 30)
    answers = [answer(place, 1 << 40, server=large) for place in range(3)]
    with pytest.raises(ConfigError):
        Search(config(segment_name(1, 5, SIZE))).look(Poll(answers))


def test_an_unfinished_segment_may_be_wanted_by_its_own_name_only() -> None:
    partial = NAME + ".partial"
    unfinished, finished = found(END - 1, END - 1, END - 1), found(END, END, END)
    for file, may_be, poll, exists in [
        (NAME, True, unfinished, True), (NAME, False, unfinished, False), (NAME, False, finished, True),
        (partial, True, unfinished, True), (partial, False, unfinished, True), (partial, True, finished, False),
    ]:  # fmt: skip
        search = Search(replace(config(file), may_be_unfinished=may_be))
        if exists:
            assert search.look(poll) is not None
        else:
            with pytest.raises(NotKept):
                search.look(poll)
