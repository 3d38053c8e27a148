"""The way to a violation, in lines for people: who did what, what was said, and what the keeper has then."""

from collections.abc import Iterator

from walkeeper.messages import (
    AppendResponse,
    AppendRun,
    ProposerElected,
    VoteRequest,
    VoteResponse,
)
from walkeeper.terms import TermHistory
from walkeeper.testing.exploration.entries import Log, entries_below
from walkeeper.testing.exploration.invariants import History
from walkeeper.testing.exploration.keeper import Keeper, Outcome
from walkeeper.testing.exploration.local import NOTHING, Step
from walkeeper.testing.exploration.search import Violation
from walkeeper.testing.exploration.world import Event, SmallWorld, State


def tell(world: SmallWorld, violation: Violation[State, Event]) -> Iterator[str]:
    """One line for each step of a shortest way, then what is wrong."""
    yield "Entries are named for the terms that wrote them; positions are counted in entries."
    history = History()
    for number, ((who, step), state) in enumerate(violation.trace, 1):
        before, history = history, world.histories[state[2]]
        yield f"{number:3}. {_told(who, step)}{_stand(world, step, state)}{_witnessed(before, history)}"
    for fault in violation.faults:
        yield f"     {fault}"


def _told(who: int, step: Step) -> str:
    keeper = "" if step.place == NOTHING else f"keeper {step.place + 1}"
    if who == NOTHING:
        return f"{keeper} {step.kind}{_what(step.what)}"
    return f"writer {who + 1} {step.kind}{', keeper ' + str(step.place + 1) if keeper else ''}{_what(step.what)}"


def _what(what: object) -> str:
    match what:
        case (tuple() as places, int() as term):
            return f": greets keepers {', '.join(str(place + 1) for place in places)}, campaigns in term {term}"
        case (message, Outcome() as outcome):
            return f": {_message(message)} → {_outcome(outcome)}"
        case None:
            return ""
        case _:
            return f": {_message(what)}"


def _outcome(outcome: Outcome) -> str:
    if outcome.refusal:
        return f"refused, {outcome.refusal}"
    if outcome.crashed_after:
        return f"loses power after {outcome.crashed_after}"
    return "no answer is due" if outcome.reply is None else _message(outcome.reply)


def _message(message: object) -> str:
    match message:
        case VoteRequest(_, term):
            return f"vote in term {term}?"
        case VoteResponse():
            given = "given" if message.vote_given else "not given"
            return f"{given}, at term {message.term}, flushed {entries_below(message.flush_lsn)}"
        case ProposerElected():
            start = entries_below(message.start_streaming_at)
            return f"elected in term {message.term}, WAL from {start} on, history {_history(message.term_history)}"
        case AppendRun():
            begin, end = entries_below(message.begin_lsn), entries_below(message.end_lsn)
            what = f"entries {begin + 1} to {end}" if end > begin else "heartbeat"
            return f"{what} of term {message.term}, committed {entries_below(message.commit_lsn)}"
        case AppendResponse():
            return f"at term {message.term}, flushed {entries_below(message.flush_lsn)}"
        case _:
            return str(message)


def _history(history: TermHistory) -> str:
    return "[" + ", ".join(f"{term} from {entries_below(lsn)}" for term, lsn in history.entries) + "]"


def _witnessed(before: History, after: History) -> str:
    won = [f"; term {term} is won" for term in after.elected - before.elected]
    committed = [
        f"; the leader of term {term} calls {_log(log)} committed"
        for term, log in after.committed
        if (term, log) not in before.committed
    ]
    return "".join(won + committed)


def _stand(world: SmallWorld, step: Step, state: State) -> str:
    """What the keeper at the place of ``step`` has then."""
    if step.place == NOTHING:
        return ""
    keeper = world.local.keepers[world.columns[state[1][step.place]][0]]
    return f"  ({_keeper(keeper)})"


def _keeper(keeper: Keeper) -> str:
    committed = entries_below(keeper.state.ahead.commit_lsn)
    return f"it has term {keeper.state.term}, log {_log(keeper.log)}, knows {committed} committed"


def _log(log: Log) -> str:
    return "[" + ", ".join(map(str, log)) + "]"
