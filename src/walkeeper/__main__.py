"""Where the ``walkeeper`` program begins: loads the command line, and answers for ``fetch`` if that fails.

Python ends with exit code 1 when it cannot load a module, as in the middle of an upgrade or without free file
descriptors.  From a restore_command PostgreSQL takes that for the end of WAL (``daemon.exits``), and a database that
lacks commits would open.  Hence nothing but the standard library is loaded outside the block, and whatever escapes from
``fetch`` in it, loaded or not, says that nobody can tell.

Does not know any command but by that name.
"""

import os
import signal
import sys
from typing import Final, NoReturn

CANNOT_TELL: Final = 126
"""That of ``daemon.exits``, which may be what cannot be loaded."""


def main() -> NoReturn:
    """The ``walkeeper`` program.  A command that does not answer SIGTERM ends by it, also as process number 1."""
    try:
        from walkeeper.daemon.deadly import NUMBER_1, make_deadly

        if os.getpid() == NUMBER_1:
            make_deadly(signal.SIGTERM, NUMBER_1)  # before all else: it takes a while to load that
        from walkeeper.daemon import cli

        cli.main()
    except Exception as error:
        if sys.argv[1:2] != ["fetch"]:
            raise
        _tell(f"walkeeper: {error!r}\n")
        sys.exit(CANNOT_TELL)


def _tell(line: str) -> None:
    """Unbuffered: what Python cannot write when it ends gives it an exit code of its own."""
    try:
        os.write(2, line.encode(errors="backslashreplace"))
    except OSError:
        pass


if __name__ == "__main__":
    main()
