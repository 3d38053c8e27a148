"""What a proposer may say to a keeper: each story ends with the messages that are interrupted, somewhere, somehow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from keeping import SEGMENT, SERVER, START, TTID
from tortured import Writer
from walkeeper.ids import NodeId
from walkeeper.membership import NO_CONFIGURATION, Configuration, Generation, Member
from walkeeper.messages import ProposerGreeting, ProposerMessage

GREETING = ProposerGreeting(TTID, NO_CONFIGURATION, SERVER)


@dataclass
class Story:
    """What is said before, what is said then, and to how many of those messages there are replies at least.

    ``leaders`` are those whose WAL is among it, in the order of their terms.
    """

    leaders: Sequence[Writer]
    before: Sequence[ProposerMessage]
    then: Sequence[ProposerMessage]
    replies: int = 1


def greeting() -> Story:
    """Creates the timeline."""
    return Story([], [], [GREETING])


def greeting_of_a_new_generation() -> Story:
    generation = Generation(4)
    configuration = Configuration(generation, (Member(NodeId(3), "keeper", 5454),))
    return Story([], [GREETING], [ProposerGreeting(TTID, configuration, SERVER)])


def vote() -> Story:
    return Story([], [GREETING], [Writer(1).vote()])


def first_election() -> Story:
    writer = Writer(1)
    return Story([writer], [GREETING, writer.vote()], [writer.elected(), *writer.write(300)])


def append() -> Story:
    writer = Writer(1)
    return Story([writer], led_by(writer), writer.write(9000))


def append_over_a_segment_end() -> Story:
    writer = Writer(1)
    before = [*led_by(writer), *writer.write(SEGMENT - START % SEGMENT - 6000)]
    return Story([writer], before, writer.write(9000))


def commit_that_makes_whole() -> Story:
    """The first WAL comes together with the news that it is committed."""
    writer = Writer(1)
    before: list[ProposerMessage] = [GREETING, writer.vote(), writer.elected(), *writer.rest(START)]
    writer.wal.record(b"w" * 300)
    return Story([writer], before, writer.rest(START, writer.wal.lsn))


def commit_that_is_saved_later() -> Story:
    writer = Writer(1)
    before = [*led_by(writer), writer.commit(), *writer.write(300)]
    return Story([writer], before, [writer.commit()])


def truncation() -> Story:
    """For a leader that others have elected two segments are removed; the one before is not complete any more."""
    writer = Writer(1)
    before = [*led_by(writer), *writer.write(2 * SEGMENT)]
    other = writer.successor()
    return Story([writer, other], before, [other.elected(), *other.write(500)])


def switch_without_its_padding() -> Story:
    """The next leader begins with the next segment, and nobody ever sends the rest of the last one."""
    writer = Writer(1)
    before = [*led_by(writer), writer.commit(), writer.switch()]
    other = writer.heir()
    return Story([writer, other], [*before, other.vote()], [other.elected(), *other.write(500)])


def led_by(writer: Writer) -> list[ProposerMessage]:
    """Up to the first record of a first leader."""
    return [GREETING, writer.vote(), writer.elected(), *writer.write(300)]


MESSAGES: Sequence[Callable[[], Story]] = [
    greeting,
    greeting_of_a_new_generation,
    vote,
    first_election,
    append,
    append_over_a_segment_end,
    commit_that_makes_whole,
    commit_that_is_saved_later,
    truncation,
    switch_without_its_padding,
]
