"""The contract of an Offload, and what only one with threads does."""

import gc
import signal
import threading
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from queue import SimpleQueue

import pytest
import trio
import trio.testing

from walkeeper.storage.offload import Job, Offload, ThreadOffload
from walkeeper.testing.offload import InlineOffload


@asynccontextmanager
async def inline() -> AsyncIterator[Offload]:
    yield InlineOffload(lambda: 0.001)


@asynccontextmanager
async def threads() -> AsyncIterator[Offload]:
    async with ThreadOffload(4) as offload:
        yield offload


BOTH = pytest.mark.parametrize("open_offload", [inline, threads])


class Failed(Exception):
    """Of a job."""


def fail(error: BaseException) -> None:
    raise error


@BOTH
async def test_a_result_comes_back(open_offload: type[ThreadOffload]) -> None:
    async with open_offload() as offload:
        assert await offload(divmod, 17, 5) == (3, 2)
        assert await offload(str) == ""


@BOTH
@pytest.mark.parametrize("kind", [Failed, KeyboardInterrupt])
async def test_an_exception_comes_back_as_it_is(
    kind: type[BaseException], open_offload: type[ThreadOffload]
) -> None:
    error = kind("why")
    async with open_offload() as offload:
        with pytest.raises(kind) as caught:
            await offload(fail, error)
        assert caught.value is error
        assert await offload(int, "7") == 7


@BOTH
async def test_many_callers_get_their_own_results(open_offload: type[ThreadOffload]) -> None:
    results: dict[int, int] = {}

    async def square(number: int) -> None:
        results[number] = await offload(pow, number, 2)

    async with open_offload() as offload, trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(square, number)
    assert results == {number: number**2 for number in range(100)}


@BOTH
async def test_a_caller_that_is_cancelled_already_gets_its_result_all_the_same(
    open_offload: type[ThreadOffload],
) -> None:
    async with open_offload() as offload:
        with trio.CancelScope() as scope:
            scope.cancel()
            result = await offload(int, "7")
            await trio.lowlevel.checkpoint()
    assert result == 7
    assert scope.cancelled_caught


async def test_a_caller_that_is_cancelled_waits_until_the_function_has_returned() -> None:
    begun, may_end, order = threading.Event(), threading.Event(), []

    def job() -> None:
        begun.set()
        may_end.wait()
        order.append("the function has returned")

    async def call() -> None:
        await offload(job)
        order.append("the caller goes on")
        await trio.lowlevel.checkpoint()
        order.append("never")

    async with ThreadOffload(1) as offload, trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        begun.wait()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
            assert order == []
            may_end.set()
    assert order == ["the function has returned", "the caller goes on"]


async def test_as_many_jobs_run_at_once_as_there_are_threads() -> None:
    meeting = threading.Barrier(4)  # nobody leaves before four are there

    async def meet() -> None:
        await offload(meeting.wait)

    async with ThreadOffload(4) as offload, trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(meet)


async def test_the_event_loop_goes_on_while_a_job_runs() -> None:
    done = threading.Event()

    async def wait() -> None:
        assert await offload(done.wait)

    async with ThreadOffload(1) as offload, trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        done.set()


async def test_closing_waits_for_the_jobs_that_run_even_when_cancelled() -> None:
    begun, may_end, order = threading.Event(), threading.Event(), []

    def job() -> None:
        begun.set()
        may_end.wait()
        order.append("the function has returned")

    offload = ThreadOffload(2)
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with offload:
                nursery.start_soon(offload, job)
                await trio.testing.wait_all_tasks_blocked()
                begun.wait()
                nursery.start_soon(release, may_end)
                scope.cancel()
            order.append("closed")
    assert order == ["the function has returned", "closed"]


async def release(may_end: threading.Event) -> None:
    await trio.testing.wait_all_tasks_blocked()
    may_end.set()


async def test_there_are_no_threads_before_and_none_after() -> None:
    before = threading.active_count()
    offload = ThreadOffload(3)
    assert threading.active_count() == before
    async with offload:
        assert threading.active_count() == before + 3
    assert threading.active_count() == before


async def test_it_is_not_used_outside_its_block() -> None:
    with pytest.raises(AssertionError):
        await ThreadOffload(1)(int)
    async with ThreadOffload(1) as offload:
        pass
    with pytest.raises(AssertionError):
        await offload(int)


class Buffer:
    """Something large."""


async def test_an_idle_thread_keeps_nothing_of_its_last_job() -> None:
    buffer = Buffer()
    alive = weakref.ref(buffer)
    async with ThreadOffload(1) as offload:
        await offload(id, buffer)
        del buffer
        gc.collect()
        assert alive() is None


def test_an_interrupt_does_not_abandon_a_job() -> None:
    order = []

    def job() -> None:
        signal.raise_signal(signal.SIGINT)  # runs its handler in the main thread, which waits for this job
        order.append("the function has returned")

    async def main() -> None:
        async with ThreadOffload(1) as offload:
            await offload(job)
            order.append("the caller goes on")
            await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert order == ["the function has returned", "the caller goes on"]


class Interrupting(SimpleQueue[Job | None]):
    """Ctrl-C comes right after a job was handed over."""

    def put(self, job: Job | None, block: bool = True, timeout: float | None = None) -> None:
        super().put(job)
        if job is not None:
            signal.raise_signal(signal.SIGINT)


def test_an_interrupt_between_handing_over_and_waiting_does_not_abandon_the_job() -> None:
    order: list[str] = []

    async def main() -> None:
        offload = ThreadOffload(1)
        offload._jobs = Interrupting()
        async with offload:
            await offload(order.append, "the function has returned")
            order.append("the caller goes on")
            await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert order == ["the function has returned", "the caller goes on"]


async def test_an_inline_job_takes_its_time_on_the_fake_clock(mock_clock: trio.testing.MockClock) -> None:
    mock_clock.autojump_threshold = 0
    offload = InlineOffload(lambda: 3.0)
    moments: list[float] = []
    begin = trio.current_time()
    with trio.CancelScope() as scope:
        scope.cancel()
        await offload(lambda: moments.append(trio.current_time() - begin))
    assert moments == [3.0]
    assert trio.current_time() - begin == 6.0
