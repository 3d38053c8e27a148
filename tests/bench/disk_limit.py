"""The disk's own limit: the same WAL, written and synced, with nobody who asks and nobody who is told.

Each writer is a thread with segments of its own, made as the blocking server makes them; all are in one process.
What arrives one by one is written and synced one by one.  What is pipelined has no size of its own: there a sync
follows every SYNC_BYTES.

Does not receive, parse or answer.
"""

import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import Final

from bench.blocking_server import Segments
from bench.load import Measured
from bench.workloads import WAL_START, Frames, Workload

SYNC_BYTES: Final = 1 << 20
"""More WAL in each sync is hardly faster; less is slower."""


def run_disk(workload: Workload, frames: Frames, directory: Path, seconds: float) -> Measured:
    """Write what ``run_load`` makes a server write, for as long."""
    batches = _pipelined(frames) if workload.is_pipelined else [[number] for number in range(len(frames.end_lsns))]
    writers = [_Writer(directory / str(number), frames, batches) for number in range(workload.writers)]
    limit = float("inf") if workload.is_pipelined else seconds
    threads = [threading.Thread(target=writer.write_for, args=(limit,)) for writer in writers]
    began = perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = perf_counter() - began
    return Measured(sum(w.appends for w in writers), sum(w.wal_bytes for w in writers), elapsed)


def _pipelined(frames: Frames) -> list[list[int]]:
    """The numbers of the frames that share a sync."""
    batches: list[list[int]] = [[0]]
    for number in range(1, len(frames.end_lsns)):
        if frames.end_lsns[number] - frames.end_lsns[batches[-1][0]] > SYNC_BYTES:
            batches.append([])
        batches[-1].append(number)
    return batches


class _Writer:
    """One thread's part.  The first batch, which makes the first segment, is written before any clock starts."""

    def __init__(self, directory: Path, frames: Frames, batches: Sequence[Sequence[int]]) -> None:
        self._segments = Segments(directory)
        self._frames = frames
        self._batches = iter(batches)
        self._lsn = WAL_START
        self.appends = 0
        self.wal_bytes = 0
        self._append(next(self._batches))
        self.appends = self.wal_bytes = 0

    def write_for(self, seconds: float) -> None:
        """Batch after batch, until the time is over or there are no more."""
        end = perf_counter() + seconds
        with closing(self._segments):
            for batch in self._batches:
                self._append(batch)
                if perf_counter() >= end:
                    return

    def _append(self, batch: Sequence[int]) -> None:
        self._segments.append(self._lsn, [self._frames.wal_of(number) for number in batch])
        end_lsn = self._frames.end_lsns[batch[-1]]
        self.appends += len(batch)
        self.wal_bytes += end_lsn - self._lsn
        self._lsn = end_lsn
