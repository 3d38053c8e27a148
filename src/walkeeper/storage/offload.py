"""The one door to threads: blocking work goes through here and comes back before the caller goes on.

``Offload`` is a seam: threads in the daemon, a fake clock in simulations (``walkeeper.testing.InlineOffload``).
``ThreadOffload`` keeps its threads, because starting one or waking Trio's costs more than a small write: jobs go in
through a ``SimpleQueue``, results come back through one eventfd and by rescheduling the task that waits.

Rules:
* A job that was begun is waited for, always: it cannot be recalled, and whoever holds a lock around it must not
  let go before the kernel is done (hazards W2, T6, C3).  So cancellation is refused until then, and Ctrl-C too.
* Results and exceptions come back to the caller as they are.
* No thread exists before ``async with``, and none after it.
* A ``Brief`` job may run on the event loop itself: on a quick disk waking a thread and being woken cost more than it
  does.  Only while a single task has such jobs and no thread works, so that syncs of different files still run in
  parallel, and only while the disk is quick, by measurement of all jobs: one that stalls stops the loop for one job, not
  again.  Such a job has no checkpoint: its caller has one between two.

Does not know what the jobs do, and does not order them: one caller has one job at a time.
Source: eventfd(2); trio.lowlevel (wait_task_rescheduled, spawn_system_task).
"""

import os
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from time import perf_counter
from types import TracebackType
from typing import Any, Final, Generic, Protocol, Self, TypeVar, TypeVarTuple

import outcome
import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

THREADS: Final = 8
"""Syncs of different files run in parallel in the kernel; with fewer, sixteen busy timelines starve each other."""

QUICK_SECONDS_MAX: Final = 0.001
"""The longest that a brief job takes on a quick disk.  Parsing a full receive buffer holds up the loop as long."""

QUICK_JOBS_MIN: Final = 100
"""So many brief jobs, and all others meanwhile, must have been quick before one runs on the loop: then few are not."""


@dataclass(frozen=True, slots=True)
class Brief(Generic[*Ts, T]):
    """A function for an ``Offload`` that is over at once on a quick disk: a small write and its sync, nothing more.

    Not for the caller to believe: ``TimelineStore.is_brief`` knows what is open.
    """

    function: Callable[[*Ts], T]

    def __call__(self, *args: *Ts) -> T:
        return self.function(*args)


class Offload(Protocol):
    """Run a blocking function where it does not block the event loop."""

    async def __call__(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call ``function(*args)``, return what it returns and raise what it raises.

        Cancellation: never abandons the function and is not let in; the caller meets it at its next checkpoint.
        """


Job = tuple[Callable[[], Any], trio.lowlevel.Task]
"""What to call, and who waits for it."""

Result = tuple[trio.lowlevel.Task, outcome.Outcome[Any]]


class Quickness:
    """How quick the disk is, by the jobs it was given.  ``clock`` gives seconds.

    Large jobs that take their time count as slow, too: they are rare where commits are small, and whoever has to wait
    for what they left in the disk's queue had better not be the loop.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = Lock()
        self._quick_in_a_row = 0

    @property
    def is_enough(self) -> bool:
        """Whether the loop may wait for a brief job."""
        return self._quick_in_a_row >= QUICK_JOBS_MIN

    def measure(self, job: Callable[[], T], *, is_brief: bool = True) -> T:
        """Call ``job``.  One that is not brief may only show that the disk is slow.  On any thread."""
        began = self._clock()
        try:
            return job()
        finally:
            is_quick = self._clock() - began <= QUICK_SECONDS_MAX
            with self._lock:
                if not is_quick:
                    self._quick_in_a_row = 0
                elif is_brief:
                    self._quick_in_a_row += 1


class ThreadOffload:
    """An ``Offload`` over ``threads`` threads of its own, from ``async with`` to its end.

    ``clock`` gives seconds, by which brief jobs are measured.
    """

    def __init__(self, threads: int = THREADS, clock: Callable[[], float] = perf_counter) -> None:
        self._threads = [
            Thread(target=self._work, name=f"offload-{number}", daemon=True) for number in range(threads)
        ]
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._results: deque[Result | None] = deque()  # None: a thread has ended
        self._wakeup = -1
        self._is_open = False
        self._closer: trio.lowlevel.Task | None = None
        self._waiting = 0  # callers whose jobs are with the threads
        self._quickness = Quickness(clock)
        self._last_brief = 0  # the identity of the task that had the last brief job

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        """Start the threads.  Cancellation: there is no checkpoint."""
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        for thread in self._threads:
            thread.start()
        # A system task: results must arrive as long as anybody waits, whatever is cancelled around us.
        trio.lowlevel.spawn_system_task(self._deliver, name="offload results")
        self._is_open = True
        return self

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> Awaitable[None]:
        """Finish the jobs that were begun, and end the threads.  Cancellation: not let in."""
        return self._close()

    @trio.lowlevel.enable_ki_protection
    async def _close(self) -> None:
        self._is_open = False
        for _ in self._threads:
            self._jobs.put(None)
        self._closer = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(_refuse_cancellation)
        for thread in self._threads:
            thread.join()
        os.close(self._wakeup)

    @trio.lowlevel.enable_ki_protection  # between "the job is begun" and "we wait for it" Ctrl-C would abandon it
    async def __call__(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """As ``Offload`` says; from any number of tasks at once."""
        assert self._is_open, "an Offload is used inside its async with block"
        task = trio.lowlevel.current_task()
        call: Callable[[], T] = partial(function, *args)
        is_brief = isinstance(function, Brief)
        if is_brief and self._may_run_here(task):
            return self._quickness.measure(call)
        self._jobs.put((partial(self._quickness.measure, call, is_brief=is_brief), task))
        self._waiting += 1
        result: T = await trio.lowlevel.wait_task_rescheduled(_refuse_cancellation)
        return result

    def _may_run_here(self, task: trio.lowlevel.Task) -> bool:
        """Whether nobody loses by it if the loop itself does a brief job of ``task``."""
        was_last, self._last_brief = self._last_brief, id(task)
        return was_last == id(task) and not self._waiting and self._quickness.is_enough

    def _work(self) -> None:
        """What each thread does."""
        while self._run_one():
            pass
        self._hand_over(None)

    def _run_one(self) -> bool:
        """Run one job; False if there will be no more.  While waiting for one, nothing of the last is kept alive."""
        job = self._jobs.get()
        if job is None:
            return False
        call, task = job
        result = outcome.capture(call)
        del job, call  # its arguments are slices of receive buffers: let go of them before the caller goes on
        self._hand_over((task, result))
        return True

    def _hand_over(self, result: Result | None) -> None:
        self._results.append(result)
        os.eventfd_write(self._wakeup, 1)

    async def _deliver(self) -> None:
        """Wake the tasks whose jobs are done, until the last thread has ended."""
        running = len(self._threads)
        while running:
            await trio.lowlevel.wait_readable(self._wakeup)
            os.eventfd_read(self._wakeup)
            running -= self._wake_waiting()
        assert self._closer is not None
        trio.lowlevel.reschedule(self._closer)

    def _wake_waiting(self) -> int:
        """Give every result that is there to its task; returns how many threads have ended."""
        ended = 0
        while self._results:
            if result := self._results.popleft():
                self._waiting -= 1
                trio.lowlevel.reschedule(*result)
            else:
                ended += 1
        return ended


def _refuse_cancellation(_raise_cancel: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED
