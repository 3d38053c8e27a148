"""Just enough of PromQL to see which series a query asks for, and by which labels it tells them apart.

A query is taken apart into tokens; whatever is neither a function, an aggregation, a keyword nor a label is a metric.
Whether the query makes sense is promtool's to say.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""\s+ | \#[^\n]*
    | (?P<string> "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*' )
    | (?P<number> [0-9][0-9a-zA-Z.]* )                    # and durations
    | (?P<name> [a-zA-Z_][a-zA-Z0-9_:]* )
    | (?P<sign> =~ | !~ | != | == | >= | <= | . )
    """,
    re.VERBOSE | re.DOTALL,
)

WITH_LABELS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
AGGREGATIONS = {
    "sum", "min", "max", "avg", "group", "stddev", "stdvar", "count", "count_values", "bottomk", "topk", "quantile",
}  # fmt: skip
KEYWORDS = {"and", "or", "unless", "bool", "offset", "atan2"}


class NotUnderstood(Exception):
    """This is no PromQL, or more of it than is used here."""


@dataclass(frozen=True, slots=True)
class Selector:
    """A metric's name, and what is asked of its labels: for each the operator and the value."""

    name: str
    matchers: Mapping[str, tuple[str, str]]

    @property
    def job(self) -> str | None:
        """The value that is asked of ``job``, perhaps of two jobs: ``a|b``."""
        return self.matchers["job"][1] if "job" in self.matchers else None


@dataclass(slots=True)
class Query:
    """The series that are selected, and the labels by which they are put together."""

    selectors: list[Selector] = field(default_factory=list)
    labels: set[str] = field(default_factory=set)


def parse(text: str) -> Query:
    """Take ``text`` apart.  Raises NotUnderstood."""
    tokens = list(_tokens(text))
    query = Query()
    at = 0
    while at < len(tokens):
        kind, word = tokens[at]
        at += 1
        if word == "{":
            raise NotUnderstood(f"a selector without a metric in {text!r}")
        if kind != "name" or word in KEYWORDS or word in AGGREGATIONS:
            continue
        if word in WITH_LABELS:
            names, at = _until(tokens, at, "(", ")")
            query.labels.update(name for kind, name in names if kind == "name")
        elif tokens[at : at + 1] == [("sign", "{")]:
            matchers, at = _until(tokens, at, "{", "}")
            query.selectors.append(Selector(word, _matchers(matchers)))
        elif tokens[at : at + 1] != [("sign", "(")]:  # a function has a parenthesis
            query.selectors.append(Selector(word, {}))
    return query


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    for match in _TOKEN.finditer(text):
        if match.lastgroup is not None:
            yield match.lastgroup, match[0]


def _until(
    tokens: Sequence[tuple[str, str]], at: int, opening: str, closing: str
) -> tuple[Sequence[tuple[str, str]], int]:
    """What stands between two signs, of which the first must be next, and where it goes on."""
    if tokens[at : at + 1] != [("sign", opening)]:
        raise NotUnderstood(f"no {opening!r} at token {at}")
    try:
        end = tokens.index(("sign", closing), at)
    except ValueError:
        raise NotUnderstood(f"no {closing!r} behind token {at}") from None
    return tokens[at + 1 : end], end + 1


def _matchers(tokens: Sequence[tuple[str, str]]) -> dict[str, tuple[str, str]]:
    found = {}
    rest = [word for _, word in tokens if word != ","]
    if len(rest) % 3:
        raise NotUnderstood(f"these are no matchers: {rest}")
    for name, operator, value in zip(*[iter(rest)] * 3, strict=True):
        found[name] = operator, value[1:-1]
    return found
