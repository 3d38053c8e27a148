"""Rules that are left out, one at a time, where nothing but a value is decided: each scene of a rule needs that rule."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import pytest

from sabotage.defect import defect
from unit.acceptor import test_acceptor as acceptor_scenes
from unit.formats import test_recorded_sessions as recorded_scenes
from unit.formats import test_xlog as xlog_scenes
from unit.proposer import test_proposer as proposer_scenes
from unit.proposer import test_rivals as rivals
from walkeeper.acceptor.acceptor import Acceptor, Intent
from walkeeper.errors import Malformed
from walkeeper.formats import proposer as codec
from walkeeper.formats.proposer import _parse_append, _Wire
from walkeeper.formats.xlog import LONG_HEADER_BYTES, SHORT_HEADER_BYTES, _Walk
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import Generation
from walkeeper.messages import AppendRequest, AppendRun, ProposerElected, Slice, VoteRequest, VoteResponse
from walkeeper.proposer import election, quorum
from walkeeper.proposer.actions import Action
from walkeeper.proposer.proposer import Proposer
from walkeeper.terms import Term

Scene = Callable[[acceptor_scenes.Keeper], None]

CAUGHT = AssertionError, pytest.fail.Exception  # the second: what had to be refused was not
RIVALRIES = 150

decide_vote, decide_append = Acceptor._vote, Acceptor._append
advance_commit = Proposer._advance_commit
pass_page_header, believe = _Walk._pass_page_header, _Walk._believe


# -- the acceptor ---------------------------------------------------------------------------------------------


@defect
def check_no_generation(self: Acceptor, request: str, generation: Generation) -> None:
    """Votes, elections and appends of any generation are taken (invariant 18)."""


@defect
def vote_again(self: Acceptor, request: VoteRequest) -> Intent:
    """A term gets as many votes as are asked for (invariants 2 and 4)."""
    kept = replace(self.state.kept, term=Term(min(self.state.term, max(request.term - 1, 0))))
    return decide_vote(replace(self, state=replace(self.state, kept=kept)), request)


@defect
def append_for_anybody(self: Acceptor, run: AppendRun) -> Intent:
    """A writer with an old term is acknowledged (invariants 5 and 16)."""
    return decide_append(self, replace(run, term=self.state.term))


@defect
def append_anywhere(self: Acceptor, run: AppendRun) -> Intent:
    """WAL is taken wherever it begins (invariant 6)."""
    wal = replace(self.state.wal, write_lsn=run.begin_lsn)
    return decide_append(replace(self, state=replace(self.state, wal=wal)), run)


@defect
def follow_from_anywhere(self: Acceptor, elected: ProposerElected) -> None:
    """A leader streams from where it likes: what is committed is truncated (invariants 10 and 11)."""


@pytest.mark.parametrize(
    ("method", "broken", "scene"),
    [
        (
            "_require_generation",
            check_no_generation,
            acceptor_scenes.test_another_generation_gets_no_vote_no_election_and_no_append,
        ),
        (
            "_append",
            append_for_anybody,
            acceptor_scenes.test_an_append_of_a_lower_term_hears_the_term_and_nothing_else,
        ),
        ("_append", append_anywhere, acceptor_scenes.test_rewriting_and_skipping_are_refused_even_when_empty),
        ("_require_divergence_at", follow_from_anywhere, acceptor_scenes.test_committed_wal_is_never_truncated),
    ],
)
def test_an_acceptor_that_checks_less_is_caught(
    method: str, broken: Callable[..., object], scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene(elected_keeper())
    monkeypatch.setattr(Acceptor, method, broken)
    with pytest.raises(CAUGHT):
        scene(elected_keeper())


def elected_keeper() -> acceptor_scenes.Keeper:
    """As the scenes have it."""
    keeper = acceptor_scenes.Keeper()
    keeper.vote(1)
    keeper.elect(1)
    return keeper


def test_an_acceptor_that_votes_twice_in_a_term_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Acceptor, "_vote", vote_again)
    with pytest.raises(CAUGHT):
        acceptor_scenes.test_a_vote_is_given_once_per_term()


# -- who has won ----------------------------------------------------------------------------------------------


@defect
def half_is_a_majority(size: int) -> int:
    """A quorum is one too small (invariants 35 and 37)."""
    return size // 2


@defect
def end_of_the_longest_log(vote: VoteResponse) -> tuple[Term, Lsn]:
    """A new leader continues the longest log, not the newest (invariant 39)."""
    return Term(0), vote.flush_lsn


@defect
def count_wal_of_earlier_terms(self: Proposer, now: float) -> Sequence[Action]:
    """WAL of earlier terms is committed by itself, though a rival may still take it back (invariant 37)."""
    start, self.term_start_lsn = self.term_start_lsn, INVALID_LSN
    found = advance_commit(self, now)
    self.term_start_lsn = start
    return found


def test_a_writer_that_commits_what_it_has_only_found_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Proposer, "_advance_commit", count_wal_of_earlier_terms)
    with pytest.raises(AssertionError):
        proposer_scenes.test_wal_below_the_start_of_our_term_is_not_committed_by_itself()


@pytest.mark.parametrize(
    ("module", "name", "broken"),
    [(quorum, "majority", half_is_a_majority), (election, "_log_end", end_of_the_longest_log)],
)
def test_a_writer_that_counts_wrongly_is_caught(
    module: object, name: str, broken: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, broken)
    with pytest.raises(AssertionError, match="invariant"):
        rival_often()


def rival_often() -> None:
    for seed in range(RIVALRIES):
        world = rivals.Rivalry(Random(seed))
        for _ in range(rivals.STEPS):
            world.step()


# -- bytes ----------------------------------------------------------------------------------------------------


@defect
def take_all_page_headers_for_short(self: _Walk) -> bool:
    """The scanner takes the end of a long page header for WAL: off by 16 bytes behind each segment start."""
    page = self.at
    passed = pass_page_header(self)
    if self.at == page + LONG_HEADER_BYTES:
        self.at = page + SHORT_HEADER_BYTES
    return passed


@defect
def end_behind_the_page_header(self: _Walk, page: int, rem_len: int) -> None:
    """A record that ends with its page ends behind the next one's header: off by a page header."""
    believe(self, page, rem_len)
    if not rem_len:
        self.record_end = page + self.layout.header_bytes(page)


@pytest.mark.parametrize(
    ("method", "broken", "layout"),
    [
        ("_pass_page_header", take_all_page_headers_for_short, "from a segment start"),
        ("_believe", end_behind_the_page_header, "ending with a page"),
    ],
)
def test_a_decoder_that_is_off_by_a_page_header_is_caught(
    method: str, broken: Callable[..., object], layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Walk, method, broken)
    with pytest.raises((*CAUGHT, Malformed)):
        xlog_scenes.test_the_record_end_is_right_at_every_cut(layout)


@defect
def parse_append_with_swapped_fields(payload: Slice, wire: _Wire) -> AppendRequest:
    """commit_lsn and truncate_lsn are read each in the other's place."""
    append = _parse_append(payload, wire)
    return replace(append, commit_lsn=append.truncate_lsn, truncate_lsn=append.commit_lsn)


def test_a_codec_that_swaps_fields_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "_parse_append", parse_append_with_swapped_fields)
    with pytest.raises(AssertionError):
        recorded_scenes.test_a_clients_message_means_what_the_recorder_saw("AppendRequest")
