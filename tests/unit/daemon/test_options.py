"""One option, three ways to set it, one rule."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.daemon.options import (
    FlagParser,
    Given,
    Source,
    add_flags,
    argument,
    option,
    options_of,
    part,
    read_environment,
    read_flags,
    read_toml,
    settle,
    switch,
)
from walkeeper.daemon.values import parse_duration_seconds, parse_text
from walkeeper.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Part:
    pause_seconds: float = option("pause", parse_duration_seconds, default="1s", help="how long")


@dataclass(frozen=True, slots=True)
class Whole:
    part: Part
    target: str = option("the-target", parse_text, required=True, short="-t", help="where to, 100% sure")
    name: str | None = option("name", parse_text, help="who")
    quiet: bool = switch("quiet", help="say nothing")


OPTIONS = tuple(options_of(Whole))


def flags(*arguments: str) -> Source:
    parser = FlagParser(prog="test")
    add_flags(parser, OPTIONS)
    return read_flags(parser.parse_args(arguments), OPTIONS)


def environment(**variables: str) -> Source:
    return read_environment(variables, OPTIONS)


def written(path: Path, toml: str) -> str:
    path.write_text(toml)
    return str(path)


def refusal(flags: Source, environment: Source) -> str:
    with pytest.raises(ConfigError) as caught:
        settle(Whole, flags, environment)
    return str(caught.value)


def test_what_nobody_set_has_its_default() -> None:
    whole = settle(Whole, flags("-t", "here"), {})
    assert whole == Whole(Part(pause_seconds=1.0), target="here", name=None, quiet=False)


def test_options_of_parts_come_with_those_of_the_whole() -> None:
    assert [each.name for each in OPTIONS] == ["pause", "the-target", "name", "quiet"]


def test_options_of_a_part_that_is_not_always_used_say_when() -> None:
    @dataclass(frozen=True, slots=True)
    class Both:
        always: Part
        sometimes: Whole = part("with --rare")

    helps = {each.name: each.help for each in options_of(Both)}
    assert helps["name"] == "with --rare: who"
    assert settle(Both, flags("-t", "x"), {}).sometimes.target == "x"


@given(st.sets(st.sampled_from(["flag", "environment", "toml"])))
def test_a_flag_beats_a_variable_beats_a_key_beats_the_default(
    tmp_path_factory: pytest.TempPathFactory, said: set[str]
) -> None:
    path = written(tmp_path_factory.mktemp("config") / "c.toml", 'name = "toml"' if "toml" in said else "")
    arguments = ["-t", "x", "--config", path, *(["--name", "flag"] if "flag" in said else [])]
    variables = {"WALKEEPER_NAME": "environment"} if "environment" in said else {}
    expected = next((place for place in ("flag", "environment", "toml") if place in said), None)
    assert settle(Whole, flags(*arguments), environment(**variables)).name == expected


def test_a_flag_given_twice_counts_the_last_time() -> None:
    assert settle(Whole, flags("--the-target=a", "-t", "b"), {}).target == "b"


def test_a_switch_is_a_bare_flag_and_elsewhere_true_or_false(tmp_path: Path) -> None:
    path = written(tmp_path / "c.toml", "quiet = true")
    assert settle(Whole, flags("-t", "x", "--quiet"), {}).quiet
    assert settle(Whole, flags("-t", "x", "--config", path), {}).quiet
    assert not settle(Whole, flags("-t", "x", "--config", path), environment(WALKEEPER_QUIET="false")).quiet


def test_a_required_option_that_nobody_set_is_named() -> None:
    assert "--the-target" in refusal({}, {})


def test_a_bad_value_is_reported_with_the_place_it_came_from(tmp_path: Path) -> None:
    target = {"the-target": Given("x", "test")}
    path = written(tmp_path / "c.toml", 'pause = "soon"')
    assert refusal(target | dict(flags("--pause", "soon")), {}).startswith("--pause: ")
    assert refusal(target, environment(WALKEEPER_PAUSE="soon")).startswith("WALKEEPER_PAUSE: ")
    assert refusal(target | dict(flags("--config", path)), {}).startswith(f"pause in {path}: ")


def test_a_bad_value_that_a_better_source_overrides_does_no_harm() -> None:
    assert settle(Whole, flags("-t", "x", "--pause", "2s"), environment(WALKEEPER_PAUSE="soon")).part == Part(
        pause_seconds=2.0
    )


def test_an_unknown_variable_is_named_and_the_likely_one_too() -> None:
    with pytest.raises(ConfigError) as caught:
        environment(WALKEEPER_NAMES="x", HOME="/")
    assert "WALKEEPER_NAMES" in str(caught.value)
    assert "WALKEEPER_NAME?" in str(caught.value)


def test_an_unknown_key_is_named_and_the_likely_one_too(tmp_path: Path) -> None:
    path = written(tmp_path / "c.toml", 'the_target = "x"')
    message = refusal(flags("--config", path), {})
    assert "the_target" in message
    assert "the-target?" in message


@pytest.mark.parametrize("toml", ["pause = 1.5", 'name = ["a"]', "[part]\npause = '1s'", "pause = ", "\x00"])
def test_a_file_that_says_something_else_is_refused_in_one_line(tmp_path: Path, toml: str) -> None:
    message = refusal(flags("-t", "x", "--config", written(tmp_path / "c.toml", toml)), {})
    assert str(tmp_path) in message
    assert "\n" not in message


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert str(tmp_path) in refusal(flags("-t", "x", "--config", str(tmp_path)), {})
    assert "absent" in refusal(flags("-t", "x", "--config", str(tmp_path / "absent")), {})


def test_the_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    path = written(tmp_path / "c.toml", 'the-target = "file"')
    assert settle(Whole, {}, environment(WALKEEPER_CONFIG=path)).target == "file"


@pytest.mark.parametrize("arguments", [["--nonsense"], ["--nam", "x"], ["--name"], ["stray"]])
def test_an_unknown_or_shortened_flag_is_refused(arguments: list[str]) -> None:
    with pytest.raises(ConfigError):
        flags(*arguments)


def test_the_help_names_every_way_to_set_an_option() -> None:
    parser = argparse.ArgumentParser(prog="test", formatter_class=argparse.RawTextHelpFormatter)
    add_flags(parser, OPTIONS)
    text = parser.format_help()
    assert "default 1s, WALKEEPER_PAUSE" in text
    assert "-t VALUE, --the-target VALUE" in text
    assert "100% sure" in text


@dataclass(frozen=True, slots=True)
class Positional:
    source: str = argument("SOURCE", parse_text, help="100% of what")
    pause_seconds: float = argument("PAUSE", parse_duration_seconds, help="how long")
    name: str | None = option("name", parse_text, help="who")


def test_arguments_are_told_by_their_place_among_the_flags_and_nowhere_else(tmp_path: Path) -> None:
    options = tuple(options_of(Positional))
    parser = FlagParser(prog="test")
    add_flags(parser, options)
    for arguments in (["here", "2s", "--name", "x"], ["--name", "x", "here", "2s"]):
        said = read_flags(parser.parse_args(arguments), options)
        assert settle(Positional, said, {}) == Positional(source="here", pause_seconds=2.0, name="x")
    with pytest.raises(ConfigError):
        read_environment({"WALKEEPER_SOURCE": "here"}, options)
    with pytest.raises(ConfigError):
        read_toml(Path(written(tmp_path / "c.toml", 'SOURCE = "here"')), options)
    assert "SOURCE" in parser.format_help()


@pytest.mark.parametrize("arguments", [[], ["here"], ["here", "2s", "there"], ["here", "soon"]])
def test_arguments_that_are_missing_wrong_or_too_many_are_refused(arguments: list[str]) -> None:
    options = tuple(options_of(Positional))
    parser = FlagParser(prog="test")
    add_flags(parser, options)
    with pytest.raises(ConfigError):
        settle(Positional, read_flags(parser.parse_args(arguments), options), {})
