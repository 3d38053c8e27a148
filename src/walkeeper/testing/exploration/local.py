"""What a keeper or a writer does with one thing that happens to it: worked out once, by the real code, then looked up.

Values have numbers here, by which everything else speaks of them.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from walkeeper.acceptor.administration import AdminRequest, Checkpoint
from walkeeper.messages import AcceptorMessage, Batch
from walkeeper.terms import Term
from walkeeper.testing.exploration.invariants import Fault, Faults, check_step
from walkeeper.testing.exploration.keeper import Keeper, KeeperCode, Outcome
from walkeeper.testing.exploration.writer import Line, Reaction, Writer, WriterCode

NOTHING: Final = -1
"""The number of no value."""

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Step:
    """What happens, for a reader: what is done, with which keeper, and ``what`` there is to say of it."""

    kind: str
    place: int = NOTHING
    what: object = None


class Table(Generic[T]):
    """Values by number."""

    def __init__(self) -> None:
        self.values: list[T] = []
        self._numbers: dict[T, int] = {}

    def number(self, value: T) -> int:
        number = self._numbers.setdefault(value, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number

    def __getitem__(self, number: int) -> T:
        return self.values[number]

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True)
class Answer:
    """An outcome in numbers, and what is wrong with it."""

    outcome: Outcome
    keeper: int
    reply: int
    faults: Faults


@dataclass(frozen=True, slots=True)
class Change:
    """A reaction in numbers; None instead of it stands for nothing that could happen."""

    reaction: Reaction
    writer: int
    lines: tuple[int, ...]
    message: int


class Local:
    """``terms`` and ``entries`` are the bounds within which writers act.

    ``may_refuse``: whether anybody may be told something that cannot be right; not so where nothing fails.
    """

    def __init__(
        self, keepers: KeeperCode, writers: WriterCode, *, terms: int, entries: int, may_refuse: bool
    ) -> None:
        self.terms, self.entries = terms, entries
        self._may_refuse = may_refuse
        self._keeper_code, self._writer_code = keepers, writers
        self.keepers: Table[Keeper] = Table()
        self.writers: Table[Writer] = Table()
        self.lines: Table[Line] = Table()
        self.requests: Table[Batch] = Table()
        self.replies: Table[AcceptorMessage] = Table()
        self._answers: dict[tuple[int, int], Sequence[Answer]] = {}
        self._restarts: dict[int, Answer] = {}
        self._changes: dict[tuple[object, ...], Change | Fault | None] = {}
        self.new_keeper = self.keepers.number(keepers.new())
        writer, lines = writers.new()
        self.new_writer = self.writers.number(writer)
        self.new_line = self.lines.number(lines[0])

    def answers(self, keeper: int, message: int) -> Sequence[Answer]:
        found = self._answers.get((keeper, message))
        if found is None:
            found = self._answers[keeper, message] = self._work_out(keeper, self.requests[message])
        return found

    def saves(self, keeper: int) -> Sequence[Answer]:
        found = self._answers.get((keeper, NOTHING))
        if found is None:
            found = self._answers[keeper, NOTHING] = self._work_out(keeper, Checkpoint())
        return found

    def _work_out(self, number: int, request: Batch | AdminRequest) -> Sequence[Answer]:
        keeper = self.keepers[number]
        try:
            outcomes = self._keeper_code.hear(keeper, request)
        except AssertionError as error:
            return [Answer(Outcome(keeper), number, NOTHING, [Fault("assertion", f"a keeper's: {error}")])]
        return [self._answer(keeper, outcome) for outcome in outcomes]

    def restarts(self, number: int) -> Answer:
        found = self._restarts.get(number)
        if found is None:
            keeper = self.keepers[number]
            outcome = Outcome(self._keeper_code.restart(keeper), crashed_after="nothing")
            found = self._restarts[number] = self._answer(keeper, outcome)
        return found

    def _answer(self, before: Keeper, outcome: Outcome) -> Answer:
        reply = NOTHING if outcome.reply is None else self.replies.number(outcome.reply)
        faults = list(check_step(before, outcome))
        if outcome.refusal and not self._may_refuse:
            faults.append(Fault("refusal", f"a keeper refuses what it hears: {outcome.refusal}"))
        return Answer(outcome, self.keepers.number(outcome.keeper), reply, faults)

    def change(
        self, event: str, writer: int, lines: tuple[int, ...], place: int, number: int
    ) -> Change | Fault | None:
        """What comes of an event at a writer: a change, a fault, or None where nothing can happen."""
        if event in ("send", "cut") and len(lines) > 1:
            lines, place = lines[place : place + 1], 0  # they look at no other line
        key = event, writer, lines, place, number
        if key not in self._changes:
            self._changes[key] = self._work_out_change(event, writer, lines, place, number)
        return self._changes[key]

    def _work_out_change(
        self, event: str, number: int, line_numbers: tuple[int, ...], place: int, argument: int
    ) -> Change | Fault | None:
        code, writer = self._writer_code, self.writers[number]
        lines = [self.lines[line] for line in line_numbers]
        reaction: Reaction | None
        try:
            match event:
                case "connect":
                    reaction = code.connect(writer, lines, place, (bool(argument % 2), Term(argument // 2)))
                case "cut":
                    reaction = code.cut(writer, lines, place)
                case "send":
                    reaction = code.send(writer, lines, place, argument)
                case "hear":
                    reaction = code.hear(writer, lines, place, self.replies[argument])
                case "campaign again":
                    reaction = code.campaign_again(writer, lines)
                case "lead":
                    reaction = code.lead(writer, lines, self.keepers[argument].log)
                case _:
                    reaction = code.write(writer, lines)
        except AssertionError as error:
            return Fault("assertion", f"a writer's: {error}")
        if reaction is None:
            return None
        if reaction.objection and not self._may_refuse:
            return Fault("refusal", f"a writer hears what cannot be: {reaction.objection}")
        message = NOTHING if reaction.message is None else self.requests.number(reaction.message)
        line_numbers = tuple([self.lines.number(line) for line in reaction.lines])
        return Change(reaction, self.writers.number(reaction.writer), line_numbers, message)
