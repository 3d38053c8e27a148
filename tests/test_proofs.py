"""docs/testing.md says of each hazard and each invariant what checks it, and that is true."""

import re
from collections.abc import Sequence
from pathlib import Path

from tables import TESTING, TESTS, code, definitions, docstring, mentioned, names, rows

HAZARDS = [
    *(f"W{number}" for number in range(1, 11)),
    *(f"{letter}{number}" for letter in "TCL" for number in range(1, 7)),
    *(f"R{number}" for number in range(1, 5)),
    "2.9",
]

CHECKERS = {
    "worlds": [TESTING / "witness.py", TESTING / "truth.py"],
    "small worlds": [TESTING / "exploration" / "invariants.py"],
    "invented stories": [TESTS / "acceptor_machine.py"],
    "loss of power": [TESTS / "promises.py"],
    "cancellation": [TESTS / "tortured.py"],
}
"""The columns of the table of invariants, and the modules whose checks they stand for."""


def assert_named(place: str, kind: str, name: str) -> None:
    """The test at ``place`` exists, and its docstring names the hazard or invariant that it is listed for."""
    file, _, test = place.partition("::")
    assert test.startswith("test_"), place
    found = definitions(TESTS / file).get(test)
    assert found is not None, f"there is no test {place}"
    assert names(docstring(found), kind, name), f"{place} does not name {kind} {name}"


def proves(cell: str, kind: str, name: str) -> bool:
    """Whether tests are listed; else the reason must be given why there are none."""
    places = code(cell)
    for place in places:
        assert_named(place, kind, name)
    return bool(places)


def checked_in(modules: Sequence[Path]) -> set[str]:
    """The numbers of the invariants whose violation the modules speak of."""
    text = "\n".join(path.read_text() for path in modules)
    told = re.findall(r'"(\d+): ', text) + re.findall(r'Fault\(\s*"(\d+)"', text)
    return {*mentioned(text, "invariant"), *told}


def test_every_hazard_has_a_test_that_names_it_or_does_not_apply() -> None:
    table = rows("testing.md", "Hazards")
    assert [name for name, _ in table] == HAZARDS
    for name, proof in table:
        assert proves(proof, "hazard", name) or proof.startswith("does not apply: "), name


def test_what_is_done_about_it_is_said_of_every_hazard() -> None:
    told = [name for cell, *_ in rows("guarantees.md", "Hazards") for name in cell.split(", ")]
    assert sorted(told) == sorted(HAZARDS)


def test_every_invariant_is_checked_by_something_or_is_not_ours_yet() -> None:
    table = rows("testing.md", "Invariants")
    parts = ("One acceptor", "Storage", "The quorum", "Lost disks", "Life")
    promised = [row[0] for part in parts for row in rows("guarantees.md", part, level=3)]
    numbers = sorted((number for cell in promised for number in cell.split(", ")), key=int)
    assert [row[0] for row in table] == numbers == [str(number) for number in range(1, 50)]
    for number, *marks, proof in table:
        assert proves(proof, "invariant", number) or any(marks) or proof.startswith("not yet: "), number


def test_the_table_of_invariants_knows_what_each_checker_checks() -> None:
    table = rows("testing.md", "Invariants")
    for column, modules in enumerate(CHECKERS.values(), 1):
        assert {row[0] for row in table if row[column]} == checked_in(modules), list(CHECKERS)[column - 1]
