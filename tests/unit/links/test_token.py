"""The token that is shown to keepers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from walkeeper.errors import ConfigError
from walkeeper.links.token import read_token, token_path


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "token"
    before = token_path.set(path)
    yield path
    token_path.reset(before)


def test_without_a_file_there_is_none() -> None:
    assert read_token() is None


def test_it_is_read_anew_each_time(path: Path) -> None:
    path.write_text("one\n")
    assert read_token() == "one"
    path.write_text("two")
    assert read_token() == "two"


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"\xff\xfe"])
def test_a_file_without_a_token_is_named(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=str(path)):
        read_token()


def test_a_file_that_is_missing_is_named(path: Path) -> None:
    with pytest.raises(ConfigError, match=str(path)):
        read_token()
