"""docs/testing.md names every defect that is made here, once, and the test that catches it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[1] / "docs" / "testing.md"
ROW = re.compile(r"\| `(\w+)` \| (.+) \| `(\w+\.py)::(test_\w+)` \|")

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def definitions() -> Iterator[tuple[str, Definition]]:
    for path in sorted(HERE.glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, Definition):
                yield path.name, node


def is_defect(node: Definition) -> bool:
    return "defect" in map(ast.unparse, node.decorator_list)


def rows() -> list[tuple[str, str, str, str]]:
    """Of each defect its name, what is wrong with it, and the file and the name of the test."""
    section = DOCUMENT.read_text().partition("\n## Sabotage\n")[2].partition("\n## ")[0]
    return [match.groups() for match in map(ROW.fullmatch, section.splitlines()) if match]  # type: ignore[misc]


def test_the_table_names_every_defect_once() -> None:
    marked = [node.name for _, node in definitions() if is_defect(node)]
    assert sorted(name for name, *_ in rows()) == sorted(marked)
    assert len(set(marked)) == len(marked) >= 20


def test_the_table_says_of_each_what_its_docstring_says() -> None:
    docstrings = {node.name: ast.get_docstring(node) or "" for _, node in definitions() if is_defect(node)}
    assert {name: words for name, words, *_ in rows()} == {
        name: " ".join(words.split()).rstrip(".") for name, words in docstrings.items()
    }


def test_every_test_in_the_table_makes_its_defect() -> None:
    tests = {(file, node.name): ast.unparse(node) for file, node in definitions()}
    for name, _, file, test in rows():
        assert re.search(rf"\b{name}\b", tests[file, test]), (name, test)
