"""The overview: bounded however much there is, with an explanation for whatever is wrong."""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, cast

import httpx2
import msgspec
import pytest
import trio

from managed import NODE, client_of
from shown_metrics import TTID, a_sender, a_shut_timeline, an_open_timeline
from walkeeper.control import diagnosis
from walkeeper.control.api import ManagementApi
from walkeeper.control.app import create_app
from walkeeper.control.dump import KeeperConfig
from walkeeper.control.events import EVENTS_MAX, Events
from walkeeper.control.health import HEARD, Check, Readiness
from walkeeper.control.http1 import HttpConnection
from walkeeper.control.looks import WATCHERS_MAX, Looks, Surroundings
from walkeeper.control.overview import SHOWN_MAX, STREAMS_MAX, OverviewJson, describe, look_at_timelines
from walkeeper.control.page import page_route
from walkeeper.errors import Corrupt
from walkeeper.ids import TenantId, TenantTimelineId, TimelineId
from walkeeper.links.link import Link
from walkeeper.links.overview import PATH
from walkeeper.lsn import Lsn
from walkeeper.testing.network import MemoryNetwork
from walkeeper.timeline.room import Room
from walkeeper.timeline.timeline import TimelineStatistics
from walkeeper.timeline.timelines import Timelines

MANUAL = Path(__file__).parents[3] / "docs" / "operations.md"


class Looked:
    """A timeline that can only be looked at."""

    def __init__(self, statistics: TimelineStatistics) -> None:
        self.ttid = statistics.ttid
        self.is_closing = False
        self._statistics = statistics

    def statistics(self) -> TimelineStatistics:
        return self._statistics


class ManyTimelines:
    """What an overview asks of ``Timelines``."""

    def __init__(self, *statistics: TimelineStatistics, shut: int = 0) -> None:
        self.room = Room()
        self._all = [Looked(each) for each in statistics]
        self._shut = {numbered(9_000_000 + number): Corrupt("its control file") for number in range(shut)}

    def all(self) -> Sequence[Looked]:
        return self._all

    def shut(self) -> dict[TenantTimelineId, Corrupt]:
        return self._shut


def numbered(number: int) -> TenantTimelineId:
    return TenantTimelineId(TenantId(number.to_bytes(16, "big")), TimelineId(b"l" * 16))


def idle(number: int) -> TimelineStatistics:
    shown = an_open_timeline()
    account = replace(shown.account, fuses_blown=0)
    return replace(
        shown, ttid=numbered(number), receivers=(), account=account, pageserver=None, is_corruption_reported=False
    )


def looks_at(timelines: ManyTimelines, **around: Any) -> Looks:
    looks = Looks(Surroundings(KeeperConfig(id=NODE), **around))
    looks.begin(cast("Timelines", timelines))
    return looks


async def overview_of(looks: Looks, find: str = "") -> OverviewJson:
    return msgspec.json.decode(await looks.look(find, is_alone=True), type=OverviewJson)


async def test_of_thousands_of_timelines_those_that_matter_are_told_and_all_are_counted() -> None:
    troubled = replace(a_shut_timeline(), ttid=numbered(4_711))
    timelines = ManyTimelines(*map(idle, range(5_000)), troubled, shut=2)
    overview = await overview_of(looks_at(timelines))
    assert len(overview.timelines) == SHOWN_MAX
    assert [each.standing for each in overview.timelines[:4]] == ["shut", "shut", "blown", "open"]
    assert (overview.totals.timelines, overview.totals.shut, overview.totals.troubled) == (5_003, 2, 3)
    assert len(msgspec.json.encode(overview)) < 256 * 1024


async def test_what_is_looked_for_is_found_among_thousands() -> None:
    looks = looks_at(ManyTimelines(*map(idle, range(5_000))))
    wanted = str(numbered(4_321).tenant_id)
    overview = await overview_of(looks, wanted[-4:])
    assert wanted in {each.tenant_id for each in overview.timelines}
    assert overview.totals.found == len(overview.timelines) < SHOWN_MAX
    assert (await overview_of(looks, "ffffffffffff")).timelines == []


async def test_the_streams_of_one_timeline_are_bounded_too() -> None:
    statistics = replace(an_open_timeline(), senders=tuple(a_sender(f"{'n' * 500}{one}") for one in range(500)))
    shown = describe(statistics, 0.0, is_closing=False)
    assert (len(shown.senders), shown.senders_count) == (STREAMS_MAX, 500)
    assert max(len(each.application_name or "") for each in shown.senders) == 63


async def test_looking_lets_others_run() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await look_at_timelines(cast("Timelines", ManyTimelines(*map(idle, range(1_000)))), "")
        nursery.cancel_scope.cancel(reason="seen")
    assert turns >= 8


async def test_however_many_look_the_timelines_are_looked_at_once(autojump_clock: trio.testing.MockClock) -> None:
    looks = looks_at(ManyTimelines(idle(1)))
    first = await looks.look("", is_alone=True)
    assert await looks.look("", is_alone=True) is first
    await trio.sleep(1)
    assert await looks.look("", is_alone=True) is not first


def waiting(seconds: float) -> TimelineStatistics:
    shown = an_open_timeline()
    assert shown.state is not None
    state = replace(shown.state, ahead=replace(shown.state.ahead, commit_lsn=Lsn(0x700)))
    return replace(shown, state=state, account=replace(shown.account, waits_since=1000.0 - seconds))


@pytest.mark.parametrize(("seconds", "level"), [(1, None), (5, "amber"), (11, "red")])
def test_commits_that_wait_are_red_after_a_while_and_say_why(seconds: float, level: str | None) -> None:
    shown = describe(waiting(seconds), 1000.0, is_closing=False)
    assert (shown.behind_bytes, shown.behind_seconds) == (0x100, seconds)
    found = [each for each in shown.problems if each.cell == "behind"]
    assert [each.level for each in found] == ([] if level is None else [level])


@pytest.mark.parametrize(("name", "advice"), [("caught up", "A writer"), (HEARD, "the network between")])
def test_what_can_be_done_for_readiness_is_said_by_what_is_missing(name: str, advice: str) -> None:
    (problem,) = diagnosis.of_keeper(
        [Check("caught up", "not yet"), Check(name, "1 of 3")],
        [],
        state="serving",
        loop_lag_seconds=0.0,
        flush_seconds=0.0,
        no_sync=False,
        room=None,
    )
    assert advice in problem.advice


def every_problem() -> list[diagnosis.Problem]:
    room = Room()
    room.is_refusing = True
    keeper: dict[str, Any] = {"loop_lag_seconds": 2.0, "flush_seconds": 20.0, "no_sync": True, "room": room}
    failing = [Check("disk", "no answer")]
    statistics = replace(an_open_timeline(), is_corruption_reported=True, is_over_limit=True)
    sender = a_sender("x")
    found = [
        *diagnosis.of_keeper(failing, failing, state="starting", **keeper),
        *diagnosis.of_keeper(failing, failing, state="serving", **keeper),
        *diagnosis.of_keeper(failing, failing, state="leaving", **keeper),
        *diagnosis.of_keeper(failing, failing, state="draining", **keeper),
        diagnosis.of_shut_timeline("x"),
        *diagnosis.of_timeline(statistics, is_closing=False, behind_bytes=1, behind_seconds=20),
        *diagnosis.of_timeline(a_shut_timeline(), is_closing=False, behind_bytes=1, behind_seconds=20),
        *diagnosis.of_timeline(a_shut_timeline(), is_closing=True, behind_bytes=0, behind_seconds=0),
        diagnosis.of_sender(sender, diagnosis.READER_LAG_BYTES + 1),
        diagnosis.of_sender(sender, diagnosis.READER_LAG_BYTES),
        diagnosis.of_silent_peer("x"),
        diagnosis.of_closed_peer("x"),
        diagnosis.of_twin(1),
    ]
    return [each for each in found if each is not None]


def test_every_explanation_names_a_section_of_the_manual() -> None:
    headings = set(re.findall(r"^##+ (.*)$", MANUAL.read_text(), re.MULTILINE))
    problems = every_problem()
    assert {each.see for each in problems} <= headings
    assert all(each.what and each.advice for each in problems)
    assert len(problems) >= 19


async def test_a_keeper_that_is_not_ready_says_what_it_waits_for_before_timelines_are_loaded() -> None:
    around = Surroundings(KeeperConfig(id=NODE), Readiness("timelines read from disk"))
    overview = await overview_of(Looks(around))
    assert not overview.keeper.is_ready
    assert "timelines read from disk" in overview.keeper.problems[0].what


# -- events ---------------------------------------------------------------------------------------------------


def test_events_are_the_last_few_lines_that_matter_and_only_harmless_fields_of_them() -> None:
    events = Events()
    for number in range(3 * EVENTS_MAX):
        events.note({"event": "timeline created", "level": "info", "ttid": TTID, "term": number})
    events.note({"event": "request begins", "level": "info"})
    events.note({"event": "access denied", "level": "warning", "why": "its key", "token": "x", "peer": "p" * 999})
    newest, *others = events.latest()
    assert len(others) == EVENTS_MAX - 1
    assert (newest.text, set(newest.fields)) == ("access denied", {"peer"})
    assert len(newest.fields["peer"]) < 310
    assert (others[0].number, others[0].fields, others[0].ttid) == (300, {"term": "299"}, str(TTID))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"event": "users reloaded", "users": 3}, {}),
        (
            {"event": "certificate reloaded", "subject": "CN=k1", "expires": "2027"},
            {"subject": "CN=k1", "expires": "2027"},
        ),
        ({"event": "reloaded", "what": ["keys", "users"]}, {"what": "keys, users"}),
        (
            {"event": "the disk was slow", "level": "warning", "operation": "fsync", "seconds": 2.5},
            {"operation": "fsync", "seconds": "2.5"},
        ),
        (
            {"event": "a step of the event loop was slow", "level": "warning", "task": "connection"},
            {"task": "connection"},
        ),
        ({"event": "the disk fills up", "level": "warning", "free_bytes": 7}, {"free_bytes": "7"}),
    ],
)
def test_an_event_says_which(line: dict[str, Any], told: dict[str, str]) -> None:
    events = Events()
    events.note(line)
    assert [each.fields for each in events.latest()] == [told]


# -- over HTTP ------------------------------------------------------------------------------------------------


async def answer_to(target: str, looks: Looks | None = None) -> httpx2.Response:
    api = ManagementApi(KeeperConfig(id=NODE), looks=looks)
    async with client_of(create_app([page_route(), *api.routes()])) as client:
        return await client.get(target)


@pytest.mark.parametrize("find", ["<b>", "x" * 3, "a" * 66, "find%26"])
async def test_what_can_be_no_part_of_a_name_is_refused(find: str) -> None:
    assert (await answer_to(f"{PATH}?find={find}")).status_code == 400


async def test_the_page_forbids_itself_everything_but_its_own_parts() -> None:
    answer = await answer_to("/")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", re.sub(r"(?s)<script>.*?</script>", "", answer.text))


async def test_there_is_no_place_for_one_watcher_too_many() -> None:
    looks = looks_at(ManyTimelines())
    with ExitStack() as stack:
        for _ in range(WATCHERS_MAX):
            stack.enter_context(looks.watching())
        answer = await answer_to(f"{PATH}?watch=true", looks)
    assert (answer.status_code, str(WATCHERS_MAX) in answer.json()["msg"]) == (503, True)


@asynccontextmanager
async def watched(looks: Looks) -> AsyncIterator[Link]:
    """A client that has asked to watch; it is served as every client is."""
    network = MemoryNetwork(Random(1))
    listener = network.host("keeper").listen()
    link = await network.connect(network.host("browser"), network.host("keeper"))
    there, _ = await listener.accept()
    app = create_app(ManagementApi(KeeperConfig(id=NODE), looks=looks).routes())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(HttpConnection(app, there).serve)  # noqa: ASYNC113 - it waits for what the test sends
        link.send_soon(f"GET {PATH}?watch=true HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        yield link
        await link.aclose()


async def watchers_of(looks: Looks) -> int:
    await trio.sleep(1)  # no look is older then
    return (await overview_of(looks)).keeper.watchers


async def test_a_watcher_is_told_every_second_until_it_leaves(autojump_clock: trio.testing.MockClock) -> None:
    looks, heard = looks_at(ManyTimelines(idle(1))), b""
    async with watched(looks) as link:
        with trio.move_on_after(4.5):
            while True:
                heard += await link.receive()
        assert await watchers_of(looks) == 1
    assert 4 <= len(re.findall(rb"(?m)^data: {.*}$", heard)) <= 6
    assert await watchers_of(looks) == 0


async def test_a_watcher_that_does_not_read_is_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    looks = looks_at(ManyTimelines(*map(idle, range(SHOWN_MAX))))
    async with watched(looks) as link:
        assert await watchers_of(looks) == 1
        await trio.sleep(30)  # that is, until its window is full
        assert await watchers_of(looks) == 0
        with trio.fail_after(1):
            while await link.receive():
                pass
