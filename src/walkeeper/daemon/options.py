"""One option, three ways to set it, one rule: flag > environment variable > TOML key > default.

An option is declared once, as the field of a frozen dataclass (``option`` or ``switch``); its flag, its variable,
its TOML key and its help text follow from the declaration.  ``--listen-pg`` is ``WALKEEPER_LISTEN_PG`` is
``listen-pg``.  A part of a configuration is a field whose type is such a dataclass; parts change no names.
What is told by its place on the command line (``argument``) has no other way to be said.

Whatever nobody declared is refused by name, and so is a value that does not parse: with the place it came from,
in one line (ConfigError).  A flag given twice counts the last time, as Neon's tooling expects.

Does not know which options exist: ``config`` does.
"""

import argparse
import difflib
import shlex
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar, cast, get_type_hints, overload

from walkeeper.daemon.values import parse_path, parse_switch
from walkeeper.errors import ConfigError

T = TypeVar("T")

ENVIRONMENT_PREFIX: Final = "WALKEEPER_"

CONDITION: Final = "condition"
"""Where a field's metadata says when its options are of use."""


@dataclass(frozen=True, slots=True)
class Option:
    """The declaration of one option.  ``default`` is text, as an operator would write it; None: not set.

    ``is_positional``: its place says what it is, not a flag; ``is_rest``: so are all words behind it, flags or not.
    """

    name: str
    parse: Callable[[str], object]
    help: str
    short: str | None = None
    default: str | None = None
    metavar: str | None = None
    required: bool = False
    is_positional: bool = False
    is_rest: bool = False

    @property
    def flag(self) -> str:
        return self.name if self.is_positional else f"--{self.name}"

    @property
    def variable(self) -> str:
        return ENVIRONMENT_PREFIX + self.name.upper().replace("-", "_")

    @property
    def is_switch(self) -> bool:
        return self.parse is parse_switch


@dataclass(frozen=True, slots=True)
class Given:
    """A value as it was written, and where."""

    text: str
    origin: str


Source = Mapping[str, Given]
"""What one place says: option name -> value."""


# -- declaring ----------------------------------------------------------------------------------------------


@overload
def option(
    name: str,
    parse: Callable[[str], T],
    *,
    default: str,
    help: str,
    short: str | None = None,
    metavar: str | None = None,
) -> T: ...
@overload
def option(
    name: str,
    parse: Callable[[str], T],
    *,
    required: bool,
    help: str,
    short: str | None = None,
    metavar: str | None = None,
) -> T: ...
@overload
def option(
    name: str, parse: Callable[[str], T], *, help: str, short: str | None = None, metavar: str | None = None
) -> T | None: ...
def option(name: str, parse: Callable[[str], Any], **declaration: Any) -> Any:
    """A dataclass field that an operator can set.  Without ``default`` it may stay None, unless ``required``."""
    declared = Option(name, parse, **declaration)
    if declared.required:
        return field(metadata={Option: declared}, kw_only=True)
    default = None if declared.default is None else parse(declared.default)
    return field(default=default, metadata={Option: declared}, kw_only=True)


def argument(name: str, parse: Callable[[str], T], *, help: str) -> T:
    """A dataclass field that is told by its place on the command line, and must be."""
    declared = Option(name, parse, help, required=True, is_positional=True)
    return cast("T", field(metadata={Option: declared}, kw_only=True))


def rest_of_line(name: str, *, help: str) -> tuple[str, ...]:
    """A dataclass field that has all words that are left on the command line, which are another command's."""
    declared = Option(name, _parse_words, help, is_positional=True, is_rest=True)
    return cast("tuple[str, ...]", field(default=(), metadata={Option: declared}, kw_only=True))


def _parse_words(text: str) -> tuple[str, ...]:
    return tuple(shlex.split(text))


def switch(name: str, *, help: str, short: str | None = None) -> bool:
    """A dataclass field that is False until the flag is given (as a variable or TOML key: ``true`` or ``false``)."""
    return option(name, parse_switch, default="false", help=help, short=short)


def part(condition: str) -> Any:
    """A dataclass field that is itself declared so, and of use only on a condition, which the help of its options says."""
    return field(metadata={CONDITION: f"{condition}: "}, kw_only=True)


def options_of(shape: type[object]) -> Iterator[Option]:
    """Every option that ``shape`` and its parts declare, in the order of declaration."""
    hints = get_type_hints(shape)
    for each in fields(cast("Any", shape)):
        if Option in each.metadata:
            yield each.metadata[Option]
        elif is_dataclass(shape_of_part := hints[each.name]):
            condition = each.metadata.get(CONDITION, "")
            for declared in options_of(cast("type[object]", shape_of_part)):
                yield replace(declared, help=f"{condition}{declared.help}")


CONFIG_FILE: Final = Option(
    "config", parse_path, "read options from this TOML file; its keys are the flags without their dashes",
    metavar="FILE",
)  # fmt: skip


# -- reading ------------------------------------------------------------------------------------------------


def settle(shape: type[T], flags: Source, environment: Source) -> T:
    """Build ``shape`` from what was given; the TOML file is the one that flags or environment name.

    Raises ConfigError for a value that does not parse, a required option that is missing, and whatever is wrong
    with the file.
    """
    return _build(shape, _gather(shape, flags, environment))


def effective(shape: type[object], flags: Source, environment: Source) -> Iterator[tuple[Option, Given | None]]:
    """Every option with what counts, and where that was said; None if nothing was, and there is no default.

    Raises ConfigError as ``settle`` does.
    """
    given = _gather(shape, flags, environment)
    _build(shape, given)
    for each in options_of(shape):
        default = None if each.default is None else Given(each.default, "default")
        yield each, given.get(each.name, default)


def _gather(shape: type[object], flags: Source, environment: Source) -> Source:
    given = ChainMap(dict(flags), dict(environment))
    if CONFIG_FILE.name in given:
        given.maps.append(dict(read_toml(Path(given[CONFIG_FILE.name].text), options_of(shape))))
    return given


def _build(shape: type[T], given: Source) -> T:
    hints = get_type_hints(shape)
    values: dict[str, object] = {}
    for each in fields(cast("Any", shape)):
        declared: Option | None = each.metadata.get(Option)
        if declared is None:
            if is_dataclass(shape_of_part := hints[each.name]):
                values[each.name] = _build(cast("type[object]", shape_of_part), given)
        elif declared.name in given:
            values[each.name] = _parse(declared, given[declared.name])
        elif declared.required:
            raise ConfigError(
                f"{declared.flag} is needed (or {declared.variable}, or {declared.name} in a TOML file)"
            )
    return shape(**values)


def _parse(declared: Option, given: Given) -> object:
    try:
        return declared.parse(given.text)
    except ValueError as error:
        raise ConfigError(f"{given.origin}: {error}") from None


def read_environment(environment: Mapping[str, str], known: Iterable[Option]) -> Source:
    """What the variables say.  ``known``: the options of every command, since a container shares its environment.

    Raises ConfigError for a variable that starts like ours and is none.
    """
    options = {each.variable: each for each in (CONFIG_FILE, *known) if not each.is_positional}
    ours = {name: text for name, text in environment.items() if name.startswith(ENVIRONMENT_PREFIX)}
    for name in ours:
        if name not in options:
            raise ConfigError(f"unknown environment variable {name}{_suggestion(name, options)}")
    return {options[name].name: Given(text, name) for name, text in ours.items()}


def read_toml(path: Path, known: Iterable[Option]) -> Source:
    """What the file says.  Raises ConfigError if it cannot be read, is not TOML, or has a key that is no option."""
    import tomllib  # few have such a file, and loading it takes longer than reading one

    options = {each.name: each for each in known if not each.is_positional}
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    for key in document:
        if key not in options:
            raise ConfigError(f"unknown key {key} in {path}{_suggestion(key, options)}")
    return {key: Given(_text_of(value, key, path), f"{key} in {path}") for key, value in document.items()}


def _text_of(value: object, key: str, path: Path) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str() | int() | float():
            return str(value)
        case _:
            raise ConfigError(f"{key} in {path}: expected a string, a number, true or false")


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


# -- flags --------------------------------------------------------------------------------------------------


class FlagParser(argparse.ArgumentParser):
    """An ArgumentParser that raises ConfigError where the original prints its usage and exits."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> Any:
        raise ConfigError(f"{message} (see {self.prog} --help)")


def add_flags(parser: argparse.ArgumentParser, options: Iterable[Option]) -> None:
    """Teach ``parser`` the flags.  They stay text: ``settle`` parses all sources alike."""
    for each in (*options, CONFIG_FILE):
        names = [each.flag] if each.short is None else [each.short, each.flag]
        settings: dict[str, Any] = {"dest": each.name, "default": argparse.SUPPRESS, "help": _help(each)}
        if each.is_rest:
            parser.add_argument(each.name, nargs=argparse.REMAINDER, help=_help(each))
        elif each.is_positional:
            parser.add_argument(each.name, help=_help(each))
        elif each.is_switch:
            parser.add_argument(*names, action="store_const", const="true", **settings)
        else:
            parser.add_argument(*names, metavar=each.metavar or "VALUE", **settings)


def _help(declared: Option) -> str:
    notes = [] if declared.is_positional else [declared.variable]
    if declared.default is not None and not declared.is_switch:
        notes.insert(0, f"default {declared.default}")
    text = f"{declared.help} [{', '.join(notes)}]" if notes else declared.help
    return text.replace("%", "%%")


def read_flags(arguments: argparse.Namespace, options: Iterable[Option]) -> Source:
    """What the command line says."""
    said = vars(arguments)
    return {
        each.name: Given(_words(said[each.name]), each.flag)
        for each in (*options, CONFIG_FILE)
        if each.name in said
    }


def _words(said: str | list[str]) -> str:
    return said if isinstance(said, str) else shlex.join(said)
