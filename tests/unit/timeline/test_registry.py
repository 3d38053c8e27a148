"""What readers report, whom it reaches, and who may be sent away."""

from contextlib import ExitStack

import pytest
import trio

from walkeeper.formats.replication import StandbyStatusUpdate
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import NO_GENERATION
from walkeeper.messages import NO_HOT_STANDBY, AppendResponse, HotStandbyFeedback, PageserverFeedback
from walkeeper.terms import Term
from walkeeper.timeline.registry import Client, Registry, Sender

REPLY = AppendResponse(NO_GENERATION, Term(1), Lsn(100), Lsn(50))
STATUS = StandbyStatusUpdate(Lsn(3), Lsn(2), Lsn(1), 0)


class Office(ExitStack):
    """A registry and those who have come to it; they leave with the block."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry()
        self.told: list[PageserverFeedback] = []

    def sender(self) -> Sender:
        return self.enter_context(self.registry.sending(Client(1)))

    def receiver(self) -> None:
        self.enter_context(self.registry.receiving(Client(2), self.told.append))


async def test_the_oldest_of_what_standbys_need_counts_and_what_nobody_needs_does_not() -> None:
    with Office() as office:
        for needed in (HotStandbyFeedback(5, 30, 0), HotStandbyFeedback(7, 20, 90), HotStandbyFeedback(9, 0, 0)):
            office.registry.record(office.sender(), needed)
        assert office.registry.annotate(REPLY).hot_standby == HotStandbyFeedback(7, 20, 90)


async def test_what_a_standby_needed_is_forgotten_when_it_leaves() -> None:
    with Office() as office:
        with office.registry.sending(Client(9)) as sender:
            office.registry.record(sender, HotStandbyFeedback(5, 30, 40))
            assert office.registry.annotate(REPLY).hot_standby == HotStandbyFeedback(5, 30, 40)
        assert office.registry.annotate(REPLY) is REPLY


async def test_a_standby_that_needs_nothing_more_takes_its_word_back() -> None:
    with Office() as office:
        sender = office.sender()
        office.registry.record(sender, HotStandbyFeedback(5, 30, 40))
        office.registry.record(sender, HotStandbyFeedback(6, 0, 0))
        assert office.registry.hot_standby is NO_HOT_STANDBY


async def test_a_pageservers_feedback_reaches_every_proposer_that_is_there() -> None:
    with Office() as office:
        office.receiver()
        office.receiver()
        feedback = PageserverFeedback(remote_consistent_lsn=Lsn(70))
        office.registry.record(office.sender(), feedback)
        assert office.told == [feedback, feedback]


async def test_the_highest_remote_consistent_lsn_is_remembered() -> None:
    with Office() as office:
        sender = office.sender()
        for lsn in (70, 60):
            office.registry.record(sender, PageserverFeedback(remote_consistent_lsn=Lsn(lsn)))
        assert office.registry.remote_consistent_lsn == 70


async def test_a_pageserver_that_needs_nothing_may_go_when_nobody_writes() -> None:
    with Office() as office:
        sender = office.sender()
        assert not office.registry.may_stop(sender, Lsn(70))
        office.registry.record(sender, PageserverFeedback(remote_consistent_lsn=Lsn(70)))
        assert office.registry.may_stop(sender, Lsn(70))
        assert not office.registry.may_stop(sender, Lsn(71))
        office.receiver()
        assert not office.registry.may_stop(sender, Lsn(70))


@pytest.mark.parametrize("report", [STATUS, HotStandbyFeedback()])
async def test_a_standby_is_never_sent_away(report: StandbyStatusUpdate | HotStandbyFeedback) -> None:
    with Office() as office:
        sender = office.sender()
        assert office.registry.may_stop(sender, INVALID_LSN)
        office.registry.record(sender, report)
        assert not office.registry.may_stop(sender, INVALID_LSN)


async def test_whoever_comes_after_the_end_is_cancelled_at_once() -> None:
    let_in = []
    with Office() as office:
        office.registry.cancel_all()
        with office.registry.sending(Client(1)) as sender:
            await trio.lowlevel.checkpoint()
            let_in.append(sender)
        with office.registry.receiving(Client(2), office.told.append):
            await trio.lowlevel.checkpoint()
            let_in.append(sender)
    assert not let_in


async def test_the_last_report_of_a_pageserver_is_remembered_and_a_corruption_for_ever() -> None:
    with Office() as office:
        with office.registry.sending(Client(9)) as sender:
            office.registry.record(sender, PageserverFeedback(corruption_detected=True))
            last = PageserverFeedback(last_received_lsn=Lsn(70))
            office.registry.record(sender, last)
            office.registry.record(sender, STATUS)
        assert office.registry.pageserver == last
        assert office.registry.pageserver_reports == 2
        assert office.registry.is_corruption_reported


async def test_what_somebody_says_who_may_only_read_is_no_pageservers_word() -> None:
    with Office() as office:
        office.receiver()
        with office.registry.sending(Client(9, only_reads=True)) as sender:
            office.registry.record(
                sender, PageserverFeedback(remote_consistent_lsn=Lsn(70), corruption_detected=True)
            )
        assert office.registry.remote_consistent_lsn == INVALID_LSN
        assert (office.registry.pageserver, office.told) == (None, [])
        assert not office.registry.is_corruption_reported
