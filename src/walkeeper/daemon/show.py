"""``walkeeper config show``: what a command would run with, and where each value comes from.

As TOML that ``--config`` takes, or as JSON.  Nothing is started and nothing but the file of ``--config`` is read.

Rules: passwords do not come out, wherever in a connection string they are; the rest of a value does.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from walkeeper.daemon.options import Given, Option
from walkeeper.errors import ConfigError

SHOWN: Final = ("serve", "propose")
"""The commands that run for long; the first is meant where none is named."""

USAGE: Final = "walkeeper config show [serve|propose] [its flags] [--json]"

HIDDEN: Final = "***"

_URI: Final = re.compile(r"postgres(?:ql)?://")
_IN_URI: Final = (
    re.compile(r"(?P<before>://[^:@/]*:).*(?=@)", re.DOTALL),
    re.compile(r"(?P<before>(?:ssl)?password=)[^&]*", re.IGNORECASE),
)
_IN_PAIRS: Final = (
    re.compile(
        r"(?P<before>(?:ssl)?password\s*=\s*)(?:'(?:[^'\\]|\\.)*(?:'|\\?$)|(?:\\.|[^\s\\])*\\?)",
        re.IGNORECASE | re.DOTALL,
    ),
)


@dataclass(frozen=True, slots=True)
class Wish:
    """``arguments``: a command line of its own, beginning with the command."""

    arguments: tuple[str, ...]
    as_json: bool


def read_wish(words: Iterable[str]) -> Wish:
    """What stands behind ``walkeeper config``.  Raises ConfigError."""
    verb, *rest = [*words] or [""]
    if verb != "show":
        raise ConfigError(f"there is only: {USAGE}")
    flags = [word for word in rest if word not in ("--", "--json")]
    if not flags or flags[0].startswith("-"):
        flags.insert(0, SHOWN[0])
    if flags[0] not in SHOWN:
        raise ConfigError(f"{flags[0]} is not shown; there is only: {USAGE}")
    return Wish(tuple(flags), "--json" in rest)


def redacted(text: str) -> str:
    """``text`` without the passwords in it; rather too little of it than too much."""
    for pattern in _IN_URI if _URI.match(text) else _IN_PAIRS:
        text = pattern.sub(rf"\g<before>{HIDDEN}", text)
    return text


def as_toml(effective: Iterable[tuple[Option, Given | None]]) -> str:
    return "\n".join(_line(option, given) for option, given in effective)


def _line(option: Option, given: Given | None) -> str:
    if given is None:
        return f"# {option.name} is not set"
    text = redacted(given.text)
    value = text if option.is_switch else json.dumps(text, ensure_ascii=False)
    return f"{option.name} = {value}  # {given.origin}"


def as_json(command: str, effective: Iterable[tuple[Option, Given | None]]) -> str:
    options = {
        option.name: None if given is None else {"value": redacted(given.text), "origin": given.origin}
        for option, given in effective
    }
    return json.dumps({"command": command, "options": options}, indent=2)
