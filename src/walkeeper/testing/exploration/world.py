"""A small world: some writers, some keepers, and what goes on between them.

* A writer is started, or started anew and remembers nothing: it greets a quorum.  It greets one more keeper, says the
  next thing to one and hears the answer, campaigns again, leads as soon as it has won, writes an entry.
* A keeper saves what has run ahead of its control file.

Messages are exchanged in one step, as in the original's TLA+ model.  Greeting a quorum is one step too: keepers do not
change by it, and the writer takes the highest term.  Whatever else happens is a fault, of which a world has so many:

* an answer is lost, or a connection is cut, together with what was on it;
* a message strays: its connection is gone, and it arrives at any time, any number of times, or never;
* a message or an answer is slow: its connection lives, and other things happen first;
* a keeper loses power between two effects of what it does, or is started again with what is on its disk.

A message that is never sent is no fault: it is a step that is not taken.  A fault of a keeper cuts its connections.

States that differ only in who is called what are one state.  Writers are alike.  Keepers are as well, but for the
donor of an election: of several that are equally good the proposer takes the first.  Here any of them may be it.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

from walkeeper.proposer.proposer import Stage
from walkeeper.testing.exploration.invariants import (
    Fault,
    Faults,
    History,
    check_keeper,
    check_kept,
    check_leader,
    check_pair,
    with_commit,
    with_election,
)
from walkeeper.testing.exploration.keeper import Keeper, KeeperCode
from walkeeper.testing.exploration.local import NOTHING, Local, Step, Table
from walkeeper.testing.exploration.turn import Move, Part, Turn, View, hung_up, put
from walkeeper.testing.exploration.writer import WriterCode


class Link(NamedTuple):
    """Between a writer and a keeper: the writer's line, the connection if there is one, and what is on it."""

    line: int
    is_connected: bool = False
    request: int = NOTHING
    reply: int = NOTHING


Column = tuple[int, tuple[Link, ...], tuple[int, ...]]
"""A keeper, its links to all writers, and messages that have strayed on their way to it."""

State = tuple[tuple[int, ...], tuple[int, ...], int, int]
"""Writers, columns and history, as numbers, and how many more faults may happen."""

Event = tuple[int, Step]
"""A step, and which writer takes it; NOTHING is a keeper's own."""

Edge = tuple[Event, State, Faults]


@dataclass(frozen=True, slots=True)
class Bounds:
    """How large a world is: writers, keepers, the highest term, the length of a log; and how often something fails."""

    proposers: int = 2
    acceptors: int = 3
    terms: int = 2
    entries: int = 2
    faults: int = 0

    def __str__(self) -> str:
        return f"p{self.proposers} a{self.acceptors} t{self.terms} l{self.entries}, {self.faults} faults"


class SmallWorld:
    """The ``search.Space`` of all states of a world of these bounds, in which this code runs.

    ``scene``: the keepers as they are at the beginning, new ones if it is empty.
    ``only``: the rules that are checked, by the names that a ``Fault`` gives them; all of them if it is None.
    """

    def __init__(
        self,
        bounds: Bounds,
        keepers: KeeperCode | None = None,
        writers: WriterCode | None = None,
        only: Collection[str] | None = None,
        scene: Sequence[Keeper] = (),
    ) -> None:
        self.bounds = bounds
        self._only = only
        self.local = Local(
            keepers or KeeperCode(),
            writers or WriterCode(bounds.acceptors),
            terms=bounds.terms,
            entries=bounds.entries,
            may_refuse=bounds.faults > 0,
        )
        self._scene = [self.local.keepers.number(keeper) for keeper in scene] or [
            self.local.new_keeper
        ] * bounds.acceptors
        self.columns: Table[Column] = Table()
        self.histories: Table[History] = Table()
        self._moves: dict[tuple[View, bool], Sequence[Move]] = {}
        self._parts: dict[tuple[int, int], Part] = {}
        self._moved: dict[tuple[int, int, Part], int] = {}
        self._reordered: dict[tuple[int, tuple[int, ...]], int] = {}
        self._saved_columns: dict[int, int] = {}
        self._judged: dict[tuple[tuple[int, ...], int], Faults] = {}
        self._orders = list(permutations(range(bounds.proposers)))[1:]

    # -- states -----------------------------------------------------------------------------------------------

    def initial(self) -> State:
        local, bounds = self.local, self.bounds
        link = Link(local.new_line)
        columns = [self.columns.number((keeper, (link,) * bounds.proposers, ())) for keeper in self._scene]
        writers = (local.new_writer,) * bounds.proposers
        return writers, tuple(columns), self.histories.number(History()), bounds.faults

    def canonical(self, state: State) -> State:
        """One of all the states that differ from this one only in who is called what."""
        writers, columns, history, faults = state
        if not faults:
            columns = tuple([self._saved(column) for column in columns])
        best = writers, tuple(sorted(columns)), history, faults
        for order in self._orders:
            renamed = tuple([writers[who] for who in order])
            if renamed > best[0]:
                continue
            columns_then = tuple(sorted([self._in_order(column, order) for column in columns]))
            best = min(best, (renamed, columns_then, history, faults))
        return best

    def _saved(self, column: int) -> int:
        """Where no crash can come any more, it makes no difference what of a commit is on disk."""
        found = self._saved_columns.get(column)
        if found is None:
            keeper, links, strays = self.columns[column]
            (saved,) = self.local.saves(keeper)
            found = self._saved_columns[column] = self.columns.number((saved.keeper, links, strays))
        return found

    def _in_order(self, column: int, order: tuple[int, ...]) -> int:
        found = self._reordered.get((column, order))
        if found is None:
            keeper, links, strays = self.columns[column]
            found = self.columns.number((keeper, tuple([links[who] for who in order]), strays))
            self._reordered[column, order] = found
        return found

    def judge(self, state: State) -> Faults:
        """What is wrong with this state."""
        _, columns, history, _ = state
        places = tuple([self.columns[column][0] for column in columns])
        found = self._judged.get((places, history))
        if found is None:
            found = self._judged[places, history] = self._look_at(places, history)
        return found

    def _look_at(self, places: Sequence[int], history: int) -> Faults:
        keepers = [self.local.keepers[place] for place in places]
        faults = [fault for keeper in keepers for fault in check_keeper(keeper)]
        for place, one in enumerate(keepers):
            for other in keepers[:place]:
                faults += check_pair(one, other)
        return self._relevant([*faults, *check_kept(keepers, self.histories[history])])

    # -- steps ------------------------------------------------------------------------------------------------

    def successors(self, state: State) -> Iterator[Edge]:
        for event, after, faults in self._steps(state):
            yield event, after, self._relevant(faults) if faults else ()

    def _relevant(self, faults: Faults) -> Faults:
        return [fault for fault in faults if self._only is None or fault.rule in self._only]

    def _steps(self, state: State) -> Iterator[Edge]:
        for who in range(self.bounds.proposers):
            yield from self._of_writer(state, who)
        for place, column in enumerate(state[1]):
            if column not in state[1][:place]:
                yield from self._of_keeper(state, place)

    def _of_writer(self, state: State, who: int) -> Iterator[Edge]:
        writers, columns, history, left = state
        view = View(writers[who], tuple([self._part(column, who) for column in columns]))
        moves = self._moves.get((view, left > 0))
        if moves is None:
            moves = self._moves[view, left > 0] = list(Turn(self.local, view, can_fail=left > 0).moves())
        twins = {place for place, column in enumerate(columns) if column in columns[:place]}
        for move in moves:
            if move.step.place in twins:
                continue
            after = [
                column if part is old else self._with_part(column, who, part)
                for column, old, part in zip(columns, view.parts, move.view.parts, strict=True)
            ]
            then, faults = history, move.faults
            if move.won is not None or move.committed or move.led is not None:
                then, wrong = self._witness(state, who, move)
                faults = [*faults, *wrong]
            new = put(writers, who, move.view.writer), tuple(after), then, left - move.cost
            if move.crashed != NOTHING:
                new = self._crashed(new, move.crashed)
            yield (who, move.step), new, faults

    def _part(self, column: int, who: int) -> Part:
        found = self._parts.get((column, who))
        if found is None:
            keeper, links, _ = self.columns[column]
            found = self._parts[column, who] = Part(keeper, *links[who])
        return found

    def _with_part(self, column: int, who: int, part: Part) -> int:
        key = column, who, part
        found = self._moved.get(key)
        if found is None:
            _, links, strays = self.columns[column]
            if part.stray != NOTHING:
                strays = tuple(sorted((*strays, part.stray)))
            links = put(links, who, Link(part.line, part.is_connected, part.request, part.reply))
            found = self._moved[key] = self.columns.number((part.keeper, links, strays))
        return found

    def _witness(self, state: State, who: int, move: Move) -> tuple[int, Faults]:
        """What a witness writes down, and what it finds wrong with that."""
        history, faults = self.histories[state[2]], list[Fault]()
        term = self.local.writers[state[0][who]].term
        if move.won is not None:
            history, wrong = with_election(history, move.won)
            faults += wrong
        if move.led is not None and move.won is not None:
            faults += check_leader(history, move.won, move.led)
        if move.committed:
            history, wrong = with_commit(history, term, move.committed)
            faults += wrong
            for writer in map(self.local.writers.__getitem__, state[0]):
                if writer.stage is Stage.LEADING:
                    faults += check_leader(history, writer.term, writer.log)
        return self.histories.number(history), faults

    # -- keepers ----------------------------------------------------------------------------------------------

    def _of_keeper(self, state: State, place: int) -> Iterator[Edge]:
        keeper, _, strays = self.columns[state[1][place]]
        for stray in dict.fromkeys(strays):
            yield from self._stray(state, place, stray)
        if not state[3]:  # what a crash would lose matters only while there may be one
            return
        restart = self.local.restarts(keeper)
        if restart.keeper != keeper:
            after = self._crashed(self._with_keeper(state, place, restart.keeper), place)
            yield (NOTHING, Step("is started again", place)), spent(after), restart.faults
        for saved in self.local.saves(keeper):
            if saved.keeper != keeper:
                yield (NOTHING, Step("saves", place)), self._with_keeper(state, place, saved.keeper), saved.faults

    def _stray(self, state: State, place: int, message: int) -> Iterator[Edge]:
        """It arrives, nobody hears the answer, and it may arrive again."""
        keeper = self.columns[state[1][place]][0]
        for answer in self.local.answers(keeper, message):
            event = NOTHING, Step("hears a stray", place, (self.local.requests[message], answer.outcome))
            if answer.keeper == keeper and not answer.faults:
                continue
            after = self._with_keeper(state, place, answer.keeper)
            if not answer.outcome.crashed_after:
                yield event, after, answer.faults
            elif state[3]:
                yield event, spent(self._crashed(after, place)), answer.faults

    def _with_keeper(self, state: State, place: int, keeper: int) -> State:
        writers, columns, history, left = state
        _, links, strays = self.columns[columns[place]]
        return writers, put(columns, place, self.columns.number((keeper, links, strays))), history, left

    def _crashed(self, state: State, place: int) -> State:
        """The connections of a keeper that went down are gone, with all that is on them."""
        writers, columns, history, left = state
        keeper, links, strays = self.columns[columns[place]]
        for who, link in enumerate(links):
            if link.is_connected:
                view = hung_up(self.local, View(writers[who], (Part(keeper, *link),)), 0)
                links = put(links, who, Link(view.parts[0].line))
        return writers, put(columns, place, self.columns.number((keeper, links, strays))), history, left


def spent(state: State) -> State:
    """With one fault less to come."""
    writers, columns, history, left = state
    return writers, columns, history, left - 1
