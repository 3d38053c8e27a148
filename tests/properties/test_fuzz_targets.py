"""Every parser of bytes from outside, against garbage: named errors only, and no more memory and work than the bytes are worth.

The session ``fuzz`` runs the same targets for as long as one likes, guided by coverage.
"""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import __main__ as session
from fuzz.targets import TARGETS
from garbage import cost_of, garbage
from walkeeper.errors import Malformed
from walkeeper.formats.frames import FRAME_BYTES_MAX, FrameParser

EXAMPLES = 25

BYTES_MAX, BYTES_PER_BYTE_MAX = 200_000, 64
"""What a target may hold; half of the first is a run of Trio.  A pair of LSNs, 16 bytes, makes 200 of them."""

LINES_MAX, LINES_PER_BYTE_MAX = 8_000, 120
"""How many lines of Python it may run; the second is for those who get every byte in a receive of its own."""

BY_NAME = pytest.mark.parametrize("name", TARGETS)


@BY_NAME
def test_a_target_begins_with_what_is_well_formed(name: str) -> None:
    target, understood = TARGETS[name], 0
    for seed in target.seeds():
        with suppress(*target.errors):
            target.feed(seed)
            understood += 1
    assert understood > len(target.seeds()) // 4


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


# -- the session ----------------------------------------------------------------------------------------------


def test_without_atheris_the_session_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "find_spec", lambda name: None)
    assert session.main([]) == 2
    assert capsys.readouterr().out.count("\n") == 1


def test_an_input_can_be_given_to_its_target_again_without_atheris(tmp_path: Path) -> None:
    said = tmp_path / "said"
    said.write_bytes(b"16MB")
    assert session.main(["--target", "size", "--replay", str(said)]) == 0


@pytest.mark.parametrize("wrong", [["--target", "sizes", "--replay", "x"], ["--replay", "x"], ["--seconds", "0"]])
def test_arguments_that_mean_nothing_are_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        session.main(wrong)
    assert ended.value.code == 2
