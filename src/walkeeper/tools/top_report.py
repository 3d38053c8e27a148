"""How ``walkeeper top`` looks: a screen as wide as the terminal, or JSON for programs.

Rules: no line is wider than the terminal, and columns that do not fit are left out, the least important first.  Whatever
others have named themselves comes out in printable characters only.  Colour only where it is asked for, and never alone: a
problem is also a line of text.
"""

import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from walkeeper.errors import printable
from walkeeper.tools.top import Overview, Problem, Round, Seen, Timeline

WIDTH_MIN: Final = 40
PROBLEMS_MAX: Final = 20
"""That are explained below the tables: more fills the screen, and the first ones come first."""

CLEAR: Final = "\x1b[H\x1b[2J"
"""Home, and everything away."""

_INK: Final = {"red": "\x1b[31m", "amber": "\x1b[33m", "green": "\x1b[32m", "bold": "\x1b[1m"}
_PLAIN: Final = "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Column:
    """``weight``: the higher, the sooner it is left out where there is no room."""

    title: str
    weight: int = 0
    is_number: bool = False


KEEPERS: Final = (
    Column("keeper"),
    Column("id", 1),
    Column("state"),
    Column("up", 4),
    Column("timelines", 2, is_number=True),
    Column("written", 5, is_number=True),
    Column("writes", 1, is_number=True),
    Column("waiting", 1, is_number=True),
    Column("readers", 6, is_number=True),
    Column("memory", 7, is_number=True),
    Column("loop lag", 8, is_number=True),
    Column("fsync", 3, is_number=True),
    Column("version", 9),
)

TIMELINES: Final = (
    Column("timeline"),
    Column("keeper"),
    Column("state"),
    Column("term", 4, is_number=True),
    Column("committed", 1),
    Column("flushed", 6),
    Column("waiting", 0, is_number=True),
    Column("writes", 3, is_number=True),
    Column("writers", 7, is_number=True),
    Column("readers", 5, is_number=True),
)


def as_json(now: Round) -> str:
    document = {
        "keepers": [
            {"address": str(each.address), "trouble": each.trouble or None, "overview": each.document}
            for each in now.seen
        ]
    }
    return msgspec.json.format(msgspec.json.encode(document)).decode()


def as_screen(
    now: Round, before: Round | None, width: int, height: int | None = None, *, in_colour: bool = False
) -> str:
    """``before``: the round before this one, from which rates come.  ``height``: how many lines there is room for."""
    width = max(width, WIDTH_MIN)
    lines = [_headline(now, width)]
    lines += [("", ""), *_table(KEEPERS, list(_keeper_rows(now, before)), width)]
    rows = list(_timeline_rows(now, before))
    if rows:
        lines += [("", ""), *_table(TIMELINES, rows, width)]
    troubles = [line for each in _troubles(now) for line in _explained(*each, width)]
    if troubles:
        room = len(troubles) if height is None else max(6, min(len(troubles), height // 2))
        if height is not None:
            lines = lines[: max(4, height - room - 2)]
        lines += [("", ""), *troubles[:room]]
    shown = lines if height is None else lines[:height]
    return "\n".join(_ink(text, level, in_colour) for level, text in shown)


def _ink(text: str, level: str, in_colour: bool) -> str:
    return f"{_INK[level]}{text}{_PLAIN}" if in_colour and level in _INK else text


# -- rows -----------------------------------------------------------------------------------------------------


Line = tuple[str, str]
"""Its level, and its text."""

Row = tuple[str, Sequence[str]]
"""The same of cells."""


def _headline(now: Round, width: int) -> Line:
    answering = [each.overview for each in now.seen if each.overview]
    text = f"walkeeper top: {len(answering)} of {len(now.seen)} keepers answer"
    levels = [problem.level for each in now.seen for problem in each.problems()]
    red = levels.count("red") + len(now.seen) - len(answering)
    if red:
        text += f", {red} red"
    if answering:
        at = time.strftime("%H:%M:%S", time.gmtime(max(each.at for each in answering)))
        text += f", {at} UTC"
    return "bold", text[:width]


def _keeper_rows(now: Round, before: Round | None) -> Iterator[Row]:
    for each in now.seen:
        overview = each.overview
        if overview is None:
            yield "red", [str(each.address), "-", "lost", *["-"] * (len(KEEPERS) - 3)]
            continue
        keeper, totals = overview.keeper, overview.totals
        earlier = _earlier(each, before)
        written = _rate(
            totals.flushed_bytes, earlier.totals.flushed_bytes if earlier else None, _seconds_between(each, before)
        )
        yield (
            _worst(keeper.problems) or "green",
            [
                str(each.address),
                str(keeper.id),
                "behind" if keeper.state == "serving" and not keeper.is_ready else keeper.state,
                _seconds(overview.at - keeper.started_at),
                str(totals.timelines),
                str(totals.written),
                written,
                _bytes(totals.behind_bytes),
                str(totals.senders),
                _bytes(keeper.memory_bytes),
                _seconds(keeper.loop_lag_peak_seconds),
                _seconds(keeper.flush_peak_seconds),
                keeper.version,
            ],
        )


def _timeline_rows(now: Round, before: Round | None) -> Iterator[Row]:
    """The same timeline of all keepers together, in the order in which the first tells of it."""
    names = dict.fromkeys(each.name for one in now.seen if one.overview for each in one.overview.timelines)
    for name in names:
        is_first = True
        for each in now.seen:
            timeline = _timeline(each, name)
            if timeline is not None:
                yield _timeline_row(name if is_first else "", each, timeline, before)
                is_first = False


def _timeline_row(name: str, seen: Seen, timeline: Timeline, before: Round | None) -> Row:
    assert seen.overview is not None
    positions, earlier = timeline.positions, _earlier_timeline(seen, timeline.name, before)
    waiting = _bytes(timeline.behind_bytes)
    if timeline.behind_seconds >= 1:
        waiting += f" {_seconds(timeline.behind_seconds)}"
    state = timeline.standing
    if state == "open":
        state = "not whole" if not timeline.is_whole else "written" if timeline.receivers_count else "idle"
    return _worst(timeline.problems), [
        name,
        str(seen.overview.keeper.id),
        state,
        "-" if timeline.term is None else str(timeline.term),
        positions.commit_lsn if positions else "-",
        positions.flush_lsn if positions else "-",
        waiting,
        _rate(timeline.flushed_bytes, earlier.flushed_bytes if earlier else None, _seconds_between(seen, before)),
        str(timeline.receivers_count),
        str(timeline.senders_count),
    ]


def _troubles(now: Round) -> Iterator[tuple[str, str, str]]:
    """Level, about whom, and what: first what is red."""
    found = [
        ("red", f"keeper {each.address}", f"It does not answer: {each.trouble}.")
        for each in now.seen
        if each.overview is None
    ]
    for each in now.seen:
        if each.overview is None:
            continue
        number = each.overview.keeper.id
        found += [
            (problem.level, f"keeper {number}", _words(problem)) for problem in each.overview.keeper.problems
        ]
        for timeline in each.overview.timelines:
            about = f"{timeline.name} on keeper {number}"
            found += [(problem.level, about, _words(problem)) for problem in timeline.problems]
    found.sort(key=lambda each: each[0] != "red")
    yield from found[:PROBLEMS_MAX]
    if len(found) > PROBLEMS_MAX:
        yield "amber", "more", f"{len(found) - PROBLEMS_MAX} things are not shown (--json)."


def _words(problem: Problem) -> str:
    return f"{problem.what} {problem.advice} (docs/operations.md, {problem.see})"


def _explained(level: str, about: str, what: str, width: int) -> Iterator[Line]:
    text = printable(f"{about}: {what}")
    for line in textwrap.wrap(text, width, initial_indent="! ", subsequent_indent="  "):
        yield level, line


def _worst(problems: Sequence[Problem]) -> str:
    levels = {problem.level for problem in problems}
    return "red" if "red" in levels else "amber" if levels else ""


# -- the round before -------------------------------------------------------------------------------------------


def _earlier_seen(seen: Seen, before: Round | None) -> Seen | None:
    """What the same process said, if it did."""
    for each in before.seen if before else ():
        if each.address == seen.address and each.overview and seen.overview:
            same = each.overview.keeper.started_at == seen.overview.keeper.started_at
            return each if same else None
    return None


def _earlier(seen: Seen, before: Round | None) -> Overview | None:
    earlier = _earlier_seen(seen, before)
    return earlier.overview if earlier else None


def _earlier_timeline(seen: Seen, name: str, before: Round | None) -> Timeline | None:
    earlier = _earlier_seen(seen, before)
    return _timeline(earlier, name) if earlier else None


def _timeline(seen: Seen, name: str) -> Timeline | None:
    timelines = seen.overview.timelines if seen.overview else ()
    return next((each for each in timelines if each.name == name), None)


def _seconds_between(seen: Seen, before: Round | None) -> float:
    earlier = _earlier_seen(seen, before)
    return seen.overview.at - earlier.overview.at if seen.overview and earlier and earlier.overview else 0.0


# -- cells ----------------------------------------------------------------------------------------------------


def _rate(now_bytes: int, before_bytes: int | None, seconds: float) -> str:
    if before_bytes is None or seconds <= 0:
        return "-"
    return f"{_bytes(max(0, now_bytes - before_bytes) / seconds)}/s"


def _bytes(count: float) -> str:
    for unit in ("B", "K", "M", "G", "T"):
        if count < 999.5 or unit == "T":
            return f"{count:.1f}{unit}" if unit != "B" and count < 9.95 else f"{count:.0f}{unit}"
        count /= 1024
    raise AssertionError("the last unit fits all")


def _seconds(count: float) -> str:
    if count < 0.9995:
        return f"{count * 1000:.0f}ms"
    if count < 120:
        return f"{count:.0f}s"
    minutes = int(count // 60)
    if minutes < 120:
        return f"{minutes}m"
    hours = minutes // 60
    return f"{hours}h{minutes % 60:02}m" if hours < 48 else f"{hours // 24}d{hours % 24}h"


def _table(columns: Sequence[Column], rows: Sequence[Row], width: int) -> Iterator[Line]:
    """Columns as wide as they have to be; where there is no room the first one is cut, when others are left out."""
    cells = [[printable(cell) for cell in row] for _, row in rows]
    widths = [max(len(column.title), *(len(row[place]) for row in cells)) for place, column in enumerate(columns)]
    chosen = list(range(len(columns)))
    first_min = min(widths[0], 17)
    while sum(widths[place] + 2 for place in chosen[1:]) + first_min > width:
        least = max(chosen[1:], key=lambda place: columns[place].weight)
        if columns[least].weight == 0:
            break
        chosen.remove(least)
    widths[0] = max(first_min, min(widths[0], width - sum(widths[place] + 2 for place in chosen[1:])))
    titles = [column.title for column in columns]
    for level, row in [("", titles), *zip((level for level, _ in rows), cells, strict=True)]:
        text = "  ".join(_fitted(row[place], widths[place], columns[place]) for place in chosen)
        yield level, text.rstrip()[:width]


def _fitted(cell: str, width: int, column: Column) -> str:
    if len(cell) > width:
        half = (width - 1) // 2
        cell = f"{cell[: width - 1 - half]}…{cell[len(cell) - half :]}"
    return cell.rjust(width) if column.is_number else cell.ljust(width)
