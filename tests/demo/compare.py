"""The keepers' segments against the primary's pg_wal, while that is still there."""

from collections.abc import Sequence

import postgres
import programs
from compared_wal import Compared, compare_wal
from demo.narrator import Narrator

SEGMENT_BYTES = 16 << 20  # PostgreSQL's own default

EQUAL_BYTES_MIN = SEGMENT_BYTES
"""Less would prove little: the base backup alone fills a segment."""

BEHIND_BYTES_MAX = 1 << 20
"""What a keeper may lack of another's WAL when the writer dies: what was on its way."""

LOOKS_MAX = 100  # of programs.LOOK_SECONDS each, until a keeper has noticed that the writer is gone


def compare_all(
    primary: postgres.Cluster, keepers: Sequence[programs.Keeper], tenant: str, timeline: str, say: Narrator
) -> None:
    """Compare and read all that every keeper has; raise WalDiffers, PostgresFailed or ProgramFailed."""
    ends: list[int] = []
    equal_bytes: list[int] = []
    for keeper in keepers:
        wait_until_left(keeper, tenant, timeline)
        end_lsn = keeper.flush_lsn(tenant, timeline)
        found = compare_wal(primary, keeper.segments(tenant, timeline), end_lsn, SEGMENT_BYTES)
        say.happens(f"{keeper.name}: {described(found)}, up to {programs.format_lsn(end_lsn)}")
        ends.append(end_lsn)
        equal_bytes.append(found.equal_bytes)
    behind = max(ends) - min(ends)
    if behind > BEHIND_BYTES_MAX:
        raise programs.ProgramFailed(f"a keeper is {behind} bytes behind another")
    if min(equal_bytes) < EQUAL_BYTES_MIN:
        raise programs.ProgramFailed(f"only {min(equal_bytes)} bytes of a keeper could be compared")
    say.proved(
        f"every keeper's WAL is the primary's byte for byte ({min(equal_bytes) / 2**20:.1f} MiB compared on each,"
        f" ends {behind} bytes apart)"
    )


def described(found: Compared) -> str:
    """What was looked at, for people."""
    return (
        f"pg_waldump reads {found.records} records in {found.whole_segments} whole and"
        f" {found.partial_segments} .partial segments;"
        f" {found.equal_bytes} bytes are the same in pg_wal"
    )


def wait_until_left(keeper: programs.Keeper, tenant: str, timeline: str) -> None:
    """Return when no writer is connected any more: what it had sent is on disk, and nothing is renamed."""
    for _ in range(LOOKS_MAX):
        if not keeper.has_writer(tenant, timeline):
            return
        keeper.pause()
    raise programs.ProgramFailed(f"{keeper.name} still has a writer\n{keeper.log[-2000:]}")
