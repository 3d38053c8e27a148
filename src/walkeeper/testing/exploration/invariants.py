"""What must hold in every state of a small world: the checkers, apart from the world that they look at.

Each is one of the numbered rules of docs/guarantees.md; the names in capitals are those of Neon's TLA+ model.  A checker
returns what is wrong, and nothing if nothing is.  Checkers of one keeper are asked once for each state that a keeper
can be in and for each step that it takes, those of several for each state of the world.

``History`` is what an omniscient witness would have written down: who was elected, and what was committed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from walkeeper.terms import Term
from walkeeper.testing.exploration.entries import Log, entries_below, lsn_of
from walkeeper.testing.exploration.keeper import Keeper, Outcome


class Fault(NamedTuple):
    """``rule`` is the number of an invariant, or ``assertion`` or ``refusal``."""

    rule: str
    what: str

    def __str__(self) -> str:
        return f"invariant {self.rule}: {self.what}" if self.rule.isdecimal() else f"{self.rule}: {self.what}"


Faults = Sequence[Fault]


@dataclass(frozen=True, slots=True)
class History:
    """``elected``: the terms that were won.  ``committed``: for each leader's term the longest log it called committed."""

    elected: frozenset[Term] = frozenset()
    committed: tuple[tuple[Term, Log], ...] = ()

    @property
    def longest(self) -> Log:
        """Everything that was ever committed."""
        return max((log for _, log in self.committed), key=len, default=())


# -- one keeper ----------------------------------------------------------------------------------------------


def check_keeper(keeper: Keeper) -> Iterable[Fault]:
    """Invariants 8, 13, 15 and 36."""
    state, log = keeper.state, keeper.log
    if any(later < earlier for earlier, later in pairwise(log)):
        yield Fault("36", f"LogIsMonotonic: terms fall in {log}")
    if not state.kept.commit_lsn <= state.ahead.commit_lsn <= state.flush_lsn:
        yield Fault("8", "not: commit on disk <= commit in memory <= flushed")
    if state.last_log_term > state.term:
        yield Fault("13", f"its log is of term {state.last_log_term}, itself in term {state.term}")
    if state.wal.flush_lsn > lsn_of(len(log)):
        yield Fault("7", f"it reports {entries_below(state.wal.flush_lsn)} entries and has {len(log)}")
    for place in range(min(len(log), entries_below(state.wal.flush_lsn))):
        named = state.term_history.up_to(lsn_of(place)).last_term
        if named != log[place]:
            yield Fault("15", f"entry {place + 1} was written in term {log[place]}, its history says {named}")


def check_step(before: Keeper, outcome: Outcome) -> Iterable[Fault]:
    """Invariants 1, 2, 9 and 10, for one step of one keeper: a message, a crash or a start."""
    after = outcome.keeper
    if after.state.term < before.state.term:
        yield Fault("1", f"its term went from {before.state.term} to {after.state.term}")
    if after.state.kept.commit_lsn < before.state.kept.commit_lsn:
        yield Fault("9", "its commit on disk went back")
    if outcome.truncated_to is not None and outcome.truncated_to < before.state.ahead.commit_lsn:
        known = entries_below(before.state.ahead.commit_lsn)
        yield Fault(
            "10", f"it knew {known} entries to be committed and kept {entries_below(outcome.truncated_to)}"
        )
    if outcome.gave_vote_in in before.voted:
        yield Fault("2", f"it voted a second time in term {outcome.gave_vote_in}")
    if outcome.refusal in LAST_DEFENCES:
        yield Fault("39", f"it had to refuse a leader: {outcome.refusal}")


LAST_DEFENCES = {"HistoryConflict", "TruncatesCommitted"}
"""Refusals that no leader can earn who was elected by these rules, however late it is heard."""


# -- all of them ---------------------------------------------------------------------------------------------


def check_pair(one: Keeper, other: Keeper) -> Iterable[Fault]:
    """Invariant 21, which elections rely on."""
    if one.state.last_log_term != other.state.last_log_term:
        return
    shorter, longer = sorted((flushed(one), flushed(other)), key=len)
    if longer[: len(shorter)] != shorter:
        yield Fault("21", f"two logs end in term {one.state.last_log_term}: {shorter} and {longer}")


def flushed(keeper: Keeper) -> Log:
    """What it reports."""
    return keeper.log[: entries_below(keeper.state.wal.flush_lsn)]


def check_kept(keepers: Sequence[Keeper], history: History) -> Iterable[Fault]:
    """What was ever committed is on the disks of a majority.

    With five keepers that would not be a rule (invariant 40): a majority may lose what it does not know to be
    committed, as long as every later leader has it.
    """
    committed = history.longest
    having = sum(keeper.log[: len(committed)] == committed for keeper in keepers)
    if 2 * having <= len(keepers):
        yield Fault("40", f"{committed} was committed and is on {having} of {len(keepers)} disks")


# -- history -------------------------------------------------------------------------------------------------


def with_election(history: History, term: Term) -> tuple[History, Faults]:
    if term in history.elected:
        return history, [Fault("35", f"ElectionSafety: term {term} was won twice")]
    return replace(history, elected=history.elected | {term}), ()


def check_leader(history: History, term: Term, log: Log) -> Iterable[Fault]:
    """Invariant 39 for a leader of ``term`` whose log begins with ``log``."""
    for earlier, committed in history.committed:
        if earlier < term and log[: len(committed)] != committed:
            yield Fault(
                "39", f"{committed} was committed in term {earlier}, the leader of term {term} begins with {log}"
            )


def with_commit(history: History, term: Term, log: Log) -> tuple[History, Faults]:
    """Invariant 37, and the history with what the leader of ``term`` calls committed."""
    wrong = [
        Fault("37", f"LogSafety: {log} was committed in term {term}, and {other} in term {by}")
        for by, other in history.committed
        if any(ours != theirs for ours, theirs in zip(log, other, strict=False))
    ]
    committed = dict(history.committed)
    committed[term] = max(log, committed.get(term, ()), key=len)
    return replace(history, committed=tuple(sorted(committed.items()))), wrong
