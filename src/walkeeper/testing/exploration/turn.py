"""What one writer may do, looked at alone: its view is itself, its connections and the keepers at their other ends.

A view is the same in many states of a world, so its moves are worked out once.  What they mean for everybody else is
``steps``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import NamedTuple, TypeVar

from walkeeper.membership import majority
from walkeeper.proposer.proposer import Stage
from walkeeper.terms import Term
from walkeeper.testing.exploration.entries import Log
from walkeeper.testing.exploration.invariants import Fault, Faults
from walkeeper.testing.exploration.local import NOTHING, Change, Local, Step
from walkeeper.testing.exploration.writer import has_only_greeted


class Part(NamedTuple):
    """One keeper as a writer sees it: its line, the connection if there is one, what is on that, and what has just
    strayed from it."""

    keeper: int
    line: int
    is_connected: bool = False
    request: int = NOTHING
    reply: int = NOTHING
    stray: int = NOTHING


@dataclass(frozen=True, slots=True)
class View:
    writer: int
    parts: tuple[Part, ...]

    @property
    def lines(self) -> tuple[int, ...]:
        return tuple([part.line for part in self.parts])

    def with_part(self, place: int, part: Part) -> "View":
        return View(self.writer, put(self.parts, place, part))

    def after(self, change: Change) -> "View":
        """With what the writer has become."""
        parts = [part._replace(line=line) for part, line in zip(self.parts, change.lines, strict=True)]
        return View(change.writer, tuple(parts))


@dataclass(frozen=True, slots=True)
class Move:
    """``cost``: how many faults it takes.  ``crashed``: the place of a keeper that went down.

    ``won``, ``led`` and ``committed`` are for the history: a term, the log that its leader begins with, and what a
    leader has called committed.
    """

    step: Step
    view: View
    faults: Faults = ()
    cost: int = 0
    crashed: int = NOTHING
    won: Term | None = None
    led: Log | None = None
    committed: Log = ()


class Turn:
    """The moves of one writer.  ``can_fail``: whether a fault may happen."""

    def __init__(self, local: Local, view: View, *, can_fail: bool) -> None:
        self.local = local
        self.view = view
        self.can_fail = can_fail

    def at(self, view: View) -> "Turn":
        return Turn(self.local, view, can_fail=self.can_fail)

    def moves(self) -> Iterator[Move]:
        if self.view.writer != self.local.new_writer:
            for place in range(len(self.view.parts)):
                yield from self.towards(place)
            yield from self.alone()
        for view in self.forgotten():
            yield from self.at(view).start()

    # -- with one keeper --------------------------------------------------------------------------------------

    def towards(self, place: int) -> Iterator[Move]:
        part = self.view.parts[place]
        request, reply, is_connected = part.request, part.reply, part.is_connected
        if not is_connected:
            yield from self.greet(place)
        elif request != NOTHING:
            yield from self.arrive("is heard at last", place, self.view, request)
        elif reply != NOTHING:
            yield from self.hear(Step("hears at last", place, self.local.replies[reply]), place, reply)
        else:
            yield from self.send(place)
        if is_connected and self.can_fail:
            yield self.cut(Step("is cut off", place), place)
            if request != NOTHING:
                yield self.cut(Step("is cut off, and a message strays", place), place, request)

    def greet(self, place: int) -> Iterator[Move]:
        """Greet, and go on with the next word."""
        for move in self.did(Step("greets", place), self.greeted(place), place):
            is_collecting = self.local.writers[move.view.writer].stage is Stage.COLLECTING
            if move.faults or is_collecting:
                yield move
            else:
                yield from self.at(move.view).send(place)

    def greeted(self, place: int) -> Change | Fault | None:
        state = self.local.keepers[self.view.parts[place].keeper].state
        return self.local.change(
            "connect", self.view.writer, self.view.lines, place, 2 * state.term + state.is_whole
        )

    def send(self, place: int) -> Iterator[Move]:
        sent = set()
        for entries in (0, 1):
            change = self.local.change("send", self.view.writer, self.view.lines, place, entries)
            if isinstance(change, Fault):
                yield Move(Step("speaks", place), self.view, [change])
            if not isinstance(change, Change) or change.message in sent:
                continue
            sent.add(change.message)
            part = self.view.parts[place]._replace(line=change.lines[0])
            view = self.view.with_part(place, part)
            yield from self.arrive("speaks", place, view, change.message)
            if self.can_fail:
                said = self.local.requests[change.message]
                slow = view.with_part(place, part._replace(request=change.message))
                yield Move(Step("speaks slowly", place, said), slow, cost=1)
                yield self.at(view).cut(
                    Step("is cut off, and a message strays", place, said), place, change.message
                )

    def arrive(self, kind: str, place: int, view: View, message: int) -> Iterator[Move]:
        """The message is answered; and the answer is heard at once, or slow, or lost."""
        keeper, line = view.parts[place][:2]
        for answer in self.local.answers(keeper, message):
            outcome = answer.outcome
            step = Step(kind, place, (self.local.requests[message], outcome))
            turn = self.at(view.with_part(place, Part(answer.keeper, line, is_connected=True, reply=answer.reply)))
            if outcome.crashed_after:
                if self.can_fail:
                    yield replace(turn.cut(step, place), faults=answer.faults, crashed=place)
            elif outcome.refusal:
                yield replace(turn.cut(step, place), faults=answer.faults, cost=0)
            elif answer.reply == NOTHING or answer.faults:
                yield Move(step, turn.view, answer.faults)
            else:
                yield from turn.hear(step, place, answer.reply)
                if self.can_fail:
                    yield Move(replace(step, kind=f"{kind}, and the answer is slow"), turn.view, cost=1)
                    if answer.keeper != keeper:
                        yield turn.cut(replace(step, kind=f"{kind}, and the answer is lost"), place)

    def hear(self, step: Step, place: int, reply: int) -> Iterator[Move]:
        change = self.local.change("hear", self.view.writer, self.view.lines, place, reply)
        is_connected = not (isinstance(change, Change) and change.reaction.objection)
        for move in self.did(step, change, place, is_connected=is_connected):
            if isinstance(change, Change) and move.won is not None:
                yield from self.at(move.view).lead(move, change.reaction.donors)
            else:
                yield move

    def cut(self, step: Step, place: int, stray: int = NOTHING) -> Move:
        return Move(step, hung_up(self.local, self.view, place, stray), cost=1)

    # -- alone ------------------------------------------------------------------------------------------------

    def alone(self) -> Iterator[Move]:
        writer = self.local.writers[self.view.writer]
        if writer.stage is Stage.LOST:
            yield from self.did(Step("campaigns again"), self.changed("campaign again"))
        if writer.stage is Stage.LEADING and len(writer.log) < self.local.entries:
            yield from self.did(Step("writes an entry"), self.changed("write"))

    def changed(self, event: str) -> Change | Fault | None:
        return self.local.change(event, self.view.writer, self.view.lines, NOTHING, NOTHING)

    def lead(self, won: Move, donors: Sequence[int]) -> Iterator[Move]:
        """Lead with the WAL of a donor that has not followed anybody else since; or start anew."""
        term, led = self.local.writers[self.view.writer].term, False
        for keeper in dict.fromkeys(self.view.parts[place].keeper for place in donors):
            if self.local.keepers[keeper].state.term > term:
                continue
            change = self.local.change("lead", self.view.writer, self.view.lines, NOTHING, keeper)
            for move in self.did(won.step, change):
                led = True
                log = self.local.writers[move.view.writer].log
                yield replace(move, faults=[*won.faults, *move.faults], won=won.won, led=log)
        if not led:
            for view in self.forgotten():
                yield replace(won, view=view)

    def start(self) -> Iterator[Move]:
        """Greet a quorum, of those that nothing was heard of yet."""
        for places in combinations(range(len(self.view.parts)), majority(len(self.view.parts))):
            view = self.view
            for place in places:
                change = self.at(view).greeted(place)
                assert isinstance(change, Change), change
                view = view.after(change)
                view = view.with_part(place, view.parts[place]._replace(is_connected=True))
            writer = self.local.writers[view.writer]
            if writer.stage is Stage.CAMPAIGNING and writer.term <= self.local.terms:
                view = without_mere_greetings(self.local, view)
                yield Move(Step("starts", what=(places, writer.term)), view)

    def forgotten(self) -> Iterator[View]:
        """The writer knows nothing any more; what it had sent is lost or strays."""
        options = [
            [
                Part(part.keeper, self.local.new_line, stray=stray)
                for stray in dict.fromkeys((NOTHING, part.request))
            ]
            for part in self.view.parts
        ]
        for parts in product(*options):
            yield View(self.local.new_writer, parts)

    # -- what follows -----------------------------------------------------------------------------------------

    def did(
        self, step: Step, change: Change | Fault | None, place: int = NOTHING, *, is_connected: bool = True
    ) -> Iterator[Move]:
        """A change, if it is within bounds; the link to ``place`` is empty then."""
        if isinstance(change, Fault):
            yield Move(step, self.view, [change])
        if not isinstance(change, Change):
            return
        view, reaction = self.view.after(change), change.reaction
        if place != NOTHING:
            keeper, line = view.parts[place][:2]
            view = view.with_part(place, Part(keeper, line, is_connected))
        if reaction.writer.can_do_something(self.local.terms):
            view = view if step.kind == "greets" else without_mere_greetings(self.local, view)
            yield Move(step, view, won=reaction.won, committed=reaction.committed)
        elif step.kind != "greets":
            for forgotten in self.at(view).forgotten():
                yield Move(step, forgotten)


def without_mere_greetings(local: Local, view: View) -> View:
    """Connections on which nothing but greetings was exchanged are as good as none, once there is a term."""
    writer = local.writers[view.writer]
    if writer.stage is Stage.COLLECTING:
        return view
    for place, part in enumerate(view.parts):
        is_quiet = part.is_connected and part.request == part.reply == NOTHING
        if is_quiet and has_only_greeted(local.lines[part.line]):
            view = hung_up(local, view, place)
    return view


def hung_up(local: Local, view: View, place: int, stray: int = NOTHING) -> View:
    """A connection is gone; ``stray``, which was on it, is not."""
    keeper, line = view.parts[place][:2]
    change = local.change("cut", view.writer, (line,), 0, NOTHING)
    assert isinstance(change, Change), change
    return view.with_part(place, Part(keeper, change.lines[0], stray=stray))


T = TypeVar("T")


def put(values: tuple[T, ...], place: int, value: T) -> tuple[T, ...]:
    return (*values[:place], value, *values[place + 1 :])
