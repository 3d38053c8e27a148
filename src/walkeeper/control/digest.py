"""The digest of a stretch of WAL: what says that two keepers have the same, byte by byte.

Reads as the senders do, without the timeline's lock; WAL that is truncated meanwhile has no digest.
"""

from hashlib import sha256
from typing import Final

import trio

from walkeeper.errors import Malformed, WalNotAvailable
from walkeeper.lsn import Lsn, format_lsn
from walkeeper.timeline.timeline import Timeline

PIECE_BYTES: Final = 128 * 1024
"""Read and hashed at once: a tenth of a millisecond, and commits go on in between."""


async def digest_wal(timeline: Timeline, begin_lsn: Lsn, end_lsn: Lsn) -> str:
    """The SHA-256, in hexadecimal, of the WAL in [begin_lsn, end_lsn), all of which must be here.

    Raises Malformed, WalNotAvailable, TimelineUnavailable or StorageError.

    Cancellation: at any time; a read changes nothing.
    """
    if begin_lsn > end_lsn:
        raise Malformed(f"from_lsn {format_lsn(begin_lsn)} is behind until_lsn {format_lsn(end_lsn)}")
    kept = timeline.require_state().kept
    if begin_lsn < kept.local_start_lsn:
        raise WalNotAvailable(begin_lsn, f"the WAL here begins at {format_lsn(kept.local_start_lsn)}")
    flush_lsn = timeline.progress.position.flush_lsn
    if end_lsn > flush_lsn:
        raise WalNotAvailable(end_lsn, f"the WAL here ends at {format_lsn(flush_lsn)}")
    truncations = timeline.progress.truncations
    digest, buffer, lsn = sha256(), memoryview(bytearray(PIECE_BYTES)), begin_lsn
    with timeline.registry.visiting():
        while lsn < end_lsn:
            with await timeline.open_segment(lsn) as segment:
                while lsn < end_lsn and lsn in segment:
                    wal = await timeline.read(segment, lsn, buffer[: end_lsn - lsn])
                    digest.update(wal)
                    lsn = Lsn(lsn + len(wal))
                    await trio.lowlevel.checkpoint()
    if timeline.progress.truncations != truncations:
        raise WalNotAvailable(begin_lsn, "some was truncated while it was read")
    return digest.hexdigest()
