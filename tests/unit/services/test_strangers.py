"""Strangers: the oldest makes room."""

import trio
from trio.testing import MockClock

from walkeeper.control.metrics import Metrics
from walkeeper.services.strangers import Strangers


async def test_the_oldest_stranger_makes_room_for_the_newest_and_who_has_begun_does_not(
    autojump_clock: MockClock,
) -> None:
    metrics = Metrics("0")
    strangers = Strangers(2, metrics)
    dropped = list[str]()

    async def come(name: str, seconds: float) -> None:
        with strangers.being_one() as place:
            await trio.sleep(seconds)
        if place.cancelled_caught:
            dropped.append(name)

    async with trio.open_nursery() as nursery:
        for name, seconds in [("quick", 0.5), ("slow", 30.0), ("slower", 30.0), ("last", 30.0), ("late", 0.5)]:
            nursery.start_soon(come, name, seconds)
            await trio.sleep(1.0)
    assert dropped == ["slow", "slower"]
    refusals = metrics.registry.get_sample_value("walkeeper_refusals_total", {"error": "TooManyStrangers"})
    assert refusals == 2
