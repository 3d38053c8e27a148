"""The mark of what is broken on purpose.  docs/testing.md lists all that carry it, and test_table.py compares."""

from typing import TypeVar

T = TypeVar("T")


def defect(broken: T) -> T:
    """For the class or function that takes the place of one that is right; its docstring says what is wrong with it."""
    return broken
