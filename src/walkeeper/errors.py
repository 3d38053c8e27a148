"""Everything that can go wrong, named for who must act.

* ``PeerError``: the peer spoke wrongly.  It hears about it and the connection ends.
* ``Refused``: the peer was understood and the answer is no; nothing has changed.
* ``Fenced``: a newer writer exists; whoever operates both decides.
* ``Unreachable``, ``ServerError``: a server we are a client of; ``NotKept``: what nobody has, for certain.
* ``TimelineUnavailable``: ask again later, elsewhere, or never.
* ``StorageError``: the disk.
* ``ConfigError``: whoever started the program.

Errors carry fields; their text is for people, and no test or caller matches on it.  Codes for the outside
(SQLSTATE, HTTP status, exit code) live at the boundaries, one table each.  Programmer errors are asserts.
"""

from collections.abc import Iterator
from typing import Final

from walkeeper.ids import NodeId, TenantTimelineId
from walkeeper.lsn import Lsn, format_lsn
from walkeeper.membership import Generation
from walkeeper.terms import Term, TermHistory

COMMAND_CHARACTERS_MAX: Final = 200
"""How much of a peer's query an error repeats: enough to recognise it in a log line."""

PEERS_CHARACTERS_MAX: Final = 500
"""How long an error is that a peer brings about: what it quotes may be a frame of a megabyte, and goes into the log."""


class WalkeeperError(Exception):
    """The root of all named errors."""


def shortened(text: str) -> str:
    """``text``, or how it begins."""
    return text if len(text) <= PEERS_CHARACTERS_MAX else f"{text[:PEERS_CHARACTERS_MAX]} ..."


def printable(text: str) -> str:
    """In the place of everything that could do something to a terminal, or begin a line, stands a question mark."""
    return "".join(character if character.isprintable() else "?" for character in text)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group of groups, or ``error`` itself if it is none."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


# -- the peer spoke wrongly ---------------------------------------------------------------------------------


class PeerError(WalkeeperError):
    """The peer broke the protocol."""

    def __init__(self, why: str) -> None:
        super().__init__(shortened(why))


class Malformed(PeerError):
    """Bytes that mean nothing: says what was being read and what was wrong with it."""


class BadWal(Malformed):
    """WAL that PostgreSQL would not have written: the page or record (``what``) at ``lsn``."""

    def __init__(self, what: str, lsn: Lsn, why: str) -> None:
        super().__init__(f"WAL {what} at {format_lsn(lsn)}: {why}")
        self.lsn = lsn


class TlsFailed(PeerError):
    """No TLS came about: nobody can be told, since nothing can be said in it."""


class OutOfTurn(PeerError):
    """A message that is fine in itself, at a moment when it is not."""


# -- understood, and the answer is no -----------------------------------------------------------------------


class Refused(WalkeeperError):
    """The request was understood and is denied; state is as before."""


class AccessDenied(Refused):
    """Who asks has not shown a token that allows it.

    The text says no more than that, and ``why`` is for the log: whoever guesses must not be helped.
    """

    said = "JWT authentication error"

    def __init__(self, why: str) -> None:
        super().__init__(self.said)
        self.why = shortened(why)


class LoginFailed(AccessDenied):
    """A user has not proved to know the password; whether there is such a user is not said.

    Where tokens are asked for, too, being asked for a password says it.
    """

    said = "password authentication failed"


class NotAllowed(AccessDenied):
    """A user who came in with a password may not do this."""

    said = "permission denied"


class MustUseTls(Refused):
    """A client in clear text, where only encrypted ones are let in; in the words of Neon."""

    def __init__(self) -> None:
        super().__init__("must connect with TLS")


class BadCommand(Refused):
    """A query that no keeper answers, or whose options cannot be read.  The connection stays usable.

    ``command`` is what of the peer's own words is meant; empty when ``why`` says everything.
    """

    def __init__(self, why: str, command: str = "") -> None:
        super().__init__(shortened(f"{why} {command[:COMMAND_CHARACTERS_MAX]}".rstrip()))
        self.why, self.command = why, command


class WrongServer(Refused):
    """The writer is another PostgreSQL than the one whose WAL this is."""

    def __init__(self, what: str, got: object, expected: object) -> None:
        super().__init__(f"invalid {what}, got {got}, expected {expected}")
        self.what, self.got, self.expected = what, got, expected


class NotMember(Refused):
    """A configuration that does not contain this keeper must not be adopted (invariant 19)."""

    def __init__(self, node: NodeId, generation: Generation) -> None:
        super().__init__(f"refused to switch into generation {generation}: node {node} is not a member of it")
        self.node, self.generation = node, generation


class StaleConfiguration(Refused):
    """A configuration that is older than the one in force (invariant 18)."""

    def __init__(self, got: Generation, own: Generation) -> None:
        super().__init__(f"request to switch into {got} ignored, current generation {own}")
        self.got, self.own = got, own


class NotPatched(Refused):
    """A field of a control file that nobody may set."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"refused to patch {field}: {why}")
        self.field, self.why = field, why


class StillMember(Refused):
    """A keeper is excluded by a configuration that does not contain it, and by no other."""

    def __init__(self, node: NodeId, generation: Generation) -> None:
        super().__init__(f"refused to exclude: node {node} is a member of generation {generation}")
        self.node, self.generation = node, generation


class StaleExclusion(Refused):
    """Who excludes this keeper does not know of a newer configuration, which may contain it (invariant 18)."""

    def __init__(self, got: Generation, own: Generation) -> None:
        super().__init__(f"refused to switch into excluding mconf of generation {got}: current generation {own}")
        self.got, self.own = got, own


class WrongGeneration(Refused):
    """Votes, elections and appends need the generation to be equal on both sides (invariant 18)."""

    def __init__(self, request: str, got: Generation, own: Generation) -> None:
        super().__init__(f"refusing {request} due to generation mismatch: got {got}, have {own}")
        self.request, self.got, self.own = request, got, own


class NotElected(Refused):
    """WAL from a term whose election this keeper has not heard of."""

    def __init__(self, term: Term, own: Term) -> None:
        super().__init__(f"got AppendRequest before ProposerElected: term {term}, own term {own}")
        self.term, self.own = term, own


class WrongDivergence(Refused):
    """The leader would truncate somewhere else than where the logs diverge (invariant 11)."""

    def __init__(self, term: Term, start: Lsn, expected: Lsn, own: TermHistory) -> None:
        super().__init__(
            f"refusing ProposerElected of term {term} with unexpected truncation point {format_lsn(start)}, "
            f"the logs diverge at {format_lsn(expected)}; own history {own}"
        )
        self.term, self.start, self.expected, self.own = term, start, expected, own


class HistoryConflict(Refused):
    """One term starts at two different LSNs: two leaders had it, which elections make impossible (invariant 35)."""


class TruncatesCommitted(Refused):
    """A leader that would remove WAL known to be committed (invariant 10)."""

    def __init__(self, start: Lsn, commit_lsn: Lsn) -> None:
        super().__init__(f"refusing to truncate at {format_lsn(start)}: committed up to {format_lsn(commit_lsn)}")
        self.start, self.commit_lsn = start, commit_lsn


class TruncationPending(Refused):
    """WAL before the leader has said, since this keeper started, where to continue (invariant 27)."""

    def __init__(self, begin_lsn: Lsn) -> None:
        super().__init__(f"refusing WAL at {format_lsn(begin_lsn)}: no ProposerElected since this keeper started")
        self.begin_lsn = begin_lsn


class WalRewrite(Refused):
    """An append that begins below the write position."""

    def __init__(self, begin_lsn: Lsn, write_lsn: Lsn) -> None:
        super().__init__(
            f"append request rewrites WAL written before: begins at {format_lsn(begin_lsn)}, written up to {format_lsn(write_lsn)}"
        )
        self.begin_lsn, self.write_lsn = begin_lsn, write_lsn


class WalGap(Refused):
    """An append that begins above the write position."""

    def __init__(self, begin_lsn: Lsn, write_lsn: Lsn) -> None:
        super().__init__(
            f"append request creates gap in written WAL: begins at {format_lsn(begin_lsn)}, written up to {format_lsn(write_lsn)}"
        )
        self.begin_lsn, self.write_lsn = begin_lsn, write_lsn


class TermChanged(Refused):
    """Uncommitted WAL was asked for on behalf of a leader that is none any more."""

    def __init__(self, requested: Term, current: Term) -> None:
        super().__init__(f"failed to acquire term {requested}, current term {current}")
        self.requested, self.current = requested, current


class WalNotAvailable(Refused):
    """WAL that this keeper does not have: before its start, or not on its disk any more."""

    def __init__(self, lsn: Lsn, why: str) -> None:
        super().__init__(f"WAL at {format_lsn(lsn)} is not available: {why}")
        self.lsn = lsn


class TooManyClients(Refused):
    """All that there is room for are here already; in the words of PostgreSQL."""

    def __init__(self) -> None:
        super().__init__("sorry, too many clients already")


class OutOfMemory(Refused):
    """A reader for which the memory of all connections has no room."""

    def __init__(self) -> None:
        super().__init__("sorry, the memory for readers is used up")


class TooManyStrangers(Refused):
    """A client that had not said who it is had to make room for another."""

    def __init__(self) -> None:
        super().__init__("too many clients that do not say who they are")


class Fenced(WalkeeperError):
    """Another writer has taken over in a higher term (invariant 35): this one must end, and not come back by itself.

    ``own`` is the highest term that it has had.  Exit code 3.
    """

    def __init__(self, keeper: str, term: Term, own: Term) -> None:
        super().__init__(
            f"fenced: keeper {keeper} is in term {term}, this writer's last was {own}: another one has taken over, or a sync;"
            " stop one of the two writers, then start this one again"
        )
        self.keeper, self.term, self.own = keeper, term, own


class StartOver(WalkeeperError):
    """A leadership, or the attempt to get one, that cannot go on; a new attempt, in a higher term, may succeed."""


# -- a server we are a client of ----------------------------------------------------------------------------


class Unreachable(WalkeeperError):
    """A connection that could not be made, or broke, or went silent: another attempt may do better."""

    def __init__(self, server: str, why: str) -> None:
        super().__init__(f"{server}: {why}")
        self.server, self.why = server, why


class ServerError(WalkeeperError):
    """A server, PostgreSQL or a keeper, answered with an error."""

    def __init__(self, server: str, sqlstate: str, message: str, hint: str = "") -> None:
        super().__init__(shortened(f"{server}: {message}" + (f" ({hint})" if hint else "")))
        self.server, self.sqlstate, self.message, self.hint = server, sqlstate, message, hint


class NotKept(WalkeeperError):
    """A file that keepers were asked for does not exist, and that is certain: a recovery may take it for the end."""


# -- the timeline cannot serve ------------------------------------------------------------------------------


class TimelineUnavailable(WalkeeperError):
    """The timeline cannot be used now; the subclass says why."""

    reason = "is unavailable"

    def __init__(self, ttid: TenantTimelineId, detail: str = "") -> None:
        super().__init__(f"timeline {ttid} {self.reason}{': ' if detail else ''}{detail}")
        self.ttid = ttid


class NotFound(TimelineUnavailable):
    reason = "was not found in global map"


class Exists(TimelineUnavailable):
    """A timeline, or a directory that may be one, is in the way of creating it."""

    reason = "exists on disk, but wasn't loaded"


class Closing(TimelineUnavailable):
    reason = "was cancelled and cannot be used anymore"


class Blown(TimelineUnavailable):
    """The fuse blew: an operation ended in an unknown way, and the timeline is read again from disk first."""

    reason = "is being read again from disk after a failed operation"


class Deleted(NotFound):
    """It was deleted, and this keeper remembers that for a while."""

    reason = "has been deleted"


class NotMadeAgain(Refused):
    """A timeline that was deleted is not made again while that is remembered: whoever asks may not have heard of it."""

    def __init__(self, ttid: TenantTimelineId) -> None:
        super().__init__(f"Timeline {ttid} has been deleted")
        self.ttid = ttid


class InvalidTimeline(Refused):
    """The parameters of a timeline to be created contradict each other or what can be kept."""


# -- the disk -----------------------------------------------------------------------------------------------


class StorageError(WalkeeperError):
    """The disk did not do what was asked: ``operation``, on the file at ``path``.  Both are empty where there is none.

    ``detail`` says why, without the two.
    """

    def __init__(self, detail: str, *, operation: str = "", path: str = "") -> None:
        asked = " ".join(filter(None, (operation, path)))
        super().__init__(f"{asked}: {detail}" if asked else detail)
        self.detail, self.operation, self.path = detail, operation, path


class FileMissing(StorageError):
    """A file or directory that does not exist.  No other failure to open one is taken for this."""


class DiskFull(StorageError):
    """No space left; what had been begun was undone, so the timeline goes on as it was."""


class DiskLimit(DiskFull):
    """WAL that was refused while the disk still has room: nothing was begun, and everything but WAL goes on."""


class FileSystemLimit(DiskLimit):
    """What is free is kept for control files."""

    def __init__(self, free_bytes: int, reserve_bytes: int) -> None:
        super().__init__(
            f"Global disk usage exceeded limit: {free_bytes} bytes are free, WAL is taken when there are clearly more than"
            f" {reserve_bytes}"
        )


class TimelineLimit(DiskLimit):
    """The segments of one timeline take as much as they may."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__(f"WAL storage utilization exceeds configured limit of {bytes_max} bytes")


class OutOfFiles(StorageError):
    """No descriptor left to open a file with, here or in the whole system; it says nothing of the disk."""


class TooFewFiles(OutOfFiles):
    """Something was not begun because there may be too few descriptors to end it; nothing has changed."""


class Superseded(StorageError):
    """Another call has begun to make the same file, and only the last one gives it its name."""


class PartlyKept(StorageError):
    """Some effects of an operation are on disk and others are not: the timeline must be read again."""


class Corrupt(StorageError):
    """What is on disk contradicts itself: says which file and how."""


class DurabilityLost(StorageError):
    """An fsync failed.  What it covered may be gone although the page cache still shows it; the process must end."""


# -- whoever started the program ----------------------------------------------------------------------------


class ConfigError(WalkeeperError):
    """Wrong flags or environment: one line that says what and what to do.  Exit code 2."""


class NotEncrypted(ConfigError):
    """TLS to a server does not come about as it is wanted: its certificate is not trusted, or ours cannot be read."""
