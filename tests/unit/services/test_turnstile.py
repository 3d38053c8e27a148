"""Of all who want to be listened to, one is in each turn of the scheduler."""

import trio

from streaming import Turns
from walkeeper.services.turnstile import Turnstile

CROWD = 20
EACH = 10


async def test_one_of_a_crowd_is_let_through_in_each_turn_and_all_in_their_order() -> None:
    turnstile = Turnstile()
    let_through: list[tuple[int, int]] = []

    async def go_through(number: int) -> None:
        for _ in range(EACH):
            await turnstile.go_through()
            let_through.append((turns.count, number))

    with Turns.counted() as turns:
        async with trio.open_nursery() as nursery:
            for number in range(CROWD):
                nursery.start_soon(go_through, number)
    assert len({turn for turn, _ in let_through}) == CROWD * EACH
    numbers = [number for _, number in let_through]
    assert all(sorted(numbers[at : at + CROWD]) == list(range(CROWD)) for at in range(0, CROWD * EACH, CROWD))


async def test_who_gives_up_waiting_keeps_nobody_out() -> None:
    turnstile = Turnstile()
    async with trio.open_nursery() as nursery:
        for _ in range(CROWD):
            nursery.start_soon(turnstile.go_through)
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    with trio.fail_after(1):
        await turnstile.go_through()
