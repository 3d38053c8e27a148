"""Where log lines go: to a file descriptor that may fail, which takes nothing down but the lines.

A full disk under the log, or a reader of it that has ended, must not end a keeper, least of all all of a quorum at once.  A
line that cannot be written is dropped and counted; when writing works again, a line says how many there were.

Rules: nothing of ours stays in a buffer, or Python would fail to write it once more at its exit, and end with a code of
its own.  Does not know what a line looks like: ``logs`` does.
"""

import io
import os
import threading
from collections.abc import Callable
from typing import TextIO


class LogLines:
    """Writes to the descriptor of ``stream``, or to ``stream`` itself if it has none.  On any thread.

    ``tell`` makes the line, without its end, that says how many were lost; ``count_lost`` is told of each.
    """

    def __init__(self, stream: TextIO, tell: Callable[[int], str], count_lost: Callable[[], None]) -> None:
        self._stream = stream
        self._fd = _descriptor(stream)
        self._tell = tell
        self._count_lost = count_lost
        self._lock = threading.Lock()
        self._lost = 0
        self._is_torn = False

    def write(self, line: str) -> None:
        """One line with its end.  Raises nothing."""
        with self._lock:
            if self._lost and self._put(f"{self._tell(self._lost)}\n"):
                self._lost = 0
            if self._lost or not self._put(line):
                self._lost += 1
                self._count_lost()

    def flush(self) -> None:
        """Every line has been written when ``write`` returns."""

    def _put(self, line: str) -> bool:
        """Whether all of it was written.  The rest of a line that broke off is left out, and the next begins anew."""
        if self._fd is None:
            self._stream.write(line)
            return True
        rest = (b"\n" if self._is_torn else b"") + line.encode(errors="backslashreplace")
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
                self._is_torn = bool(rest)
        except OSError:
            return False
        return True


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except io.UnsupportedOperation:
        return None
