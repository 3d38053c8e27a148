"""What the manual lists is what there is."""

import re
from pathlib import Path

from walkeeper.auth.certificates import POSTGRES_ALPN
from walkeeper.auth.scram import BINDING_NAME, BOUND, UNBOUND
from walkeeper.control.looks import WATCHERS_MAX
from walkeeper.daemon import config
from walkeeper.services import sqlstate

DOCS = Path(__file__).parents[2] / "docs"
PROTOCOL, OPERATIONS, HTTP_API = [
    (DOCS / f"{name}.md").read_text() for name in ("protocol", "operations", "http-api")
]


def section(text: str, heading: str) -> str:
    return text.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def test_every_sqlstate_is_in_the_table_and_no_other() -> None:
    listed = re.findall(r"(?m)^\| ([0-9A-Z]{5}) \|", section(PROTOCOL, "Errors"))
    said = re.findall(r'"([0-9A-Z]{5})"', Path(sqlstate.__file__).read_text())
    assert set(listed) == set(said)


def test_how_clients_get_in_is_told_by_the_names_that_go_over_the_wire() -> None:
    text = section(PROTOCOL, "Getting in")
    names = ["SSLRequest", POSTGRES_ALPN, BOUND, UNBOUND, BINDING_NAME.decode()]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_every_flag_that_is_ours_alone_is_among_the_differences() -> None:
    assert config.__doc__ is not None
    ours = re.findall(r"``(--[a-z-]+)``", config.__doc__.partition("Ours alone:")[2])
    row = re.findall(r"(?m)^\| (.*) \| exist \| do not \|$", section(OPERATIONS, "Configuration"))
    assert ours
    assert [flag for flag in ours if f"`{flag}`" not in row[0]] == []


def test_of_503_it_is_told_that_there_may_be_no_room() -> None:
    (row,) = re.findall(r"(?m)^\| 503 \| (.*) \|$", HTTP_API)
    assert "no room for WAL" in row
    assert f"{WATCHERS_MAX} are watching" in row


def test_the_api_is_said_to_be_there_over_https() -> None:
    assert "`--listen-https`" in HTTP_API
