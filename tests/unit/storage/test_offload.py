"""The contract of an Offload, and what only one with threads does."""

import gc
import signal
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from queue import SimpleQueue
from typing import TypeVar, TypeVarTuple

import pytest
import trio
import trio.testing

from walkeeper.storage.offload import (
    QUICK_JOBS_MIN,
    QUICK_SECONDS_MAX,
    Brief,
    Job,
    Offload,
    ThreadOffload,
)
from walkeeper.testing.offload import InlineOffload

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@asynccontextmanager
async def inline() -> AsyncIterator[Offload]:
    yield InlineOffload(lambda: 0.001)


@asynccontextmanager
async def threads() -> AsyncIterator[Offload]:
    async with ThreadOffload(4) as offload:
        yield offload


class FakeDisk:
    """Its jobs take the time that they say, by a clock of its own; it notes where they ran."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran_on: list[int] = []

    def clock(self) -> float:
        return self.now

    def work(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.ran_on.append(threading.get_ident())

    @property
    def last_ran_on_the_loop(self) -> bool:
        return self.ran_on[-1] == threading.get_ident()


class Briefly:
    """An offload for which every job is brief."""

    def __init__(self, offload: Offload) -> None:
        self.offload = offload

    async def __call__(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        return await self.offload(Brief(function), *args)


async def work_quickly(offload: Offload, disk: FakeDisk, times: int = QUICK_JOBS_MIN) -> None:
    for _ in range(times):
        await offload(Brief(disk.work), QUICK_SECONDS_MAX / 2)


@asynccontextmanager
async def loop() -> AsyncIterator[Offload]:
    disk = FakeDisk()
    async with ThreadOffload(4, disk.clock) as offload:
        await work_quickly(offload, disk)
        yield Briefly(offload)


EACH = pytest.mark.parametrize("open_offload", [inline, threads, loop])


class Failed(Exception):
    """Of a job."""


def fail(error: BaseException) -> None:
    raise error


@EACH
async def test_a_result_comes_back(open_offload: type[ThreadOffload]) -> None:
    async with open_offload() as offload:
        assert await offload(divmod, 17, 5) == (3, 2)
        assert await offload(str) == ""


@EACH
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


@EACH
async def test_many_callers_get_their_own_results(open_offload: type[ThreadOffload]) -> None:
    results: dict[int, int] = {}

    async def square(number: int) -> None:
        results[number] = await offload(pow, number, 2)

    async with open_offload() as offload, trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(square, number)
    assert results == {number: number**2 for number in range(100)}


@EACH
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
    """Hazards W2, T6 and C3: a thread never outlives the caller that holds the lock."""
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


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Python leaves SIGINT alone where a shell has started it in the background, with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
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


@pytest.mark.usefixtures("_interruptible")
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


# -- brief jobs -----------------------------------------------------------------------------------------------


async def test_a_brief_job_runs_on_the_loop_when_the_disk_has_been_quick_for_long_enough() -> None:
    disk = FakeDisk()
    async with ThreadOffload(1, disk.clock) as offload:
        await work_quickly(offload, disk)
        assert threading.get_ident() not in disk.ran_on
        await work_quickly(offload, disk, 3)
    assert disk.ran_on[-3:] == [threading.get_ident()] * 3


async def test_no_other_job_ever_runs_on_the_loop() -> None:
    disk = FakeDisk()
    async with ThreadOffload(1, disk.clock) as offload:
        await work_quickly(offload, disk)
        await offload(disk.work)
        assert not disk.last_ran_on_the_loop
        await work_quickly(offload, disk, 1)
        assert disk.last_ran_on_the_loop


@pytest.mark.parametrize("slow_every", [1, 2, QUICK_JOBS_MIN])
async def test_on_a_slow_disk_no_job_runs_on_the_loop(slow_every: int) -> None:
    disk = FakeDisk()
    async with ThreadOffload(1, disk.clock) as offload:
        for number in range(4 * QUICK_JOBS_MIN):
            await offload(Brief(disk.work), 0.010 if number % slow_every == 0 else 0.0)
    assert threading.get_ident() not in disk.ran_on


async def test_a_disk_that_gets_slow_holds_up_the_loop_for_one_job() -> None:
    disk = FakeDisk()
    async with ThreadOffload(1, disk.clock) as offload:
        await work_quickly(offload, disk)
        await offload(Brief(disk.work), 60.0)
        assert disk.last_ran_on_the_loop
        disk.ran_on.clear()
        await work_quickly(offload, disk)
        assert threading.get_ident() not in disk.ran_on
        await work_quickly(offload, disk, 1)
        assert disk.last_ran_on_the_loop


async def test_a_disk_that_gets_slow_while_threads_work_holds_up_nothing() -> None:
    disk = FakeDisk()
    async with ThreadOffload(1, disk.clock) as offload:
        await work_quickly(offload, disk)
        await offload(disk.work, 60.0)
        await work_quickly(offload, disk)
        assert threading.get_ident() not in disk.ran_on
        await work_quickly(offload, disk, 1)
        assert disk.last_ran_on_the_loop


async def test_only_brief_jobs_show_that_the_disk_is_quick() -> None:
    disk = FakeDisk()
    async with ThreadOffload(1, disk.clock) as offload:
        for _ in range(QUICK_JOBS_MIN):
            await offload(disk.work)
        await work_quickly(offload, disk)
    assert threading.get_ident() not in disk.ran_on


async def test_a_brief_job_that_fails_slowly_was_slow() -> None:
    disk = FakeDisk()

    def fail_slowly() -> None:
        disk.work(60.0)
        raise Failed

    async with ThreadOffload(1, disk.clock) as offload:
        await work_quickly(offload, disk)
        with pytest.raises(Failed):
            await offload(Brief(fail_slowly))
        await work_quickly(offload, disk, 1)
        assert not disk.last_ran_on_the_loop


async def test_no_job_runs_on_the_loop_while_a_thread_works() -> None:
    disk, may_end = FakeDisk(), threading.Event()

    async def wait() -> None:
        await offload(may_end.wait)

    async with ThreadOffload(2, disk.clock) as offload, trio.open_nursery() as nursery:
        await work_quickly(offload, disk)
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await work_quickly(offload, disk, 1)
        assert not disk.last_ran_on_the_loop
        may_end.set()
    await trio.testing.wait_all_tasks_blocked()


async def test_tasks_that_take_turns_do_not_run_their_jobs_on_the_loop() -> None:
    disk = FakeDisk()

    async def work_in_turn(mine: trio.Semaphore, others: trio.Semaphore) -> None:
        for _ in range(QUICK_JOBS_MIN):
            await mine.acquire()
            await offload(Brief(disk.work), 0.0)
            others.release()

    async with ThreadOffload(2, disk.clock) as offload:
        await work_quickly(offload, disk)
        one, other = trio.Semaphore(1), trio.Semaphore(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work_in_turn, one, other)
            nursery.start_soon(work_in_turn, other, one)
    assert threading.get_ident() not in disk.ran_on


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupt_does_not_abandon_a_job_on_the_loop() -> None:
    order = []

    def job() -> None:
        signal.raise_signal(signal.SIGINT)
        order.append("the function has returned")

    async def main() -> None:
        async with loop() as offload:
            await offload(job)
            order.append("the caller goes on")
            await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert order == ["the function has returned", "the caller goes on"]


# -- on the fake clock ----------------------------------------------------------------------------------------


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
