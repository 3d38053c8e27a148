"""`walkeeper config show`: every value with its origin, and no password."""

import json
import tomllib
from pathlib import Path

import pytest

from walkeeper.daemon.cli import run_command
from walkeeper.daemon.show import HIDDEN, redacted

SECRET = "s3cret"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("host=db1 password=s3cret user=u", "host=db1 password=*** user=u"),
        ("password = 's3cret \\' s3cret' user=u", "password = *** user=u"),
        ("password=s3cret\\ s3cret user=u", "password=*** user=u"),
        ("user=u PASSWORD='s3cret s3cret", "user=u PASSWORD=***"),
        ("password=s3cret&s3cret", "password=***"),
        ("sslpassword=s3cret", "sslpassword=***"),
        ("postgresql://u:s3cret@db1/x", "postgresql://u:***@db1/x"),
        ("postgres://u:s3cret@s3cret@db1/x", "postgres://u:***@db1/x"),
        ("postgres://u@db1/x?password=s3cret&sslmode=require", "postgres://u@db1/x?password=***&sslmode=require"),
        ("postgres://u:s3cret/s3cret@db1", "postgres://u:***@db1"),
        ("host=db1 user=u", "host=db1 user=u"),
        ("127.0.0.1:5454", "127.0.0.1:5454"),
    ],
)
def test_passwords_do_not_come_out_wherever_they_are(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert SECRET not in shown


def show(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run_command(["config", "show", *words], {}) == 0
    return capsys.readouterr().out


def test_each_value_has_the_place_that_counts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "walkeeper.toml"
    file.write_text('listen-pg = "h:1"\nlisten-http = "h:2"\nmax-connections = 7\n')
    monkeypatch.setenv("WALKEEPER_LISTEN_HTTP", "h:3")
    monkeypatch.setenv("WALKEEPER_MAX_CONNECTIONS", "8")
    out = show(capsys, "--max-connections", "9", "--config", str(file), "-n", "--json")
    options = json.loads(out)["options"]
    assert options["listen-pg"] == {"value": "h:1", "origin": f"listen-pg in {file}"}
    assert options["listen-http"] == {"value": "h:3", "origin": "WALKEEPER_LISTEN_HTTP"}
    assert options["max-connections"] == {"value": "9", "origin": "--max-connections"}
    assert options["no-sync"] == {"value": "true", "origin": "--no-sync"}
    assert options["shutdown-timeout"] == {"value": "3s", "origin": "default"}
    assert options["id"] is None


def test_what_is_shown_is_a_file_that_means_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shown = show(capsys, "--", "serve", "--id", "7", "-n")
    file = tmp_path / "shown.toml"
    file.write_text(shown)
    assert tomllib.loads(shown)["no-sync"] is True
    again = show(capsys, "serve", "--config", str(file))
    assert tomllib.loads(again) == tomllib.loads(shown)


def test_the_sidecars_password_is_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    primary = f"host=db1 password={SECRET}"
    for more in ((), ("--json",)):
        out = show(capsys, "propose", "--keepers", "a,b,c", "--primary", primary, *more)
        assert HIDDEN in out
        assert SECRET not in out


@pytest.mark.parametrize(
    "words", [[], ["hide"], ["show", "sync"], ["show", "--no-such-flag"], ["show", "--id", "zero"]]
)
def test_anything_else_is_a_mistake_in_one_line(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert run_command(["config", *words], {}) == 2
    assert capsys.readouterr().err.count("\n") == 1
