"""Every task there is, and where each of them waits: for whoever wonders why something does not move.

A task is told by its name, by what its log lines are marked with (connection, timeline), and by its coroutines from the
outermost in: module, line and function.  No local variable is looked at: it may be WAL, or a password.

Rules: bounded in tasks and in depth, and quick (some ten microseconds a task), since nothing else runs meanwhile.
Changes nothing.  Source: Trio's ``trio.lowlevel``; PEP 492 and 525 for how coroutines wait for each other.
"""

import gc
from collections.abc import Iterator
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any, Final

import trio

from walkeeper.control.models import TaskJson, TasksJson

TASKS_MAX: Final = 2000
"""Some 50 ms, and half a megabyte of text."""

FRAMES_MAX: Final = 40
"""Of one task; the outermost come first and are the least of interest, so those are left out."""

_MARKS: Final = "structlog_"
"""How the names of context variables begin that hold the marks of log lines."""


def describe_tasks() -> TasksJson:
    """All tasks of this run, each before those that it has started.  To be called in a task or as one's callback."""
    root = trio.lowlevel.current_root_task()
    tasks: list[TaskJson] = []
    waiting = [] if root is None else [(root, 0)]
    while waiting and len(tasks) < TASKS_MAX:
        task, depth = waiting.pop()
        tasks.append(TaskJson(task.name, depth, _marks(task), _frames(task)))
        children = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        waiting += [(child, depth + 1) for child in sorted(children, key=lambda each: each.name, reverse=True)]
    return TasksJson(tasks, is_cut=bool(waiting))


def as_text(found: TasksJson) -> str:
    """For the log: a line for each task and, further in, for each of its frames."""
    lines: list[str] = []
    for task in found.tasks:
        indent = "  " * task.depth
        marks = "".join(
            f" {name}={value if value.isprintable() else repr(value)}" for name, value in task.marks.items()
        )
        lines.append(f"{indent}{task.name}{marks}")
        lines += [f"{indent}  | {frame}" for frame in task.frames]
    return "\n".join([*lines, *(["(and more)"] if found.is_cut else [])])


def _marks(task: trio.lowlevel.Task) -> dict[str, str]:
    """Not by running in its context: that of a task that runs is entered already."""
    return {
        variable.name.removeprefix(_MARKS): str(value)
        for variable, value in sorted(task.context.items(), key=lambda item: item[0].name)
        if variable.name.startswith(_MARKS) and isinstance(value, str | int)
    }


def _frames(task: trio.lowlevel.Task) -> list[str]:
    frames = [_describe(frame) for frame in _awaiting(task.coro)]
    return frames[-FRAMES_MAX:]


def _awaiting(outermost: Any) -> Iterator[FrameType]:
    """The frame of a coroutine, of what that awaits, and so on.  One that runs or has ended awaits nothing."""
    current = outermost
    while current is not None:
        match current:
            case CoroutineType():
                frame, current = current.cr_frame, current.cr_await
            case GeneratorType():
                frame, current = current.gi_frame, current.gi_yieldfrom
            case AsyncGeneratorType():
                frame, current = current.ag_frame, current.ag_await
            case _:  # what the interpreter wraps around the others does not say whom it is for, but refers to it
                frame, current = None, _inside(current)
        if frame is not None:
            yield frame


def _inside(wrapper: object) -> object | None:
    kinds = (CoroutineType, GeneratorType, AsyncGeneratorType)
    return next((each for each in gc.get_referents(wrapper) if isinstance(each, kinds)), None)


def _describe(frame: FrameType) -> str:
    """The module says where the file is, on whatever machine."""
    module = frame.f_globals.get("__name__", "?")
    return f"{module}:{frame.f_lineno} {frame.f_code.co_qualname}"
