"""What is wrong with a keeper or a timeline, in words: what it is, what can be done, and where the manual says more.

Every cell of the status page that is not as it should be has one of these; ``walkeeper top`` prints the same.  Nothing is
decided by it.

``see`` is the heading of a section of docs/operations.md.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Literal

from walkeeper.control.health import HEARD, Check, State
from walkeeper.control.models import Json
from walkeeper.timeline.registry import Sender
from walkeeper.timeline.room import Room
from walkeeper.timeline.timeline import TimelineStatistics

WAITS_SECONDS: Final = 3.0
"""How long WAL may wait for a majority before that is said: a keeper that has died takes a writer some of it."""

WAITS_BADLY_SECONDS: Final = 10.0
"""After so long the sidecar logs ``no majority``, too."""

LOOP_LAG_SECONDS: Final = 0.25
LOOP_LAG_BADLY_SECONDS: Final = 1.0
"""Probes give up after a second or so."""

FLUSH_SECONDS: Final = 1.0
FLUSH_BADLY_SECONDS: Final = 10.0
"""A sync that takes a second is felt in every commit; a writer drops a keeper that is silent for ten."""

READER_LAG_BYTES: Final = 64 * 1024 * 1024
"""Four segments of the usual size: no standby that keeps up is that far behind."""

Level = Literal["red", "amber"]

QUORUM: Final = "A quorum of keepers"
HEALTH: Final = "Health"
LEAVING: Final = "Leaving and catching up"
PAGE: Final = "The status page"
EVENTS: Final = "What happens when …"
ALERTS: Final = "What to alert on"
TOKENS: Final = "Tokens"
LIMITS: Final = "Limits"


class Problem(Json, frozen=True):
    """``cell``: which of the values shown it explains."""

    cell: str
    level: Level
    what: str
    advice: str
    see: str


def of_keeper(
    waiting: Sequence[Check],
    wedged: Sequence[Check],
    *,
    state: State,
    loop_lag_seconds: float,
    flush_seconds: float,
    no_sync: bool,
    room: Room | None,
) -> Iterator[Problem]:
    """``waiting``, ``wedged``: the checks that fail of those for readiness and for life; ``room``: None at the start."""
    if state == "draining":
        yield Problem(
            "ready", "amber", "It was told to stop and is draining: nobody new is let in.",
            "Start it again when whoever stopped it is done.", HEALTH,
        )  # fmt: skip
    elif state == "leaving":
        yield Problem(
            "ready", "amber", "It was told to stop, and serves until the others are a majority without it.",
            "Wait for the others to be ready; a second signal ends it at once.", LEAVING,
        )  # fmt: skip
    elif state == "serving" and waiting:
        whole = "; ".join(f"{check.name}: {check.problem}" for check in waiting)
        is_deaf = any(check.name == HEARD for check in waiting)
        yield Problem(
            "ready", "amber", f"It serves and is not ready. It waits for: {whole}.",
            "Look at those that are not heard, the network between, the token and certificates. It does not wait for ever." if is_deaf
            else "A writer, or walkeeper sync, fills it from the others. Until then lose no other keeper.", LEAVING,
        )  # fmt: skip
    elif waiting:
        names = ", ".join(check.name for check in waiting)
        yield Problem(
            "ready", "red", f"It does not serve yet. It waits for: {names}.",
            "Reading timelines takes seconds, thousands of them minutes. If it lasts, its log says what it is at.", HEALTH,
        )  # fmt: skip
    for check in wedged:
        yield Problem(
            "disk", "red", f"The disk does not answer: {check.problem}.",
            "Look at the disk and the kernel's log. No new process helps while the kernel waits; other keepers carry the commits.",
            HEALTH,
        )  # fmt: skip
    if room is not None and room.is_refusing:
        yield Problem(
            "disk", "red",
            f"The disk is nearly full, {(room.free_bytes or 0) >> 20} MiB are free: WAL is refused, reads go on.",
            "Make room on this disk: WAL is taken again by itself. Other keepers carry the commits while they are a majority.",
            LIMITS,
        )  # fmt: skip
    if no_sync:
        yield Problem(
            "sync", "red", "Nothing is fsynced (--no-sync): a power failure loses WAL that was acknowledged.",
            "Start it without --no-sync unless this is a test.", QUORUM,
        )  # fmt: skip
    if loop_lag_seconds > LOOP_LAG_SECONDS:
        yield Problem(
            "loop", _level(loop_lag_seconds > LOOP_LAG_BADLY_SECONDS),
            f"The event loop stood still for {loop_lag_seconds:.2f} s within the last two minutes: everybody waited.",
            "Too little processor, swapping, or a disk that stalled under a small commit.", ALERTS,
        )  # fmt: skip
    if flush_seconds > FLUSH_SECONDS:
        yield Problem(
            "flush", _level(flush_seconds > FLUSH_BADLY_SECONDS),
            f"An fsync took {flush_seconds:.1f} s within the last two minutes.",
            "This keeper's disk is slow or busy. Commits go on with the others while they are a majority.", ALERTS,
        )  # fmt: skip


def of_shut_timeline(error: str) -> Problem:
    return Problem(
        "standing", "red", f"Its files cannot be read: {error}.",
        "Nobody is served from it; other timelines are. Look with walkeeper inspect; a wiped timeline is filled from the others.",
        EVENTS,
    )  # fmt: skip


def of_timeline(
    statistics: TimelineStatistics, *, is_closing: bool, behind_bytes: int, behind_seconds: float
) -> Iterator[Problem]:
    """``behind_bytes``: WAL that is here and not known to be committed; ``behind_seconds``: since when nothing was."""
    state = statistics.state
    if is_closing:
        yield Problem(
            "standing", "amber", "It is being deleted, or the keeper is stopping.",
            "Nothing: a deletion ends when its connections have left.", EVENTS,
        )  # fmt: skip
    elif state is None:
        why = _text_of(statistics.blown_by) or "it has not been read yet"
        yield Problem(
            "standing", "red", f"It serves nobody until it has been read again from disk: {why}.",
            "That is tried again every 30 s. If it stays, the disk is full, failing or damaged: look with walkeeper inspect.",
            ALERTS,
        )  # fmt: skip
    if state is not None and not state.is_whole:
        yield Problem(
            "whole", "amber", "Not whole: new here, or its disk was lost. It does not count in elections yet.",
            "A writer fills it from the others. Until then lose no other keeper.", EVENTS,
        )  # fmt: skip
    if statistics.is_over_limit:
        yield Problem(
            "standing", "red", "It takes as much of the disk as it may: its WAL is refused, reads go on.",
            "Start the keeper with a larger --max-timeline-disk-usage-bytes, or remove segments that nobody needs.", LIMITS,
        )  # fmt: skip
    if behind_bytes and behind_seconds > WAITS_SECONDS:
        yield _waiting(behind_seconds, has_writer=bool(statistics.receivers))
    if state is not None and statistics.account.fuses_blown:
        yield Problem(
            "fuse", "amber", f"Its fuse has blown {statistics.account.fuses_blown} times since the start.",
            "It was read again and serves. The log says which operation failed, and why.", ALERTS,
        )  # fmt: skip
    if statistics.is_corruption_reported:
        yield Problem(
            "readers", "red", "A pageserver has found damaged WAL.",
            "Read the pageserver's log, and look with walkeeper inspect on every keeper.", ALERTS,
        )  # fmt: skip


def _waiting(seconds: float, *, has_writer: bool) -> Problem:
    if not has_writer:
        return Problem(
            "behind", "amber", "WAL at its end is not known to be committed, and no writer is here.",
            "The next writer decides: what a majority has is committed, the rest is dropped. Start it.", EVENTS,
        )  # fmt: skip
    return Problem(
        "behind", _level(seconds > WAITS_BADLY_SECONDS),
        f"Commits wait: nothing has been committed for {seconds:.0f} s although WAL is here.",
        "Too few of the other keepers acknowledge. Bring them back; the sidecar's log names those that are missing.", EVENTS,
    )  # fmt: skip


def of_sender(sender: Sender, lag_bytes: int) -> Problem | None:
    if lag_bytes <= READER_LAG_BYTES:
        return None
    name = sender.client.application_name or "a reader"
    return Problem(
        "readers", "amber", f"{name} is {lag_bytes // 2**20} MiB behind.",
        "It reads or replays more slowly than is written, or has just begun.", EVENTS,
    )  # fmt: skip


def of_silent_peer(why: str) -> Problem:
    return Problem(
        "peer", "red", f"It does not answer: {why}.",
        "Look at its machine, its log and the network between. Commits go on while a majority is left; bring it back before"
        " another one goes.", EVENTS,
    )  # fmt: skip


def of_closed_peer(why: str) -> Problem:
    return Problem(
        "peer", "amber", f"It lives, and tells nothing: {why}.",
        "If it asks for a token, start this keeper with --auth-token-path.", TOKENS,
    )  # fmt: skip


def of_twin(number: int) -> Problem:
    return Problem(
        "peer", "red", f"It says that it is keeper {number}, as this one does.",
        "Two keepers of a quorum must not have the same number: find out which one is wrong, and stop it.", PAGE,
    )  # fmt: skip


def _level(is_bad: bool) -> Level:
    return "red" if is_bad else "amber"


def _text_of(error: BaseException | None) -> str:
    return "" if error is None else str(error) or type(error).__name__
