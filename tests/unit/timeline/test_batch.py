"""Batches: what waits together is kept together, and nothing is reordered, merged wrongly or lost."""

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import NO_GENERATION, Generation
from walkeeper.messages import AppendRun, Batch, VoteRequest
from walkeeper.terms import Term
from walkeeper.timeline.batch import (
    BATCH_BYTES_MAX,
    Gatherer,
    Received,
)


def run(
    begin: int, size: int, term: int = 1, commit: int = 0, generation: Generation = NO_GENERATION
) -> AppendRun:
    return AppendRun(
        generation,
        Term(term),
        Lsn(begin),
        Lsn(begin + size),
        Lsn(commit),
        INVALID_LSN,
        (bytes(size),) if size else (),
    )


async def gathered(messages: list[Batch], pinned_bytes: int = 10) -> list[tuple[Batch, int]]:
    outbox, inbox = trio.open_memory_channel[Received[Batch]](len(messages))
    with outbox, inbox:
        for message in messages:
            outbox.send_nowait(Received(message, pinned_bytes))
        outbox.close()
        gatherer, batches = Gatherer(inbox), []
        while found := await gatherer.next_batch():
            batches.append((found.message, found.pinned_bytes))
        return batches


async def test_everything_contiguous_that_waits_is_one_batch() -> None:
    (batch, pinned_bytes), *rest = await gathered([run(100, 10), run(110, 0, commit=105), run(110, 30)])
    assert not rest
    assert isinstance(batch, AppendRun)
    assert (batch.begin_lsn, batch.end_lsn, batch.commit_lsn, len(batch.slices)) == (100, 140, 105, 2)
    assert pinned_bytes == 30


async def test_another_term_a_gap_a_generation_or_another_message_starts_the_next_batch() -> None:
    """Hazard R2: what does not fit a batch is the first of the next."""
    vote = VoteRequest(NO_GENERATION, Term(9))
    messages: list[Batch] = [
        run(100, 10),
        run(110, 10, term=2),
        run(130, 10, term=2),
        vote,
        run(140, 10, term=2),
        run(150, 10, term=2, generation=Generation(1)),
    ]
    assert [batch for batch, _ in await gathered(messages)] == messages


async def test_a_batch_is_bounded_in_bytes_and_one_run_always_fits() -> None:
    half = BATCH_BYTES_MAX // 2
    batches = await gathered([run(0, half), run(half, half), run(2 * half, 1), run(2 * half + 1, 3 * half)])
    assert [batch.wal_bytes for batch, _ in batches if isinstance(batch, AppendRun)] == [2 * half, 1, 3 * half]


async def test_a_cancelled_wait_loses_nothing() -> None:
    outbox, inbox = trio.open_memory_channel[Received[Batch]](4)
    with outbox, inbox:
        gatherer = Gatherer(inbox)
        with trio.CancelScope() as scope:
            scope.cancel()
            await gatherer.next_batch()
        outbox.send_nowait(Received(run(1, 2), 5))
        found = await gatherer.next_batch()
        assert found is not None
        assert found.message == run(1, 2)


async def test_every_batch_takes_a_turn_of_the_scheduler_though_it_waits_already() -> None:
    """What is kept on the loop itself takes none: then others would not run before the inbox is empty."""
    outbox, inbox = trio.open_memory_channel[Received[Batch]](4)
    with outbox, inbox:
        gatherer = Gatherer(inbox)
        for term in (1, 2, 3):
            outbox.send_nowait(Received(run(1, 2, term), 5))
        outbox.close()
        for term in (1, 2, 3):
            with trio.CancelScope() as scope:
                scope.cancel()
                await gatherer.next_batch()
            assert scope.cancelled_caught
            with trio.testing.assert_checkpoints():
                found = await gatherer.next_batch()
            assert found is not None
            assert found.message == run(1, 2, term)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 2), st.booleans()), max_size=30))
async def test_the_bytes_of_all_batches_are_the_bytes_of_all_messages(steps: list[tuple[int, int, bool]]) -> None:
    lsn, messages = 0, list[Batch]()
    for size, term, is_gap in steps:
        lsn += 7 if is_gap else 0
        messages.append(run(lsn, size, term))
        lsn += size
    covered = [
        (position, batch.term)
        for batch, _ in await gathered(messages)
        if isinstance(batch, AppendRun)
        for position in range(batch.begin_lsn, batch.end_lsn)
    ]
    assert covered == [
        (position, message.term)
        for message in messages
        if isinstance(message, AppendRun)
        for position in range(message.begin_lsn, message.end_lsn)
    ]
