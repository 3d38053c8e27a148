"""The tables of docs/ that name tests, and the tests that they name."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

TESTS = Path(__file__).resolve().parent
DOCS = TESTS.parent / "docs"
TESTING = TESTS.parent / "src" / "walkeeper" / "testing"

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def rows(document: str, section: str, level: int = 2) -> list[list[str]]:
    """The cells of the tables in a section of a document, headings left out."""
    heading = "#" * level
    text = f"\n{(DOCS / document).read_text()}".partition(f"\n{heading} {section}\n")[2]
    text = re.split(rf"\n#{{1,{level}}} ", text)[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"
    ]
    rules = [number for number, row in enumerate(cells) if set("".join(row)) <= set("-|")]
    return [row for number, row in enumerate(cells) if number not in rules and number + 1 not in rules]


def code(cell: str) -> list[str]:
    """What stands in backquotes."""
    return re.findall(r"`([^`]+)`", cell)


@cache
def definitions(path: Path) -> dict[str, Definition]:
    """The functions and classes of a module by name; what is inside of them is left out."""
    return {node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, Definition)}


def docstring(node: Definition) -> str:
    return " ".join((ast.get_docstring(node) or "").split())


def names(text: str, kind: str, name: str) -> bool:
    """Whether ``text`` speaks of the hazard or invariant of that name: "hazards W1, W4 and 2.9", "T1 to T4"."""
    return name in set(mentioned(text, kind))


def mentioned(text: str, kind: str) -> Iterator[str]:
    one = r"[A-Z]?\d+(?:\.\d+)?"
    for match in re.finditer(rf"\b{kind}s? ({one}(?:(?:, | and | or | to |, and )+{one})*)", text, re.IGNORECASE):
        yield from re.findall(one, match[1])
        for first, last in re.findall(rf"({one}) to ({one})", match[1]):
            letter, begin, end = first.rstrip("0123456789"), *(int(each.lstrip("CLRTW")) for each in (first, last))
            yield from (f"{letter}{number}" for number in range(begin, end + 1))
