"""The password file, as libpq reads it."""

from dataclasses import replace
from pathlib import Path

import pytest

from walkeeper.links.conninfo import ConnectionInfo
from walkeeper.links.passfile import with_password

INFO = ConnectionInfo("db", 5433, user="keeper", dbname="app")


def look_up(path: Path, text: str, info: ConnectionInfo = INFO, mode: int = 0o600) -> tuple[str | None, list[str]]:
    """The password found, and what was warned of."""
    file = path / "pgpass"
    file.write_text(text)
    file.chmod(mode)
    warnings: list[str] = []
    return with_password(replace(info, passfile=file), "replication", warnings.append).password, warnings


@pytest.mark.parametrize(
    ("line", "password"),
    [
        ("db:5433:replication:keeper:secret", "secret"),
        ("*:*:*:*:secret", "secret"),
        ("db:5433:app:keeper:secret", None),
        ("other:5433:replication:keeper:secret", None),
        ("db:5432:replication:keeper:secret", None),
        ("db:5433:replication:other:secret", None),
        (r"db:5433:replication:keeper:with\:colon\\and backslash", r"with:colon\and backslash"),
        ("db:5433:replication:keeper:with:colon", "with:colon"),
        (r"\*:5433:replication:keeper:secret", None),
        ("# db:5433:replication:keeper:secret", None),
        ("db:5433:replication", None),
        ("", None),
    ],
)
def test_a_line_fits_or_does_not(tmp_path: Path, line: str, password: str | None) -> None:
    assert look_up(tmp_path, line + "\n") == (password, [])


def test_the_first_line_that_fits_counts(tmp_path: Path) -> None:
    lines = "other:*:*:*:no\n*:*:replication:*:first\ndb:5433:replication:keeper:second\n"
    assert look_up(tmp_path, lines)[0] == "first"


def test_a_default_unix_socket_is_localhost(tmp_path: Path) -> None:
    info = ConnectionInfo("/tmp", 5433, user="keeper")
    assert look_up(tmp_path, "localhost:*:*:keeper:secret", info)[0] == "secret"


def test_a_file_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    password, warnings = look_up(tmp_path, "*:*:*:*:secret", mode=0o640)
    assert password is None
    assert len(warnings) == 1


def test_something_else_than_a_plain_file_is_not_used(tmp_path: Path) -> None:
    warnings: list[str] = []
    assert with_password(replace(INFO, passfile=tmp_path), "replication", warnings.append).password is None
    assert len(warnings) == 1


def test_no_file_is_no_password_and_no_warning(tmp_path: Path) -> None:
    warnings: list[str] = []
    assert with_password(replace(INFO, passfile=tmp_path / "no"), "replication", warnings.append).password is None
    assert warnings == []


def test_a_password_that_was_given_is_kept(tmp_path: Path) -> None:
    assert look_up(tmp_path, "*:*:*:*:secret", replace(INFO, password="given"))[0] == "given"
