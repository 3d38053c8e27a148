"""Small worlds hold what they should; and what is left out of their states makes no difference."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace

import pytest

from walkeeper.lsn import INVALID_LSN
from walkeeper.messages import AppendRun, VoteResponse
from walkeeper.terms import Term
from walkeeper.testing.exploration.entries import START, Log, entries_below, log_of, lsn_of, wal_of
from walkeeper.testing.exploration.keeper import Keeper
from walkeeper.testing.exploration.local import NOTHING
from walkeeper.testing.exploration.search import explore
from walkeeper.testing.exploration.world import Bounds, Link, SmallWorld, State
from walkeeper.testing.exploration.writer import WriterCode

TINY = Bounds(proposers=1, acceptors=3, terms=1, entries=1)


# -- worlds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "states", "depth"),
    [
        (TINY, 108, 15),
        (replace(TINY, faults=1), 3_604, 19),
        (replace(TINY, proposers=2), 416, 18),
        (replace(TINY, terms=2), 4_203, 26),
        (replace(TINY, acceptors=2, terms=2, entries=2), 621, 24),
    ],
    ids=str,
)
def test_nothing_is_wrong_in_any_state_of_a_small_world(bounds: Bounds, states: int, depth: int) -> None:
    """The figures are in docs/testing.md: whoever changes what can happen sees that here."""
    found = explore(SmallWorld(bounds))
    assert found.violation is None
    assert found.is_complete
    assert (found.states, found.depth) == (states, depth)


def test_everything_that_matters_happens_somewhere() -> None:
    world = SmallWorld(replace(TINY, terms=2))
    states = reachable(world, world.canonical)
    histories = {world.histories[history] for _, _, history, _ in states}
    assert any(history.elected == {1, 2} for history in histories)
    assert any(dict(history.committed) == {Term(1): (1,), Term(2): (1,)} for history in histories)
    assert any(dict(history.committed) == {Term(2): (2,)} for history in histories)
    steps = [
        (logs(world, state), logs(world, after)) for state in states for _, after, _ in world.successors(state)
    ]
    assert any(before[place] == (1,) and after[place] == () for before, after in steps for place in range(3))


def logs(world: SmallWorld, state: State) -> list[Log]:
    return [world.local.keepers[world.columns[column][0]].log for column in state[1]]


def test_a_search_may_end_early() -> None:
    found = explore(SmallWorld(TINY), states_max=50)
    assert not found.is_complete
    assert found.violation is None
    assert 50 <= found.states < 108
    assert explore(SmallWorld(TINY), depth_max=3).depth == 3


# -- what is left out ----------------------------------------------------------------------------------------


def reachable(world: SmallWorld, canonical: Callable[[State], State]) -> set[State]:
    first = canonical(world.initial())
    seen, waiting = {first}, deque([first])
    while waiting:
        for _, after, faults in world.successors(waiting.popleft()):
            assert not faults
            state = canonical(after)
            if state not in seen:
                seen.add(state)
                waiting.append(state)
    return seen


@pytest.mark.parametrize(
    "bounds",
    [replace(TINY, proposers=2), replace(TINY, acceptors=2, terms=2), replace(TINY, acceptors=2, faults=1)],
    ids=str,
)
def test_it_makes_no_difference_who_is_called_what(bounds: Bounds) -> None:
    world = SmallWorld(bounds)
    by_name = reachable(world, lambda state: state)
    alike = reachable(world, world.canonical)
    assert len(by_name) > len(alike)
    assert {world.canonical(state) for state in by_name} == alike


@pytest.mark.parametrize(
    "bounds",
    [
        replace(TINY, acceptors=2, terms=2),
        replace(TINY, proposers=2, acceptors=2),
        replace(TINY, acceptors=2, faults=1),
    ],
    ids=str,
)
def test_what_no_decision_reads_makes_no_difference(bounds: Bounds) -> None:
    whole = SmallWorld(bounds, writers=WriterCode(bounds.acceptors, reduces=False))
    reduced = SmallWorld(bounds)
    states = reachable(whole, whole.canonical)
    projection = Projection(whole, reduced, bounds)
    assert {projection.of(state) for state in states} == reachable(reduced, reduced.canonical)


class Projection:
    """States of a world in which everything counts, as states of one in which only what decisions read does."""

    def __init__(self, whole: SmallWorld, reduced: SmallWorld, bounds: Bounds) -> None:
        self._whole, self._reduced = whole, reduced
        self._code = WriterCode(bounds.acceptors)

    def of(self, state: State) -> State:
        writers, columns, history, left = state
        whole, reduced = self._whole, self._reduced
        parts = [whole.columns[column] for column in columns]
        links: list[list[Link]] = [[] for _ in columns]
        numbers = []
        for who, number in enumerate(writers):
            lines = [whole.local.lines[part_links[who].line] for _, part_links, _ in parts]
            reaction = self._code.reduced(whole.local.writers[number], lines)
            numbers.append(reduced.local.writers.number(reaction.writer))
            for place, line in enumerate(reaction.lines):
                links[place].append(self._link(parts[place][1][who], reduced.local.lines.number(line)))
        after = []
        for (keeper, _, strays), its_links in zip(parts, links, strict=True):
            there = reduced.local.keepers.number(without_horizon(whole.local.keepers[keeper]))
            late = tuple(sorted(self._request(stray) for stray in strays))
            after.append(reduced.columns.number((there, tuple(its_links), late)))
        then = reduced.histories.number(whole.histories[history])
        return reduced.canonical((tuple(numbers), tuple(after), then, left))

    def _link(self, link: Link, line: int) -> Link:
        return Link(line, link.is_connected, self._request(link.request), self._reply(link.reply))

    def _request(self, number: int) -> int:
        if number == NOTHING:
            return NOTHING
        request = self._whole.local.requests[number]
        if isinstance(request, AppendRun):
            request = replace(request, truncate_lsn=INVALID_LSN)
        return self._reduced.local.requests.number(request)

    def _reply(self, number: int) -> int:
        if number == NOTHING:
            return NOTHING
        reply = self._whole.local.replies[number]
        if isinstance(reply, VoteResponse):
            reply = replace(reply, truncate_lsn=START)
        return self._reduced.local.replies.number(reply)


def without_horizon(keeper: Keeper) -> Keeper:
    state = keeper.state
    kept = replace(state.kept, peer_horizon_lsn=START)
    state = replace(state, kept=kept, ahead=replace(state.ahead, peer_horizon_lsn=START))
    return replace(keeper, state=state, disk=replace(keeper.disk, control_file=kept))


# -- entries -------------------------------------------------------------------------------------------------


def test_a_log_is_in_its_bytes() -> None:
    log = (Term(1), Term(1), Term(3))
    assert log_of(wal_of(log)) == log
    assert log_of(wal_of(log)[:-1]) == log[:2]
    assert wal_of(log).startswith(wal_of(log[:2]))
    assert [entries_below(lsn_of(entries)) for entries in range(4)] == [0, 1, 2, 3]
    assert entries_below(INVALID_LSN) == 0
