"""Every parser of bytes from outside, against garbage: named errors only, and no more memory and work than the bytes are worth.

The session ``fuzz`` runs the same targets for as long as one likes, guided by coverage.
"""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.targets import TARGETS
from garbage import cost_of, garbage
from walkeeper.errors import Malformed
from walkeeper.formats.frames import FRAME_BYTES_MAX, FrameParser

EXAMPLES = 50

BYTES_MAX, BYTES_PER_BYTE_MAX = 200_000, 64
"""What a target may hold; half of the first is a run of Trio.  A pair of LSNs, 16 bytes, makes 200 of them."""

LINES_MAX, LINES_PER_BYTE_MAX = 8_000, 120
"""How many lines of Python it may run; the second is for those who get every byte in a receive of its own."""

BY_NAME = pytest.mark.parametrize("name", TARGETS)


@BY_NAME
def test_what_is_well_formed_is_understood(name: str) -> None:
    for seed in TARGETS[name].seeds():
        TARGETS[name](seed)


@BY_NAME
@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_nothing_but_named_errors_comes_out_and_no_more_is_done_than_the_bytes_are_worth(
    name: str, data: st.DataObject
) -> None:
    target = TARGETS[name]
    target(target.seeds()[0])  # what is cached at the first time is not counted
    raw = data.draw(garbage(target.seeds()))
    cost = cost_of(target, raw)
    assert cost.peak_bytes <= BYTES_MAX + BYTES_PER_BYTE_MAX * len(raw)
    assert cost.lines <= LINES_MAX + LINES_PER_BYTE_MAX * len(raw)


@pytest.mark.parametrize("length", [FRAME_BYTES_MAX - 1, FRAME_BYTES_MAX, 1 << 30, (1 << 32) - 1])
def test_a_frame_that_announces_much_costs_what_has_come_of_it(length: int) -> None:
    parser = FrameParser()

    def hear(head: bytes) -> None:
        parser.feed(head)
        with suppress(Malformed):
            assert parser.next_frame() is None

    assert cost_of(hear, b"d" + length.to_bytes(4, "big") + b"only this").peak_bytes < 10_000


def test_memory_and_work_that_are_too_much_are_noticed() -> None:
    assert cost_of(bytearray, bytes(1 << 20)).peak_bytes > 1 << 20
    assert cost_of(lambda data: [bytes(size) for size in data], bytes(100)).lines > 100
