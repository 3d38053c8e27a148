"""A disk that does not answer is noticed, and said to be where it is."""

import io
import math
import re
from datetime import UTC, datetime
from pathlib import Path

import structlog
import trio
import trio.testing

from keeping import SERVER, START, TTID, Leader, new_disk, timelines_on
from walkeeper.acceptor.state import new_control_file
from walkeeper.control.collectors import DiskJobs
from walkeeper.control.health import Check
from walkeeper.daemon.watch import SILENT_SECONDS, TOLD_MAX, WatchedOffload
from walkeeper.membership import NO_CONFIGURATION
from walkeeper.testing.memory_disk import unwatched
from walkeeper.testing.offload import InlineOffload

HANGS_SECONDS = 100.0


def problem(offload: WatchedOffload) -> str:
    [check] = offload.checks()
    return check.problem


def operation(offload: WatchedOffload) -> str:
    """What it is that hangs."""
    found = re.match("no answer to (.*) for ", problem(offload))
    return found[1] if found else ""


class Disk:
    """How long it takes, before and after each operation; and who watches."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.watch = WatchedOffload(InlineOffload(lambda: self.seconds), HANGS_SECONDS)


async def test_a_call_that_runs_too_long_is_a_problem_until_it_ends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = Disk()
    disk.seconds = HANGS_SECONDS
    async with trio.open_nursery() as nursery:
        nursery.start_soon(disk.watch, int, "7")
        await trio.sleep(HANGS_SECONDS - 1)
        assert problem(disk.watch) == ""
        await trio.sleep(2)
        assert disk.watch.jobs() == DiskJobs(1, HANGS_SECONDS + 1)
        assert problem(disk.watch).startswith(f"no answer to int for {HANGS_SECONDS + 1:.0f} s, since ")
    assert problem(disk.watch) == ""
    assert disk.watch.jobs() == DiskJobs(0, 0)


async def test_since_when_is_said_by_the_clock_on_the_wall(autojump_clock: trio.testing.MockClock) -> None:
    disk = Disk()
    disk.seconds = HANGS_SECONDS
    async with trio.open_nursery() as nursery:
        nursery.start_soon(disk.watch, int, "7")
        await trio.sleep(HANGS_SECONDS + 60)
        since = datetime.fromisoformat(problem(disk.watch).rpartition(" since ")[2])
        ago = (datetime.now(UTC) - since).total_seconds()
        assert 0 <= ago - (HANGS_SECONDS + 60) < 30


async def test_whoever_does_not_want_to_know_is_not_told(autojump_clock: trio.testing.MockClock) -> None:
    watch = WatchedOffload(InlineOffload(lambda: 50_000.0), math.inf)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, int, "7")
        await trio.sleep(50_000)
        assert problem(watch) == ""


async def test_many_calls_that_each_end_in_time_are_no_problem(autojump_clock: trio.testing.MockClock) -> None:
    disk = Disk()
    disk.seconds = HANGS_SECONDS / 4
    for _ in range(4):
        assert await disk.watch(int, "7") == 7
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.watch, int, "7")
            await trio.sleep(1)
            assert problem(disk.watch) == ""


async def test_what_the_call_raises_comes_out_and_ends_the_watch(autojump_clock: trio.testing.MockClock) -> None:
    disk = Disk()
    try:
        await disk.watch(int, "seven")
    except ValueError:
        await trio.sleep(2 * HANGS_SECONDS)
    assert trio.current_time() >= 2 * HANGS_SECONDS
    assert problem(disk.watch) == ""


async def test_of_many_that_hang_the_oldest_are_told(autojump_clock: trio.testing.MockClock) -> None:
    disk = Disk()
    disk.seconds = HANGS_SECONDS
    async with trio.open_nursery() as nursery:
        for _ in range(2 * TOLD_MAX):
            nursery.start_soon(disk.watch, int, "7")
        await trio.sleep(HANGS_SECONDS + 1)
        assert len(disk.watch.checks()) == TOLD_MAX


async def test_what_hangs_is_named_with_its_timeline(autojump_clock: trio.testing.MockClock) -> None:
    """All that timelines ask of a disk, as it looks from within: each call is one that hangs here."""
    disk = new_disk()
    watch = WatchedOffload(InlineOffload(), -1.0)
    seen: dict[str, list[str]] = {}

    def see(_operation: str, _path: Path) -> None:
        now.append(operation(watch))

    async with timelines_on(disk, watch) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        leader = Leader(timeline)
        now = seen["elect"] = []
        disk.on_operation = see
        await leader.be_elected()
        now = seen["append"] = []
        await leader.append()
        now = seen["open"] = []
        await timeline.open()
        now = seen["segment"] = []
        with await timeline.open_segment(START) as segment:
            await watch(segment.read, START, 10)
        disk.on_operation = unwatched
    told = {step: list(dict.fromkeys(operations)) for step, operations in seen.items()}
    file = segment.path.name
    save, init, cut = (
        f"{each} of {TTID}" for each in ("persist_control_file", "initialize_first_segment", "truncate_wal")
    )
    assert told == {
        "elect": [save, init, cut],
        "append": [f"write_wal of {TTID}", f"flush_wal of {TTID}"],
        "open": [f"recover of {TTID}"],
        "segment": [f"open_segment of {TTID}", f"read of {TTID}/{file}"],
    }


async def test_a_job_that_waits_for_its_turn_has_not_begun_with_anything(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = Disk()
    async with timelines_on(new_disk(), disk.watch) as timelines:
        leader = Leader(await timelines.create(TTID, SERVER))
        await leader.be_elected()
        disk.seconds = 2 * HANGS_SECONDS
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leader.append)
            await trio.sleep(1.5 * HANGS_SECONDS)
            assert operation(disk.watch) == f"effects of {TTID}"
            disk.seconds = 0.0


class Directory:
    """Something that is asked for a timeline and is no part of it."""

    def take(self, _what: object) -> None:
        """Do nothing with it."""


async def test_a_timeline_that_is_being_made_or_removed_is_named_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk, seen = Disk(), []
    disk.seconds = HANGS_SECONDS
    control_file = new_control_file(TTID, SERVER, (0, 0), configuration=NO_CONFIGURATION)
    for argument in (control_file, TTID):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.watch, Directory().take, argument)
            await trio.sleep(1.5 * HANGS_SECONDS)
            seen.append(operation(disk.watch))
    assert seen == [f"take of {TTID}", f"take of {TTID}"]
    assert disk.watch.checks() == [Check("disk")]


async def test_what_was_slow_and_what_does_not_answer_is_told_once_of_each(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = Disk()
    with structlog.testing.capture_logs() as logs:
        await disk.watch(int, "7")
        disk.watch.tell_of_silence()
        assert logs == []
        disk.seconds = 3 * SILENT_SECONDS
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.watch, int, "7")
            await trio.sleep(SILENT_SECONDS + 1)
            nursery.start_soon(disk.watch, float, "7")
            for _ in range(3):
                disk.watch.tell_of_silence()
            assert [(line["event"], line["operation"]) for line in logs] == [("the disk does not answer", "int")]
            await trio.sleep(SILENT_SECONDS + 1)
            disk.watch.tell_of_silence()
            assert logs[1]["operation"] == "float"
    assert [(line["event"], line["operation"]) for line in logs[2:]] == [
        ("the disk was slow", "int"), ("the disk was slow", "float"),
    ]  # fmt: skip


async def test_a_log_that_cannot_be_written_does_not_undo_what_the_disk_has_done(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = Disk()
    disk.seconds = 2 * SILENT_SECONDS
    gone = io.StringIO()
    gone.close()
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(gone))
    try:
        assert await disk.watch(int, "7") == 7
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.watch, int, "7")
            await trio.sleep(SILENT_SECONDS + 1)
            disk.watch.tell_of_silence()
    finally:
        structlog.reset_defaults()
