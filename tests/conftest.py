"""What all tests share: fixtures as plugins with names, and a time limit for every test that runs on Trio."""

import gc
import inspect
from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, settings

# A machine that is busy with something else is no bug of ours.
settings.register_profile("walkeeper", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("walkeeper")

pytest_plugins = [path.stem for path in sorted(Path(__file__).parent.glob("fix_*.py"))]

TEST_SECONDS = 60.0  # a test that waits for something that never comes fails with a trace of where it waits
INTEGRATION_SECONDS = 600.0


def pytest_collection_finish() -> None:
    """What is there by now stays: looking through all of it again and again would take a twentieth of the time."""
    gc.collect()
    gc.freeze()


AsyncTest = Callable[..., Awaitable[None]]


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Limit each asynchronous test; with Hypothesis, each example."""
    for item in items:
        if not isinstance(item, pytest.Function):
            continue
        seconds = INTEGRATION_SECONDS if {"integration", "deploy"} & {*item.path.parts} else TEST_SECONDS
        handle = getattr(item.obj, "hypothesis", None)
        if handle is not None:
            handle.inner_test = with_time_limit(handle.inner_test, seconds)
        else:
            limited = with_time_limit(item.obj, seconds)
            if limited is not item.obj:
                item.obj = limited


def with_time_limit(test: AsyncTest, seconds: float) -> AsyncTest:
    """The test inside `trio.fail_after`; as it was if it is not asynchronous, or limited already."""
    if not inspect.iscoroutinefunction(test) or hasattr(test, "limited_to_seconds"):
        return test

    @wraps(test)
    async def limited(*args: object, **kwargs: object) -> None:
        if isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock):
            await test(*args, **kwargs)  # its hours pass in no time
            return
        with trio.fail_after(seconds):
            await test(*args, **kwargs)

    limited.limited_to_seconds = seconds  # type: ignore[attr-defined]
    return limited
