"""Crashes of a keeper's disk, one after the other: what was promised is there, and the keeper goes on."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from crash_points import (
    START,
    TLI,
    Keeper,
    Ledger,
    check_recovered,
    new_timeline,
    new_wal,
    read_stored,
)
from walkeeper.lsn import Lsn
from walkeeper.testing.memory_disk import Fault, MemoryDisk, PowerCut

CRASHES = st.tuples(st.integers(0, 60), st.booleans(), st.integers(0, 9))
"""After how many operations, before or after the last of them, and with which seed."""


def live(keeper: Keeper, fill: int) -> None:
    """From a start to the next crash: recover, follow a leader, take WAL from it, and make ready for more."""
    recovered = keeper.recover()
    check_recovered(keeper.disk, keeper.ledger, recovered)
    keeper.ledger.kept, keeper.ledger.coming = recovered.control_file, None
    keeper.ledger.is_whole = recovered.is_whole
    begin = recovered.end_lsn or START
    keeper.elect(begin, recovered.tli)
    for _ in range(2):
        wal = new_wal(begin, 400_000, fill=fill, prev=keeper.ledger.starts[-1])
        keeper.append(wal, batch=150_000)
        keeper.commit()
        keeper.become_whole()
        if keeper.store.wants_spare:
            keeper.store.prepare_spare()
        begin = wal.lsn


@settings(max_examples=25, deadline=None)
@given(st.lists(CRASHES, min_size=1, max_size=5))
def test_any_sequence_of_crashes_is_survived_recoveries_included(crashes: list[tuple[int, bool, int]]) -> None:
    disk = MemoryDisk()
    keeper = Keeper(disk, Ledger(new_timeline(disk)))
    for number, (operations, after, seed) in enumerate(crashes):
        disk.cut_power(disk.operations + operations, after=after)
        try:
            live(keeper, 0x10 + number)
        except PowerCut:
            pass
        disk.crash(seed)
        keeper = Keeper(disk, replace(keeper.ledger))
    live(keeper, 0x7F)


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, 90), max_size=12))
def test_writes_that_the_kernel_cuts_short_change_nothing(short: set[int]) -> None:
    disk = MemoryDisk()
    keeper = Keeper(disk, Ledger(new_timeline(disk)))
    disk.faults = {disk.operations + operation: Fault.SHORT_WRITE for operation in short}
    live(keeper, 0x33)
    assert read_stored(keeper.store, START, 1000) == keeper.ledger.wal[:1000]
    assert read_stored(keeper.store, Lsn(keeper.ledger.promised - 8), 8) == keeper.ledger.wal[-8:]
    assert keeper.recover().tli == TLI
