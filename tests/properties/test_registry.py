"""What standbys need, whoever comes, reports and leaves: never less than one of them needs, and nobody's who has gone."""

from contextlib import ExitStack

from hypothesis import given
from hypothesis import strategies as st

from walkeeper.formats.replication import StandbyMessage, StandbyStatusUpdate
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import NO_GENERATION
from walkeeper.messages import NO_HOT_STANDBY, AppendResponse, HotStandbyFeedback, PageserverFeedback
from walkeeper.terms import Term
from walkeeper.timeline.registry import Client, Registry, Sender

REPLY = AppendResponse(NO_GENERATION, Term(1), Lsn(100), Lsn(50))
READERS_MAX = 4

xids = st.sampled_from([0, 3, 700, 1 << 32 | 3, 1 << 32 | 700])
reports = st.one_of(
    st.builds(HotStandbyFeedback, st.integers(0, 9), xids, xids),
    st.builds(StandbyStatusUpdate, *[st.integers(0, 9).map(Lsn)] * 3, st.just(0)),
    st.builds(PageserverFeedback, remote_consistent_lsn=st.integers(0, 9).map(Lsn)),
)
comes = st.just("comes")
leaves = st.just("leaves")
events = st.lists(comes | leaves | st.tuples(st.integers(0, READERS_MAX - 1), reports), max_size=20)


class Readers(ExitStack):
    """Readers at a registry, the last of whom leaves first, and what each has said since it came."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry()
        self.said: list[list[StandbyMessage]] = []
        self._senders: list[tuple[Sender, ExitStack]] = []

    def come(self) -> None:
        stay = ExitStack()
        self.push(stay.__exit__)
        self._senders.append((stay.enter_context(self.registry.sending(Client(1))), stay))
        self.said.append([])

    def leave(self) -> None:
        self._senders.pop()[1].close()
        self.said.pop()

    def report(self, reader: int, message: StandbyMessage) -> None:
        self.registry.record(self._senders[reader][0], message)
        self.said[reader].append(message)

    def may_stop(self, reader: int, commit_lsn: Lsn) -> bool:
        return self.registry.may_stop(self._senders[reader][0], commit_lsn)


def needed_by(said: list[StandbyMessage]) -> HotStandbyFeedback:
    """What a reader said last that it needs, unless it turned out to be a pageserver since."""
    for message in reversed(said):
        if isinstance(message, HotStandbyFeedback):
            return message
        if isinstance(message, PageserverFeedback):
            break
    return NO_HOT_STANDBY


@given(events)
async def test_the_oldest_need_of_those_who_are_there_goes_to_the_proposer_and_nothing_else(
    happened: list[str | tuple[int, StandbyMessage]],
) -> None:
    with Readers() as readers:
        for event in happened:
            match event:
                case "comes" if len(readers.said) < READERS_MAX:
                    readers.come()
                case "leaves" if readers.said:
                    readers.leave()
                case (int(reader), message) if reader < len(readers.said):
                    readers.report(reader, message)
                case _:
                    continue
            needs = [need for said in readers.said if (need := needed_by(said)).xmin or need.catalog_xmin]
            xmins = [need.xmin for need in needs if need.xmin]
            catalog_xmins = [need.catalog_xmin for need in needs if need.catalog_xmin]
            told = readers.registry.annotate(REPLY).hot_standby
            assert told.xmin == min(xmins, default=0)
            assert told.catalog_xmin == min(catalog_xmins, default=0)
            assert told.timestamp == max((need.timestamp for need in needs), default=0)


@given(events, st.integers(0, 9).map(Lsn))
async def test_only_a_pageserver_that_needs_nothing_more_may_go_and_the_highest_it_said_is_remembered(
    happened: list[str | tuple[int, StandbyMessage]], commit_lsn: Lsn
) -> None:
    highest = INVALID_LSN
    with Readers() as readers:
        for _ in range(READERS_MAX):
            readers.come()
        for event in happened:
            if isinstance(event, str):
                continue
            readers.report(*event)
            if isinstance(event[1], PageserverFeedback):
                highest = max(highest, event[1].remote_consistent_lsn)
            assert readers.registry.remote_consistent_lsn == highest
        for reader, said in enumerate(readers.said):
            last = said[-1] if said else PageserverFeedback()
            is_served = isinstance(last, PageserverFeedback) and last.remote_consistent_lsn >= commit_lsn
            assert readers.may_stop(reader, commit_lsn) == is_served
