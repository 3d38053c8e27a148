"""docs/testing.md names every defect that is made here, once, and the test that catches it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tables import Definition, code, definitions, docstring, rows

HERE = Path(__file__).parent


def defects() -> Iterator[Definition]:
    for path in sorted(HERE.glob("test_*.py")):
        for node in definitions(path).values():
            if "defect" in map(ast.unparse, node.decorator_list):
                yield node


def listed() -> list[tuple[str, str, str]]:
    """Of each defect its name, what is wrong with it, and the test."""
    return [(code(name)[0], words, code(test)[0]) for name, words, test in rows("testing.md", "Sabotage")]


def test_the_table_names_every_defect_once() -> None:
    marked = [node.name for node in defects()]
    assert sorted(name for name, *_ in listed()) == sorted(marked)
    assert len(set(marked)) == len(marked) >= 20


def test_the_table_says_of_each_what_its_docstring_says() -> None:
    assert {name: words for name, words, _ in listed()} == {
        node.name: docstring(node).rstrip(".") for node in defects()
    }


def test_every_test_in_the_table_makes_its_defect() -> None:
    for name, _, place in listed():
        file, _, test = place.partition("::")
        assert re.search(rf"\b{name}\b", ast.unparse(definitions(HERE / file)[test])), (name, place)
