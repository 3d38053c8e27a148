"""One receive's messages become runs: what shares a write and a sync."""

from collections.abc import Iterable, Sequence

import pytest

from walkeeper.errors import Malformed
from walkeeper.formats.proposer import coalesce, encode_proposer_message
from walkeeper.lsn import Lsn
from walkeeper.membership import Generation
from walkeeper.messages import AppendRequest, AppendRun, Batch, ProposerMessage, VoteRequest
from walkeeper.terms import Term


def append(
    begin: int, wal: bytes, *, term: int = 1, generation: int = 0, commit: int = 0, truncate: int = 0
) -> AppendRequest:
    return AppendRequest(
        Generation(generation), Term(term), Lsn(begin), Lsn(begin + len(wal)), Lsn(commit), Lsn(truncate), wal
    )


def coalesced(messages: Sequence[ProposerMessage], version: int) -> list[Batch]:
    return list(coalesce([memoryview(encode_proposer_message(message, version)) for message in messages], version))


def only_run(batches: Iterable[Batch]) -> AppendRun:
    (run,) = batches
    assert isinstance(run, AppendRun)
    return run


@pytest.fixture(params=[2, 3])
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def test_contiguous_appends_become_one_run(version: int) -> None:
    run = only_run(coalesced([append(100, b"abc"), append(103, b"de"), append(105, b"f")], version))
    assert (run.begin_lsn, run.end_lsn) == (100, 106)
    assert [bytes(piece) for piece in run.slices] == [b"abc", b"de", b"f"]


def test_a_run_holds_views_and_no_copies(version: int) -> None:
    payload = encode_proposer_message(append(100, b"abc"), version)
    run = only_run(coalesce([memoryview(payload)], version))
    assert [piece.obj is payload for piece in run.slices if isinstance(piece, memoryview)] == [True]


def test_heartbeats_join_runs_and_leave_no_slice(version: int) -> None:
    run = only_run(coalesced([append(100, b""), append(100, b"abc"), append(103, b"", commit=102)], version))
    assert [bytes(piece) for piece in run.slices] == [b"abc"]
    assert (run.end_lsn, run.commit_lsn) == (103, 102)


def test_a_heartbeat_alone_is_a_run(version: int) -> None:
    run = only_run(coalesced([append(100, b"", commit=90, truncate=80)], version))
    assert list(run.slices) == []
    assert (run.wal_bytes, run.commit_lsn, run.truncate_lsn) == (0, 90, 80)


def test_the_newest_commit_and_truncate_positions_count_and_never_go_back(version: int) -> None:
    messages = [
        append(100, b"a", commit=90, truncate=70),
        append(101, b"b", commit=95, truncate=60),
        append(102, b"c", commit=0, truncate=65),
    ]
    run = only_run(coalesced(messages, version))
    assert (run.commit_lsn, run.truncate_lsn) == (95, 70)


@pytest.mark.parametrize(
    "second",
    [
        append(104, b"z"),
        append(102, b"z"),
        append(100, b"z"),
        append(103, b"z", term=2),
        append(103, b"z", generation=1),
    ],
)
def test_a_gap_an_overlap_another_term_or_generation_starts_another_run(second: AppendRequest) -> None:
    first, last = coalesced([append(100, b"abc"), second], 3)
    assert isinstance(first, AppendRun)
    assert isinstance(last, AppendRun)
    assert (first.begin_lsn, first.end_lsn, list(map(bytes, first.slices))) == (100, 103, [b"abc"])
    assert (last.begin_lsn, last.term, last.generation) == (second.begin_lsn, second.term, second.generation)


def test_other_messages_stay_single_and_in_order(version: int) -> None:
    vote = VoteRequest(Generation(0), Term(2))
    batches = coalesced([append(100, b"a"), vote, append(101, b"b")], version)
    assert [type(batch) for batch in batches] == [AppendRun, VoteRequest, AppendRun]
    assert batches[1] == vote


def test_nothing_becomes_nothing(version: int) -> None:
    assert coalesced([], version) == []


def test_bytes_after_the_wal_are_not_wal(version: int) -> None:
    payload = encode_proposer_message(append(100, b"abc"), version) + b"junk"
    assert [bytes(piece) for piece in only_run(coalesce([payload], version)).slices] == [b"abc"]


def test_a_bad_payload_is_malformed_wherever_it_stands(version: int) -> None:
    good = encode_proposer_message(append(100, b"abc"), version)
    for bad in (b"", b"a", b"?", good[:-1]):
        with pytest.raises(Malformed):
            list(coalesce([good, bad], version))


def test_an_unsupported_version_is_malformed() -> None:
    with pytest.raises(Malformed):
        list(coalesce([], 1))
