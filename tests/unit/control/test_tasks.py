"""Every task, and where it waits."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import structlog
import trio
from trio.testing import wait_all_tasks_blocked

from walkeeper.control import tasks
from walkeeper.control.models import TaskJson, TasksJson
from walkeeper.control.tasks import FRAMES_MAX, as_text, describe_tasks

SECRET = "the-password"


async def wait_deep(event: trio.Event, password: str, depth: int) -> None:
    if depth:
        await wait_deep(event, password, depth - 1)
    else:
        await event.wait()
    assert password


async def ticks(event: trio.Event) -> AsyncGenerator[int]:  # noqa: ASYNC900  such frames are what is looked at
    await event.wait()
    yield 1


async def iterate(event: trio.Event) -> None:
    async with aclosing(ticks(event)) as iterator:
        async for _ in iterator:
            pass


@asynccontextmanager
async def running(*started: tuple[str, int]) -> AsyncIterator[TasksJson]:
    """What is told while these tasks wait at these depths."""
    event = trio.Event()
    async with trio.open_nursery() as nursery:
        for name, depth in started:
            nursery.start_soon(wait_deep, event, SECRET, depth, name=name)
        nursery.start_soon(iterate, event, name="iterates")
        await wait_all_tasks_blocked()
        yield describe_tasks()
        event.set()


def named(found: TasksJson, name: str) -> TaskJson:
    (task,) = (each for each in found.tasks if each.name == name)
    return task


async def test_a_task_is_told_with_where_it_waits_from_the_outermost_frame_in() -> None:
    async with running(("patient", 2)) as found:
        task = named(found, "patient")
    names = [frame.split()[-1] for frame in task.frames]
    assert names[:4] == ["wait_deep", "wait_deep", "wait_deep", "Event.wait"]
    assert task.frames[0].split(":")[0].endswith("test_tasks")
    assert not found.is_cut


async def test_what_waits_in_an_asynchronous_generator_is_seen_through_it() -> None:
    async with running() as found:
        names = [frame.split()[-1] for frame in named(found, "iterates").frames]
    assert names[:3] == ["iterate", "ticks", "Event.wait"]


async def test_tasks_come_behind_whoever_started_them_and_deeper() -> None:
    async with running(("one", 0), ("two", 0)) as found:
        order = [each.name for each in found.tasks]
        parent = next(
            each for each in found.tasks if "test_tasks_come_behind" in " ".join(each.frames) or each.depth == 0
        )
    assert order.index("iterates") < order.index("one") < order.index("two")
    assert named(found, "one").depth > parent.depth


async def test_a_task_has_the_marks_of_its_log_lines_and_nobodys_secrets() -> None:
    with structlog.contextvars.bound_contextvars(connection=7, ttid="t/l"):
        async with running(("marked", 1)) as found:
            text = as_text(found)
    assert named(found, "marked").marks == {"connection": "7", "ttid": "t/l"}
    assert "marked connection=7 ttid=t/l" in text
    assert SECRET not in text


async def test_a_task_that_waits_deep_down_is_told_by_its_innermost_frames() -> None:
    async with running(("deep", 2 * FRAMES_MAX)) as found:
        frames = named(found, "deep").frames
    assert len(frames) == FRAMES_MAX
    assert not frames[-1].endswith("wait_deep")


async def test_of_too_many_tasks_some_are_told_and_that_there_are_more() -> None:
    many = [(f"task {number}", 0) for number in range(tasks.TASKS_MAX)]
    async with running(*many) as found:
        assert (len(found.tasks), found.is_cut) == (tasks.TASKS_MAX, True)
        assert as_text(found).endswith("(and more)")
