"""Lines that others bring about: enough to see what goes on, and no more."""

import trio
from trio.testing import MockClock

from walkeeper.links.throttle import THROTTLE_SECONDS, Throttle


async def test_after_enough_lines_of_a_kind_it_is_silent_for_a_while_and_says_how_many_it_held_back(
    autojump_clock: MockClock,
) -> None:
    throttle = Throttle()
    assert [throttle.admit("a", 2) for _ in range(5)] == [{}, {}, None, None, None]
    assert throttle.admit("b") == {}
    await trio.sleep(THROTTLE_SECONDS - 1)
    assert throttle.admit("a", 2) is None
    await trio.sleep(1)
    assert [throttle.admit("a", 2) for _ in range(3)] == [{"unsaid": 4}, {}, None]
    await trio.sleep(THROTTLE_SECONDS)
    assert throttle.admit("a", 2) == {"unsaid": 1}
    await trio.sleep(THROTTLE_SECONDS)
    assert throttle.admit("a", 2) == {}
