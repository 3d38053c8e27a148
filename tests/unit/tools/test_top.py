"""``walkeeper top``: as wide as the terminal, and a silent keeper is a row with its reason."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from walkeeper.errors import ServerError, Unreachable
from walkeeper.links.address import HttpAddress
from walkeeper.tools.top import Keeper, Overview, Positions, Problem, Round, Seen, Timeline, Totals, ask_overviews
from walkeeper.tools.top_report import as_json, as_screen

SYSTEM = f"{7241562384010203040:032x}"
WAITS = Problem("behind", "red", "Commits wait.", "Bring them back.", "What happens when …")


def keeper(number: int, problems: list[Problem] | None = None) -> Keeper:
    return Keeper(number, "0.1.0", 1000.0, True, 50_000_000, 0.002, 0.011, problems or [])


def overview(number: int, at: float, flushed_bytes: int, **changes: Any) -> Overview:
    totals = Totals(1, 1, 0, 1, 1, 2, 560, flushed_bytes)
    timeline: dict[str, Any] = {
        "standing": "open", "term": 5, "is_whole": True, "positions": Positions("0/3C429A0", "0/3C42770"),
        "behind_bytes": 560, "flushed_bytes": flushed_bytes, "receivers_count": 1, "senders_count": 2,
    }  # fmt: skip
    return Overview(at, keeper(number), totals, [Timeline(SYSTEM, SYSTEM, **timeline | changes)])


def seen(number: int, at: float = 4600.0, flushed_bytes: int = 500_000, **changes: Any) -> Seen:
    return Seen(HttpAddress(f"k{number}", 7676), overview(number, at, flushed_bytes, **changes), {"at": at})


LOST = Seen(HttpAddress("k3", 7676), trouble="Connection refused")
BEFORE = Round([seen(1, 4598.0, 400_000), seen(2, 4598.0, 400_000), LOST])
NOW = Round([seen(1), seen(2, problems=[WAITS], behind_seconds=12.0), LOST])

GOLDEN = {
    60: """\
walkeeper top: 2 of 3 keepers answer, 2 red, 01:16:40 UTC

keeper   id  state    up   timelines  writes  waiting  fsync
k1:7676  1   serving  60m          1   49K/s     560B   11ms
k2:7676  2   serving  60m          1   49K/s     560B   11ms
k3:7676  -   lost     -            -       -        -      -

timeline                keeper  state    committed   waiting
00000000000…9eedc24fa0  1       written  0/3C42770      560B
                        2       written  0/3C42770  560B 12s

! keeper k3:7676: It does not answer: Connection refused.
! 0000000000000000647f329eedc24fa0 on keeper 2: Commits
  wait. Bring them back. (docs/operations.md, What happens
  when …)""",
    80: """\
walkeeper top: 2 of 3 keepers answer, 2 red, 01:16:40 UTC

keeper   id  state    up   timelines  written  writes  waiting  readers  fsync
k1:7676  1   serving  60m          1        1   49K/s     560B        2   11ms
k2:7676  2   serving  60m          1        1   49K/s     560B        2   11ms
k3:7676  -   lost     -            -        -       -        -        -      -

timeline             keeper  state    term  committed   waiting  writes  readers
000000000…eedc24fa0  1       written     5  0/3C42770      560B   49K/s        2
                     2       written     5  0/3C42770  560B 12s   49K/s        2

! keeper k3:7676: It does not answer: Connection refused.
! 0000000000000000647f329eedc24fa0 on keeper 2: Commits wait. Bring them back.
  (docs/operations.md, What happens when …)""",
    160: """\
walkeeper top: 2 of 3 keepers answer, 2 red, 01:16:40 UTC

keeper   id  state    up   timelines  written  writes  waiting  readers  memory  loop lag  fsync  version
k1:7676  1   serving  60m          1        1   49K/s     560B        2     48M       2ms   11ms  0.1.0
k2:7676  2   serving  60m          1        1   49K/s     560B        2     48M       2ms   11ms  0.1.0
k3:7676  -   lost     -            -        -       -        -        -       -         -      -  -

timeline                          keeper  state    term  committed  flushed     waiting  writes  writers  readers
0000000000000000647f329eedc24fa0  1       written     5  0/3C42770  0/3C429A0      560B   49K/s        1        2
                                  2       written     5  0/3C42770  0/3C429A0  560B 12s   49K/s        1        2

! keeper k3:7676: It does not answer: Connection refused.
! 0000000000000000647f329eedc24fa0 on keeper 2: Commits wait. Bring them back. (docs/operations.md, What happens when …)""",
}


@pytest.mark.parametrize("width", [60, 80, 160])
def test_no_line_is_wider_than_the_terminal_and_what_matters_most_stays(width: int) -> None:
    text = as_screen(NOW, BEFORE, width)
    assert max(map(len, text.splitlines())) <= width
    assert text == GOLDEN[width]


@pytest.mark.parametrize("height", [10, 14, 24])
def test_the_screen_is_no_higher_than_the_terminal_and_explanations_have_room(height: int) -> None:
    lines = as_screen(NOW, BEFORE, 80, height).splitlines()
    assert len(lines) <= height
    assert any(line.startswith("! keeper k3:7676: It does not answer: Connection refused.") for line in lines)


def test_colour_is_there_only_when_asked_for() -> None:
    assert "\x1b" not in as_screen(NOW, BEFORE, 80)
    assert "\x1b[31m" in as_screen(NOW, BEFORE, 80, in_colour=True)


def test_what_a_keeper_says_cannot_write_on_the_screen() -> None:
    hostile = Problem("x", "red", "a\x1b[2Jb", "c\nd", "e")
    text = as_screen(Round([seen(1, problems=[hostile])]), None, 80)
    assert "a?[2Jb" in text
    assert all(line.isprintable() for line in text.splitlines())


def test_a_keeper_that_was_started_again_has_no_rate() -> None:
    assert "/s" not in as_screen(NOW, None, 160)


def test_scripts_hear_of_silence_and_of_red() -> None:
    Round([seen(1), seen(2)]).require_well()
    with pytest.raises(Unreachable):
        NOW.require_well()
    with pytest.raises(ServerError):
        Round([seen(1), seen(2, problems=[WAITS])]).require_well()


def test_the_json_has_what_each_keeper_said_and_each_ones_trouble() -> None:
    document = json.loads(as_json(NOW))
    assert [each["trouble"] for each in document["keepers"]] == [None, None, "Connection refused"]
    assert document["keepers"][0]["overview"] == {"at": 4600.0}


# -- over HTTP ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[HttpAddress]:
    """Somebody who answers every connection so, and ends it."""

    async def answer_one(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        serve: Callable[..., Any] = trio.serve_tcp
        (listener,) = await nursery.start(lambda **kwargs: serve(answer_one, 0, host="127.0.0.1", **kwargs))
        yield HttpAddress("127.0.0.1", listener.socket.getsockname()[1])
        nursery.cancel_scope.cancel(reason="asked")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 401 x\r\ncontent-length: 0\r\n\r\n", "token"),
        (b"HTTP/1.1 403 x\r\ncontent-length: 0\r\n\r\n", "scope"),
        (b"HTTP/1.1 404 x\r\ncontent-length: 0\r\n\r\n", "version"),
        (b"HTTP/1.1 503 x\r\ncontent-length: 2\r\n\r\nno", "503: no"),
        (b"HTTP/1.1 200 x\r\ncontent-length: 2\r\n\r\n{}", "cannot be read"),
        (b"HTTP/1.1 200 x\r\nconnection: close\r\n\r\n" + b"[" * 100_000, "cannot be read"),
        (b"HTTP/1.1 200 x\r\ncontent-length: 9\r\n\r\n{}", "cut off"),
        (b"SSH-2.0-x\r\n", "it speaks no plain HTTP: is it the port of --listen-http?"),
        (b"", "it speaks no plain HTTP: is it the port of --listen-http?"),
        (b"HTTP/1.1 200 x\r\n\r\n" + b" " * 17_000_000, "more than"),
    ],
)
async def test_whatever_a_keeper_answers_it_is_a_row_with_a_reason(answer: bytes, reason: str) -> None:
    async with answering(answer) as address:
        (found,) = (await ask_overviews([address], "")).seen
    assert found.overview is None
    assert reason in found.trouble


async def test_a_keeper_that_is_not_there_is_a_row_with_a_reason() -> None:
    (found,) = (await ask_overviews([HttpAddress("127.0.0.1", 9)], "")).seen
    assert found.trouble == "Connection refused"
