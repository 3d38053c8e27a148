"""Term histories: what belongs to a log, and where two logs part."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.lsn import Lsn
from walkeeper.terms import Term, TermHistory, TermLsn, highest_common_point

HISTORY = TermHistory.of((1, 10), (2, 20), (4, 40))


@st.composite
def histories(draw: st.DrawFn) -> TermHistory:
    terms = sorted(draw(st.sets(st.integers(0, 12), max_size=6)))
    lsns = sorted(draw(st.lists(st.integers(1, 60), min_size=len(terms), max_size=len(terms))))
    return TermHistory.of(*zip(terms, lsns, strict=True))


@pytest.mark.parametrize(("lsn", "kept"), [(9, 0), (10, 1), (19, 1), (20, 2), (39, 2), (40, 3), (99, 3)])
def test_a_history_is_cut_inclusively(lsn: int, kept: int) -> None:
    assert HISTORY.up_to(Lsn(lsn)).entries == HISTORY.entries[:kept]


def test_a_log_that_lacks_nothing_has_the_leaders_term() -> None:
    assert HISTORY.last_log_term(Lsn(40)) == 4
    assert HISTORY.last_log_term(Lsn(39)) == 2
    assert HISTORY.last_log_term(Lsn(0)) == 0


@pytest.mark.parametrize("pairs", [[(2, 10), (1, 20)], [(1, 10), (1, 20)], [(1, 20), (2, 10)]])
def test_a_history_that_does_not_grow_is_refused(pairs: list[tuple[int, int]]) -> None:
    """Invariants 14 and 36."""
    with pytest.raises(ValueError):
        TermHistory.of(*pairs)


def test_leaders_that_wrote_nothing_share_an_lsn() -> None:
    history = TermHistory.of((1, 10), (2, 10), (3, 10))
    assert history.last_log_term(Lsn(10)) == 3
    assert history.last_start == 10


def test_a_leader_adds_its_term_at_the_end() -> None:
    assert HISTORY.with_term(Term(5), Lsn(40)).last_term == 5
    with pytest.raises(ValueError):
        HISTORY.with_term(Term(4), Lsn(50))


@pytest.mark.parametrize(
    ("leader", "own", "end", "expected"),
    [
        (TermHistory.of((0, 1)), TermHistory.of((1, 1), (2, 2)), 3, None),
        (HISTORY, TermHistory.of((1, 10), (2, 20), (3, 30)), 40, TermLsn(Term(2), Lsn(30))),
        (HISTORY, TermHistory.of((1, 10), (2, 20)), 32, TermLsn(Term(2), Lsn(32))),
        (TermHistory.of((1, 10), (2, 20)), TermHistory.of((1, 10), (2, 20)), 32, TermLsn(Term(2), Lsn(32))),
        (HISTORY, TermHistory(), 0, None),
    ],
)
def test_logs_part_where_the_last_common_term_ends(
    leader: TermHistory, own: TermHistory, end: int, expected: TermLsn | None
) -> None:
    assert highest_common_point(leader, own, Lsn(end)) == expected


def test_one_term_with_two_starts_is_refused() -> None:
    with pytest.raises(ValueError):
        highest_common_point(TermHistory.of((1, 10)), TermHistory.of((1, 11)), Lsn(20))


@given(histories(), histories(), st.integers(1, 80))
def test_the_common_point_is_in_both_logs_and_symmetric_in_terms(
    leader: TermHistory, own: TermHistory, end: int
) -> None:
    own = own.up_to(Lsn(end))
    try:
        common = highest_common_point(leader, own, Lsn(end))
    except ValueError:
        shared = {e.term for e in leader.entries} & {e.term for e in own.entries}
        assert any(
            a.term == b.term and a.lsn != b.lsn for a in leader.entries for b in own.entries if a.term in shared
        )
        return
    if common is None:
        assert not leader.entries or not own.entries or leader.entries[0].term != own.entries[0].term
        return
    assert common.lsn <= end
    assert leader.up_to(common.lsn).entries[:1] == own.up_to(common.lsn).entries[:1]
    assert common.term in {e.term for e in leader.entries} & {e.term for e in own.entries}
