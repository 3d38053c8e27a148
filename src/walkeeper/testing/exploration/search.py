"""Breadth-first search: every state once, the nearest first, so that the way to a fault is a shortest one.

Knows nothing of what the states mean.
"""

from array import array
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

S = TypeVar("S", bound=Hashable)
Event = TypeVar("Event")
Event_co = TypeVar("Event_co", covariant=True)
Faults = Sequence[object]
Progress = Callable[[int, int, int], None]
"""Is told depth, states and steps."""


class Space(Protocol[S, Event_co]):
    """States, and steps between them.  A step from a state and one from its canonical form lead to the same."""

    def initial(self) -> S: ...

    def canonical(self, state: S) -> S: ...

    def successors(self, state: S) -> Iterator[tuple[Event_co, S, Faults]]: ...

    def judge(self, state: S) -> Faults: ...


@dataclass(frozen=True, slots=True)
class Violation(Generic[S, Event]):
    """What was wrong, and a shortest way to it from the initial state, names as they were in that state."""

    faults: Faults
    trace: Sequence[tuple[Event, S]]


@dataclass(frozen=True, slots=True)
class Found(Generic[S, Event]):
    """``depth``: how many steps the farthest state is away.  ``is_complete``: there are no other states."""

    states: int
    steps: int
    depth: int
    is_complete: bool
    violation: Violation[S, Event] | None = None


def explore(
    space: Space[S, Event],
    *,
    states_max: int | None = None,
    depth_max: int | None = None,
    progress: Progress | None = None,
) -> Found[S, Event]:
    """Visit states until there are none left, one is wrong, or a limit is reached.

    ``progress`` is told depth, states and steps whenever a depth is done.
    """
    first = space.canonical(space.initial())
    numbers, order, parents = {first: 0}, [first], array("q", [-1])
    steps, depth, begin = 0, 0, 0
    if faults := space.judge(first):
        return Found(1, 0, 0, is_complete=False, violation=Violation(faults, ()))
    while begin < len(order):
        if depth == depth_max or (states_max is not None and len(order) >= states_max):
            return Found(len(order), steps, depth, is_complete=False)
        end = len(order)
        for parent in range(begin, end):
            for _, raw, faults in space.successors(order[parent]):
                steps += 1
                state = space.canonical(raw)
                is_new = state not in numbers
                if is_new:
                    numbers[state] = len(order)
                    order.append(state)
                    parents.append(parent)
                wrong = faults or (space.judge(state) if is_new else ())
                if wrong:
                    way = _way(order, parents, parent)
                    violation = Violation(wrong, _retrace(space, [*way, state], wrong))
                    return Found(len(order), steps, depth + 1, is_complete=False, violation=violation)
        begin = end
        if len(order) > end:
            depth += 1
        if progress is not None:
            progress(depth, len(order), steps)
    return Found(len(order), steps, depth, is_complete=True)


def _way(order: Sequence[S], parents: Sequence[int], number: int) -> list[S]:
    way = []
    while number >= 0:
        way.append(order[number])
        number = parents[number]
    return way[::-1]


def _retrace(space: Space[S, Event], way: Sequence[S], faults: Faults) -> Sequence[tuple[Event, S]]:
    """The steps along ``way``, without changing any names on it."""
    raw, trace = space.initial(), []
    for place, wanted in enumerate(way[1:], 1):
        is_last = place == len(way) - 1
        step, raw = next(
            (step, after)
            for step, after, wrong in space.successors(raw)
            if space.canonical(after) == wanted
            and (not is_last or wrong == faults or space.judge(space.canonical(after)) == faults)
        )
        trace.append((step, raw))
    return trace
