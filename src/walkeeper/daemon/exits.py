"""Errors as last words and exit codes: for people and their scripts, and for PostgreSQL's recovery.

Exit codes: 0 done, 1 failed (of a command that looks: something is wrong with what it saw), 2 wrong options or
environment, 3 fenced by a newer term, 4 durability lost, 127 no such command.  A restore_command has codes of its own: PostgreSQL takes 1 to 125 for *there is no such file*, which ends its
recovery, and stops at anything above.  A misspelt one is not known for a restore_command, hence the 127; one that names
another command is known by the file that it is asked for.

Source: PostgreSQL ``access/transam/xlogarchive.c`` (RestoreArchivedFile).
"""

import os
import sys
from typing import Final

from walkeeper.errors import ConfigError, DurabilityLost, Fenced, NotKept, WalkeeperError, leaves

INTERRUPTED: Final = 130
"""As shells report a program that Ctrl-C ended; above 125, too."""

NO_SUCH_COMMAND: Final = 127
"""As shells report a program that is not found.  PostgreSQL stops at it, as it does at theirs."""

NO_SUCH_FILE: Final = 1
CANNOT_TELL: Final = 126
"""What a restore_command says."""


def report(error: BaseException) -> int:
    """Say in one line what went wrong; the exit code.  An error that has no name is raised: it needs its traceback."""
    gravest = _gravest(error)
    if gravest is None:
        raise error
    tell(str(gravest))
    return exit_code(gravest)


def report_no_command(error: BaseException) -> int:
    """The same where the first word names no command: it may have been meant for a recovery."""
    report(error)
    return NO_SUCH_COMMAND


def report_to_recovery(error: BaseException) -> int:
    """As ``report``, for a restore_command.  Only what is certain may end a recovery, and nothing is raised."""
    tell(_words_for(error))
    return NO_SUCH_FILE if all(isinstance(leaf, NotKept) for leaf in leaves(error)) else CANNOT_TELL


def report_to_misled_recovery(error: BaseException) -> int:
    """The same where a restore_command names a command that gives no files: nothing is certain."""
    tell(f"{_words_for(error)}; restore_command should be: walkeeper fetch %f %p")
    return CANNOT_TELL


def _words_for(error: BaseException) -> str:
    import traceback

    gravest = _gravest(error)
    return "".join(traceback.format_exception(error)) if gravest is None else str(gravest)


def tell(line: str) -> None:
    """Say it on standard error.  Where that cannot be written, on a full disk, the exit code is still what it is."""
    harmless = "".join(
        each if each.isprintable() or each in "\n\t" else "?" for each in line
    )  # a server may have said it
    try:
        print(f"walkeeper: {harmless}", file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # else Python ends with a code of its own


def exit_code(error: WalkeeperError) -> int:
    match error:
        case ConfigError():
            return 2
        case Fenced():
            return 3
        case DurabilityLost():
            return 4
        case _:
            return 1


def _gravest(error: BaseException) -> WalkeeperError | None:
    """What to tell of an error, or of several at once; None if one of them has no name and needs its traceback."""
    found = list(leaves(error))
    named = [leaf for leaf in found if isinstance(leaf, WalkeeperError)]
    if len(named) < len(found):
        return None
    return max(named, key=exit_code)
