"""What ``walkeeper check`` says: verdicts, as lines for people and as JSON for programs.

Rules: text from servers comes out in printable characters only.  In the JSON fields may be added.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import msgspec

from walkeeper.errors import printable


class Grade(Enum):
    """``WARN``: it works, and somebody may be sorry later.  ``FAIL``: it does not work, or acknowledged WAL may be lost."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of what, how it is, and what can be done about it; the last is empty where all is well."""

    grade: Grade
    subject: str
    what: str
    remedy: str = ""


def ok(subject: str, what: str) -> Verdict:
    return Verdict(Grade.OK, subject, what)


def warn(subject: str, what: str, remedy: str) -> Verdict:
    return Verdict(Grade.WARN, subject, what, remedy)


def fail(subject: str, what: str, remedy: str) -> Verdict:
    return Verdict(Grade.FAIL, subject, what, remedy)


def graded(grade: Grade, verdicts: Sequence[Verdict]) -> Sequence[Verdict]:
    return [each for each in verdicts if each.grade is grade]


def as_text(verdicts: Sequence[Verdict]) -> str:
    return "\n".join(map(_line, verdicts))


def _line(verdict: Verdict) -> str:
    remedy = f"; to do: {verdict.remedy}" if verdict.remedy else ""
    return printable(f"{verdict.grade.value:4} {verdict.subject}: {verdict.what}{remedy}")


def as_json(verdicts: Sequence[Verdict]) -> str:
    document = {
        "failed": len(graded(Grade.FAIL, verdicts)),
        "warned": len(graded(Grade.WARN, verdicts)),
        "verdicts": verdicts,
    }
    return msgspec.json.format(msgspec.json.encode(document)).decode()
