"""How errors look over HTTP."""

import pytest

from walkeeper.control.outcomes import body_of, status_of
from walkeeper.errors import (
    Blown,
    Closing,
    Corrupt,
    Deleted,
    DiskFull,
    Exists,
    FileSystemLimit,
    InvalidTimeline,
    Malformed,
    NotFound,
    NotMadeAgain,
    NotMember,
    OutOfFiles,
    OutOfTurn,
    StaleExclusion,
    StillMember,
    WalGap,
    WalkeeperError,
)
from walkeeper.ids import NodeId, TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import Lsn
from walkeeper.membership import Generation

TTID = TenantTimelineId(TenantId(b"t" * 16), TimelineId(b"l" * 16))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Malformed("x"), 400),
        (OutOfTurn("x"), 400),
        (InvalidTimeline("x"), 400),
        (NotMember(NodeId(1), Generation(2)), 403),
        (StillMember(NodeId(1), Generation(2)), 403),
        (NotFound(TTID), 404),
        (Deleted(TTID), 404),
        (NotMadeAgain(TTID), 409),
        (StaleExclusion(Generation(1), Generation(2)), 409),
        (Exists(TTID), 409),
        (WalGap(Lsn(2), Lsn(1)), 409),
        (Closing(TTID), 503),
        (Blown(TTID), 503),
        (OutOfFiles("x"), 503),
        (DiskFull("x"), 500),
        (FileSystemLimit(1, 2), 503),
        (Corrupt("x"), 500),
        (WalkeeperError("x"), 500),
    ],
)
def test_every_kind_of_error_has_its_status(error: WalkeeperError, status: int) -> None:
    assert status_of(error) == status


def test_a_missing_timeline_is_named_as_neons_clients_expect() -> None:
    assert body_of(NotFound(TTID)).msg == f"NotFound: timeline {TTID} not found"
    assert body_of(Deleted(TTID)).msg == f"NotFound: timeline {TTID} deleted"


@pytest.mark.parametrize(
    ("error", "prefix"), [(NotMember(NodeId(1), Generation(2)), "Forbidden: "), (Exists(TTID), "Conflict: ")]
)
def test_a_refusal_begins_with_its_status(error: WalkeeperError, prefix: str) -> None:
    assert body_of(error).msg == prefix + str(error)
