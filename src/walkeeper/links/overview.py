"""A keeper's overview, asked for over HTTP: where it is, and in words why there is none.

Questions have no time limit but in ``answer_of``.  Does not know what is in an overview: the caller decodes what it needs.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
import trio

from walkeeper.errors import ConfigError, Malformed, ServerError, Unreachable, printable, shortened
from walkeeper.links.address import HttpAddress
from walkeeper.links.http_get import BODY_BYTES_MAX, http_get
from walkeeper.links.token import read_token

PATH: Final = "/v1/walkeeper/overview"

POSITIONS_PATH: Final = "/v1/walkeeper/positions"

POSITIONS_BYTES_MAX: Final = 8 * 1024 * 1024
"""For those of 20,000 timelines, which is more than anybody has, and of a third of a KiB each."""

ANSWER_SECONDS: Final = 1.0
"""For one keeper: its answer comes from memory, and somebody may be waiting for it."""

Answer = TypeVar("Answer")
Overview = TypeVar("Overview")


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """``why``: in words.  ``is_alive``: nothing says that it is not."""

    why: str
    is_alive: bool


async def answer_of(asked: Awaitable[Answer], seconds: float = ANSWER_SECONDS) -> Answer | NoAnswer:
    """What a keeper answers within ``seconds``, or why it does not.

    Cancellation: at any time; the connection is closed.
    """
    try:
        with trio.move_on_after(seconds):
            return await asked
    except Unreachable as error:
        return NoAnswer(error.why, is_alive=False)
    except ServerError as error:
        return NoAnswer(error.message, is_alive=True)
    except Malformed as error:
        return NoAnswer(str(error), is_alive=True)
    except ConfigError as error:  # somebody is about to replace our token
        return NoAnswer(str(error), is_alive=True)
    return NoAnswer(f"no answer within {seconds:g} s", is_alive=False)


async def ask_overview(address: HttpAddress, find: str, decode: Callable[[bytes], Overview]) -> Overview:
    """What the keeper at ``address`` says of itself, without what others say, made of its JSON by ``decode``.

    ``find``: a part of ``tenant/timeline``.  Raises Unreachable if it does not answer, ServerError if it answers otherwise,
    with why as its ``message``, and ConfigError if there is no token where ours should be.

    Cancellation: at any time; the connection is closed.
    """
    body = await _ask(address, f"{PATH}?alone=true&find={find}")
    try:
        return decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ServerError(str(address), "", printable(shortened(f"its answer cannot be read: {error}"))) from error


async def ask_positions(address: HttpAddress) -> bytes:
    """How far the keeper at ``address`` is with all its timelines, as it came: it may be anything.

    Raises what ``ask_overview`` does.

    Cancellation: as there.
    """
    return await _ask(address, POSITIONS_PATH, POSITIONS_BYTES_MAX)


async def _ask(address: HttpAddress, target: str, body_bytes_max: int = BODY_BYTES_MAX) -> bytes:
    answer = await http_get(address, target, read_token(), body_bytes_max)
    if answer.status != 200:
        raise ServerError(str(address), "", _refusal(answer.status, answer.body))
    return answer.body


def _refusal(status: int, body: bytes) -> str:
    match status:
        case 401:
            return "it asks for a token (--auth-token-path)"
        case 403:
            return "the token is not good there: it needs scope safekeeperdata"
        case 404:
            return "it does not know the question: is it a walkeeper of this version?"
        case _:
            return printable(shortened(f"HTTP status {status}: {body[:200].decode(errors='replace')}"))
