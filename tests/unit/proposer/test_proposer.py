"""The proposer's conversation with its keepers, one rule at a time."""

from collections.abc import Sequence

import pytest

from unit.proposer.model_keeper import FIRST_LSN, ModelKeeper
from unit.proposer.table import GREETING, Table
from walkeeper.errors import ConfigError, Malformed, OutOfTurn
from walkeeper.ids import NodeId
from walkeeper.lsn import LSN_MAX, Lsn
from walkeeper.membership import KEEPERS_MAX, NO_CONFIGURATION, NO_GENERATION
from walkeeper.messages import (
    APPEND_BYTES_MAX,
    AcceptorGreeting,
    AppendResponse,
    AppendRun,
    ProposerElected,
    VoteRequest,
    VoteResponse,
)
from walkeeper.proposer.actions import (
    CampaignLost,
    CommitAdvanced,
    Elected,
    Overtaken,
)
from walkeeper.proposer.proposer import Pace, Proposer
from walkeeper.terms import Term, TermHistory


def test_the_term_is_one_above_the_highest_of_a_quorum_of_greetings() -> None:
    table = Table()
    table.keepers[0].term, table.keepers[1].term = Term(4), Term(6)
    assert table.connect(0) == []
    assert table.proposer.next_message(0, 0.0) is None
    table.connect(1)
    assert table.proposer.next_message(0, 0.0) == VoteRequest(NO_GENERATION, Term(7))


def test_a_keeper_in_a_term_without_room_above_it_does_not_stop_the_others() -> None:
    table = Table()
    table.keepers[0].term = Term(2**64 - 1)
    with pytest.raises(Malformed):
        table.connect(0)
    table.proposer.disconnected(0)
    table.greet(1, 2)
    (elected,) = table.talk(1, 2)
    assert isinstance(elected, Elected)


def test_a_majority_of_votes_elects_and_nobody_hears_of_it_before_lead() -> None:
    table = Table()
    table.greet(0, 1)
    (elected,) = table.talk(0, 1)
    assert isinstance(elected, Elected)
    assert elected.election.is_first
    assert table.talk(0, 1) == []
    assert not table.keepers[0].has_leader
    table.proposer.lead(FIRST_LSN)
    table.talk(0, 1)
    assert table.keepers[0].history == TermHistory.of((1, FIRST_LSN))


def test_an_append_follows_every_election_announced_even_without_wal() -> None:
    table = Table()
    table.elect(0, 1)
    assert isinstance(table.proposer.next_message(0, 0.0), ProposerElected)
    append = table.proposer.next_message(0, 0.0)
    assert isinstance(append, AppendRun)
    assert append.begin_lsn == append.end_lsn == FIRST_LSN
    assert table.proposer.next_message(0, 0.0) is None


def test_wal_is_committed_when_a_majority_has_it() -> None:
    table = Table()
    table.elect(0, 1, 2)
    table.write(8)
    assert table.talk(0) == []
    assert table.talk(1)[-1] == CommitAdvanced(Lsn(FIRST_LSN + 8))


def test_a_keeper_that_never_answers_delays_nothing() -> None:
    table = Table()
    table.elect(0, 1, 2)
    table.talk(0, 1, 2)
    for _ in range(5):
        table.write(8)
        assert any(isinstance(action, CommitAdvanced) for action in table.talk(1, 2))


def test_wal_below_the_start_of_our_term_is_not_committed_by_itself() -> None:
    """Raft, figure 8: a majority that has old WAL proves nothing until it also has ours."""
    table = Table()
    table.elect(0, 1, 2)
    table.write(4)
    table.talk(0, 1, 2)
    table.write(6)
    table.talk(0)
    second = Table()
    second.keepers = table.keepers
    second.elect(0, 1, 2)
    assert second.proposer.term_start_lsn == FIRST_LSN + 10
    for place in (0, 1, 2):
        second.say(place)
        append = second.proposer.next_message(place, 0.0, Lsn(FIRST_LSN + 7))
        assert append is not None
        reply = second.keepers[place].hear(append, second.wal_of(append))
        assert reply is not None
        assert second.proposer.received(place, reply, 0.0) == ()
    assert second.proposer.truncate_lsn == 0, "never above commit_lsn"
    assert second.talk(1) == [CommitAdvanced(Lsn(FIRST_LSN + 10))]


def test_an_append_carries_at_most_what_the_protocol_allows() -> None:
    table = Table()
    table.elect(0, 1)
    table.write(APPEND_BYTES_MAX + 5)
    table.say(0)
    sizes = []
    while (append := table.proposer.next_message(0, 0.0)) is not None:
        assert isinstance(append, AppendRun)
        sizes.append(append.end_lsn - append.begin_lsn)
    assert sizes == [APPEND_BYTES_MAX, 5]


def test_only_wal_at_hand_is_sent() -> None:
    table = Table()
    table.elect(0, 1)
    table.write(100)
    table.say(0)
    append = table.proposer.next_message(0, 0.0, Lsn(FIRST_LSN + 30))
    assert isinstance(append, AppendRun)
    assert append.end_lsn == FIRST_LSN + 30
    assert table.proposer.next_message(0, 0.0, Lsn(FIRST_LSN + 30)) is None


def test_truncate_lsn_is_what_all_keepers_have_and_never_above_commit_lsn() -> None:
    table = Table()
    table.elect(0, 1, 2)
    table.talk(0, 1, 2)
    table.write(16)
    table.talk(0, 1)
    assert table.proposer.truncate_lsn == FIRST_LSN
    table.talk(2)
    assert table.proposer.truncate_lsn == table.proposer.commit_lsn == FIRST_LSN + 16


def test_a_keeper_that_was_never_heard_of_holds_truncate_lsn_back() -> None:
    table = Table()
    table.elect(0, 1)
    table.write(16)
    table.talk(0, 1)
    assert table.proposer.commit_lsn == FIRST_LSN + 16
    assert table.proposer.truncate_lsn == FIRST_LSN


def test_an_idle_keeper_hears_a_heartbeat_every_second() -> None:
    table = Table()
    table.elect(0, 1)
    table.talk(0, 1)
    table.talk(0)
    wakes_at = table.proposer.wakes_at(0)
    assert wakes_at == 1.0
    assert table.proposer.next_message(0, 0.99) is None
    assert isinstance(table.proposer.next_message(0, wakes_at), AppendRun)
    assert table.proposer.wakes_at(0) == 2.0


def test_news_of_a_commit_wait_a_moment_for_wal_to_travel_with() -> None:
    table = Table(pace=Pace(commit_news_seconds=0.02))
    table.elect(0, 1)
    table.talk(0, 1)
    table.write(8)
    table.talk(0, 1)
    assert table.proposer.commit_lsn == FIRST_LSN + 8
    assert table.keepers[0].commit_lsn == FIRST_LSN
    assert table.proposer.next_message(0, 0.01) is None
    news = table.proposer.next_message(0, table.proposer.wakes_at(0))
    assert isinstance(news, AppendRun)
    assert news.commit_lsn == FIRST_LSN + 8


def test_news_of_a_commit_leave_at_once_by_default() -> None:
    table = Table()
    table.elect(0, 1, 2)
    table.write(8)
    table.talk(0, 1, 2)
    table.talk(0)
    assert table.keepers[0].commit_lsn == FIRST_LSN + 8


def test_a_keeper_that_owes_an_answer_too_long_is_silent() -> None:
    table = Table(pace=Pace(silence_seconds=10))
    table.elect(0, 1)
    table.talk(0, 1)
    table.proposer.next_message(0, 5.0)
    table.proposer.next_message(0, 6.0)
    assert table.proposer.silent(14.9) == []
    assert table.proposer.silent(15.0) == [0]


def test_a_keeper_that_only_waits_for_the_quorum_is_not_silent() -> None:
    table = Table()
    table.connect(0)
    assert table.proposer.silent(1e9) == []


def test_what_a_keeper_said_of_itself_is_old_after_a_while_without_a_majority() -> None:
    table = Table()
    table.greet(0)
    said_at, seconds = table.proposer.followers[0].greeted_at, Pace().greeting_seconds
    assert table.proposer.outdated(said_at + seconds - 0.1) == []
    assert table.proposer.outdated(said_at + seconds) == [0]
    table.greet(1)
    assert table.proposer.outdated(said_at + 10 * seconds) == []  # they are asked for their votes


def test_a_late_keeper_is_asked_for_its_vote_and_then_told_of_the_election() -> None:
    table = Table()
    table.elect(0, 1)
    table.write(8)
    table.talk(0, 1)
    table.connect(2)
    assert table.keepers[2].wal == [Term(1)] * 8
    assert table.proposer.truncate_lsn == FIRST_LSN + 8


def test_a_keeper_that_comes_back_is_refused_its_vote_and_streams_on() -> None:
    table = Table()
    table.elect(0, 1)
    table.write(8)
    table.talk(0, 1)
    table.proposer.disconnected(1)
    table.write(8)
    assert table.connect(1) == []
    assert table.talk(0)[-1] == CommitAdvanced(Lsn(FIRST_LSN + 16))


def test_a_keeper_that_is_not_whole_counts_when_a_quorum_of_whole_ones_has_confirmed_its_votes() -> None:
    """It may have voted for a later leader, and forgotten that with its disk.  No WAL is needed to find out."""
    table = Table()
    table.elect(0, 1, 2)
    table.write(8)
    table.talk(0)
    come_back_with_nothing(table, 0)
    assert table.talk(1, 0) == []
    assert doubted(table) == [0]
    assert table.talk(2) == [CommitAdvanced(Lsn(FIRST_LSN + 8))]
    assert doubted(table) == []
    table.write(8)
    assert table.talk(0, 1) == [CommitAdvanced(Lsn(FIRST_LSN + 16))]


def test_when_a_doubt_is_settled_what_was_acknowledged_meanwhile_is_committed() -> None:
    table = Table()
    table.elect(0, 1, 2)
    come_back_with_nothing(table, 0)
    table.write(8)
    assert table.talk(0, 1) == []
    assert table.say(2)
    assert table.actions[-1] == CommitAdvanced(Lsn(FIRST_LSN + 8))


def test_an_answer_to_a_question_from_before_it_came_settles_no_doubt() -> None:
    table = Table()
    table.elect(0, 1, 2)
    table.talk(0, 1, 2)
    come_back_with_nothing(table, 0)
    question = table.proposer.next_message(2, 0.0)
    assert isinstance(question, VoteRequest)
    answer = table.keepers[2].hear(question, [])
    assert answer is not None
    come_back_with_nothing(table, 0)
    table.talk(0, 1)
    table.proposer.received(2, answer, 0.0)
    assert doubted(table) == [0]
    table.talk(2)
    assert doubted(table) == []


def test_one_question_at_a_time_is_open() -> None:
    """Answers do not say which question they are to."""
    table = Table()
    table.elect(0, 1, 2)
    table.talk(0, 1, 2)
    come_back_with_nothing(table, 0)
    assert isinstance(table.proposer.next_message(2, 0.0), VoteRequest)
    come_back_with_nothing(table, 0)
    assert table.proposer.next_message(2, 0.0) is None


def test_a_doubted_keeper_hears_no_commit_lsn() -> None:
    """By that it would become whole, and this leader may have been deposed long since."""
    table = Table()
    table.elect(0, 1, 2)
    table.write(8)
    table.talk(1, 2)
    come_back_with_nothing(table, 0)
    table.talk(0, 1)
    assert table.keepers[0].wal == table.log
    assert (table.keepers[0].commit_lsn, table.keepers[0].is_whole) == (0, False)
    table.talk(2, 0)
    assert (table.keepers[0].commit_lsn, table.keepers[0].is_whole) == (FIRST_LSN + 8, True)


def test_a_doubt_that_everybody_is_needed_for_is_settled_by_everybody() -> None:
    """Two of three are new: the third is no quorum, but nobody is left who could know better."""
    table = Table()
    table.elect(0, 1, 2)
    table.write(8)
    for place in (0, 1):
        come_back_with_nothing(table, place)
    assert table.talk(0, 1) == []
    assert CommitAdvanced(Lsn(FIRST_LSN + 8)) in table.talk(2, 0, 1)


def test_a_keeper_whose_votes_are_not_asked_for_hears_no_question_while_nobody_is_doubted() -> None:
    table = Table()
    table.elect(0, 1)
    table.talk(0, 1)
    table.connect(2)
    assert not table.proposer.is_asking
    assert table.proposer.next_message(0, 0.0) is None


def test_a_doubted_keeper_is_doubted_at_another_address_as_well() -> None:
    table = Table()
    table.elect(0, 1, 2)
    table.write(8)
    table.talk(2)
    come_back_with_nothing(table, 0)
    table.proposer.disconnected(0)
    table.proposer.disconnected(1)
    table.keepers[1] = table.keepers[0]
    assert table.connect(1) == []
    assert table.proposer.followers[1].acked_lsn == FIRST_LSN + 8
    assert 1 in doubted(table)


def doubted(table: Table) -> list[int]:
    return [place for place, follower in enumerate(table.proposer.followers) if follower.is_doubted]


def come_back_with_nothing(table: Table, place: int) -> None:
    """Until it has voted; what follows is left unsaid."""
    table.proposer.disconnected(place)
    table.keepers[place] = ModelKeeper(NodeId(place + 1), is_whole=False)
    table.dial(place)
    while table.proposer.followers[place].vote is None:
        table.say(place)


def test_an_incomplete_keeper_has_no_vote_while_anybody_is_missing() -> None:
    table = Table()
    give_wal(table, 0, 1)
    table.keepers[2].is_whole = False
    table.greet(0, 2)
    assert table.talk(0, 2) == []
    table.greet(1)
    (elected,) = table.talk(1, 0)
    assert isinstance(elected, Elected)
    assert elected.election.start_lsn == FIRST_LSN + 5
    assert elected.election.is_vouched_for


def test_incomplete_keepers_have_votes_when_everybody_has_voted() -> None:
    table = Table()
    give_wal(table, 0)
    table.keepers[1].is_whole = table.keepers[2].is_whole = False
    table.greet(0, 1, 2)
    (elected,) = table.talk(0, 1, 2)
    assert isinstance(elected, Elected)
    assert elected.election.donor == 0
    assert not elected.election.is_vouched_for
    assert doubted(table) == []


def test_keepers_among_which_none_is_whole_elect_nobody_without_the_last_one() -> None:
    table = Table()
    for keeper in table.keepers:
        keeper.is_whole = False
    table.greet(0, 1)
    assert table.talk(0, 1) == []
    table.greet(2)
    assert isinstance(table.talk(2, 0, 1)[-1], Elected)


def test_a_keeper_that_does_not_say_whether_it_is_whole_is_judged_by_what_it_has() -> None:
    table = Table()
    give_wal(table, 0, 1)
    table.keepers[2].history = TermHistory.of((0, FIRST_LSN))  # as made with a start, and no leader since
    for place in range(3):
        table.proposer.connected(place, is_whole=None)
        table.say(place)
    table.talk(2, 0)
    assert doubted(table) == [2]
    assert isinstance(table.talk(1, 0)[-1], Elected)


def give_wal(table: Table, *places: int) -> None:
    """As if an earlier leader had written there."""
    for place in places:
        keeper = table.keepers[place]
        keeper.term, keeper.has_leader = Term(1), True
        keeper.history, keeper.wal = TermHistory.of((1, FIRST_LSN)), [Term(1)] * 5


def test_a_vote_counts_once_it_has_been_confirmed_after_the_last_one() -> None:
    """So there was a moment at which all of them were bound."""
    table = Table()
    table.greet(0, 1)
    assert table.exhaust(0)
    table.say(1)
    table.say(1)
    assert table.actions == []
    assert isinstance(table.talk(0)[0], Elected)


def test_a_vote_ends_with_its_connection() -> None:
    """Whoever comes back may have lost it, and have given another in the same term."""
    table = Table()
    table.greet(0, 1)
    table.say(0)
    table.proposer.disconnected(0)
    assert table.talk(1) == []
    assert table.connect(0) == [CampaignLost("k0", Term(1))]
    table.proposer.campaign_again()
    assert isinstance(table.talk(0, 1)[-1], Elected)


def test_a_keeper_that_votes_twice_for_us_has_forgotten_the_first_and_is_sent_away() -> None:
    table = Table()
    table.greet(0, 1)
    table.say(0)
    table.keepers[0].term = Term(0)
    with pytest.raises(OutOfTurn):
        table.say(0)


def test_a_voter_that_does_not_confirm_is_silent() -> None:
    table = Table(pace=Pace(silence_seconds=10))
    table.greet(0, 1)
    table.say(0)
    assert table.proposer.silent(100.0) == []
    table.proposer.next_message(0, 100.0)
    assert table.proposer.silent(110.0) == [0]


def test_a_refused_vote_loses_the_campaign_and_a_new_one_goes_higher() -> None:
    table = Table()
    table.greet(0, 1)
    table.keepers[1].term = Term(5)
    assert table.talk(0, 1) == [CampaignLost("k1", Term(5))]
    assert table.talk(0, 1) == []
    table.proposer.campaign_again()
    assert isinstance(table.talk(0, 1)[-1], Elected)
    assert table.proposer.term == 6


def test_a_vote_given_to_a_rival_in_our_term_loses_the_campaign() -> None:
    table = Table()
    table.greet(0, 1)
    table.keepers[1].term = Term(1)
    assert table.talk(0, 1) == [CampaignLost("k1", Term(1))]


def test_the_answer_to_an_earlier_campaign_is_not_taken_for_one_to_this() -> None:
    table = Table()
    table.greet(0, 1)
    late = table.keepers[0].hear(table.proposer.next_message(0, 0.0), [])  # type: ignore[arg-type]
    assert isinstance(late, VoteResponse)
    table.keepers[1].term = Term(5)
    table.talk(1)
    table.proposer.campaign_again()
    assert table.proposer.received(0, late, 0.0) == ()
    assert table.proposer.next_message(0, 0.0) == VoteRequest(NO_GENERATION, Term(6))


def test_a_higher_term_in_a_greeting_fences_a_leader() -> None:
    table = Table()
    table.elect(0, 1)
    table.keepers[2].term = Term(2)
    assert table.connect(2) == [Overtaken("k2", Term(2))]


def test_a_higher_term_in_an_answer_fences_a_leader() -> None:
    table = Table()
    table.elect(0, 1)
    table.talk(0, 1)
    table.keepers[0].term = Term(2)
    table.write(8)
    assert table.talk(0) == [Overtaken("k0", Term(2))]


def test_a_higher_term_fences_a_winner_that_has_not_begun_to_lead() -> None:
    table = Table()
    table.connect(0, 1)
    table.talk(0, 1)
    table.keepers[2].term = Term(9)
    assert table.connect(2) == [Overtaken("k2", Term(9))]


def test_a_writer_that_led_before_does_not_outbid_its_successor() -> None:
    table = Table(held_term=Term(4))
    table.keepers[0].term = Term(5)
    assert table.connect(0) == [Overtaken("k0", Term(5))]


def test_a_writer_that_led_before_leads_again_if_nobody_came_between() -> None:
    table = Table(held_term=Term(4))
    table.keepers[0].term = table.keepers[1].term = Term(4)
    table.elect(0, 1)
    assert table.proposer.term == 5


def test_the_same_keeper_under_two_addresses_is_refused() -> None:
    table = Table()
    table.keepers[1] = table.keepers[0]
    table.connect(0)
    table.dial(1)
    with pytest.raises(ConfigError):
        table.talk(1)


def test_a_keeper_that_moved_to_another_address_takes_its_acknowledgements_along() -> None:
    table = Table()
    table.elect(0, 1, 2)
    table.write(8)
    table.talk(0)
    table.proposer.disconnected(0)
    table.proposer.disconnected(1)
    table.keepers[1] = table.keepers[0]
    assert table.connect(1) == []
    assert table.proposer.commit_lsn < FIRST_LSN + 8


def test_node_id_zero_is_malformed() -> None:
    table = Table()
    table.keepers[0].node_id = NodeId(0)
    table.dial(0)
    with pytest.raises(Malformed):
        table.talk(0)


@pytest.mark.parametrize(
    "message",
    [
        AcceptorGreeting(NodeId(1), NO_CONFIGURATION, Term(0)),
        VoteResponse(NO_GENERATION, Term(1), True, Lsn(0), Lsn(0), TermHistory()),
        AppendResponse(NO_GENERATION, Term(1)),
    ],
)
def test_a_message_before_its_turn_is_refused(message: AcceptorGreeting | VoteResponse | AppendResponse) -> None:
    table = Table()
    table.dial(0)
    with pytest.raises(OutOfTurn):
        table.proposer.received(0, message, 0.0)


def test_an_acknowledgement_of_an_older_term_is_refused() -> None:
    table = Table()
    table.elect(0, 1)
    table.talk(0, 1)
    with pytest.raises(OutOfTurn):
        table.proposer.received(0, AppendResponse(NO_GENERATION, Term(0), Lsn(9999)), 0.0)


def test_the_donor_is_the_keeper_that_surely_has_most() -> None:
    table = led_with_two_donors()
    assert table.proposer.donor_for(0) == 2
    table.proposer.disconnected(2)
    assert table.proposer.donor_for(0) == 1
    assert table.proposer.donor_for(1) is None


def test_a_donor_whose_wal_is_damaged_is_left_for_another_one_from_there_on() -> None:
    table = led_with_two_donors()
    table.proposer.found_damaged(2, 0, Lsn(FIRST_LSN + 4))
    assert table.proposer.donor_for(0) == 1
    table.proposer.found_damaged(1, 0, Lsn(FIRST_LSN + 6))
    assert (table.proposer.donor_for(0), table.proposer.sound_until(1, 0)) == (1, FIRST_LSN + 6)
    table.proposer.found_damaged(1, 0, FIRST_LSN)
    assert (table.proposer.donor_for(0), table.proposer.sound_until(2, 0)) == (2, FIRST_LSN + 4)
    table.proposer.found_damaged(2, 0, FIRST_LSN)
    assert table.proposer.donor_for(0) is None
    assert table.proposer.damaged_donors(0) == [1, 2]


def test_a_donor_that_is_damaged_for_one_keeper_may_help_another() -> None:
    table = led_with_two_donors()
    table.proposer.found_damaged(2, 0, FIRST_LSN)
    assert table.proposer.damaged_donors(1) == []
    assert table.proposer.donor_for(1) == 2


def test_a_donor_whose_wal_was_damaged_before_what_is_needed_now_gives_it() -> None:
    table = led_with_two_donors()
    table.proposer.found_damaged(2, 0, FIRST_LSN)
    table.talk(0)
    table.write(8)
    table.talk(2)
    assert table.proposer.sound_until(2, 0) == LSN_MAX
    assert table.proposer.donor_for(0) == 2


def test_a_donor_that_comes_back_may_have_been_repaired() -> None:
    table = led_with_two_donors()
    table.proposer.found_damaged(2, 0, FIRST_LSN)
    table.proposer.disconnected(2)
    table.connect(2)
    assert table.proposer.donor_for(0) == 2


def test_a_keeper_that_waits_for_wal_which_nobody_gives_makes_no_majority() -> None:
    table = led_with_two_donors()
    table.proposer.disconnected(1)
    majorities = [table.proposer.has_majority]
    for lacks in (True, False):
        table.proposer.lacks_wal(0, lacks)
        majorities.append(table.proposer.has_majority)
    assert majorities == [True, False, True]


def led_with_two_donors() -> Table:
    """The first keeper has nothing yet, the second half of the WAL, the third all of it."""
    table = Table()
    table.elect(0, 1, 2)
    table.write(8)
    table.talk(1)
    table.write(8)
    table.talk(2)
    table.say(0)
    return table


def test_a_sync_is_done_for_a_quorum_when_it_has_persisted_the_terms_start() -> None:
    table = Table()
    table.elect(0, 1, 2)
    assert not table.proposer.is_persisted_by_quorum
    table.talk(0, 1)
    table.talk(0, 1)
    assert table.proposer.is_persisted_by_quorum


def test_a_sync_can_tell_who_has_persisted_the_terms_start() -> None:
    table = Table()
    table.elect(0, 1, 2)
    table.talk(0, 1)
    table.talk(0, 1)
    assert [table.proposer.has_persisted(place) for place in range(3)] == [True, True, False]


@pytest.mark.parametrize("count", [0, KEEPERS_MAX + 1])
def test_a_writer_needs_between_one_and_thirty_one_keepers(count: int) -> None:
    names: Sequence[str] = [f"k{place}" for place in range(count)]
    with pytest.raises(ConfigError):
        Proposer(names, GREETING)


def test_a_keeper_listed_twice_is_refused() -> None:
    with pytest.raises(ConfigError):
        Proposer(["a", "b", "a"], GREETING)
