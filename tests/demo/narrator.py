"""What the demo says while it runs: numbered steps, what happens, what was proved.

Times are seconds since the start, so that a reader sees that nothing was waited for in secret.
"""

import sys
import time
from collections.abc import Iterable


class Narrator:
    """Prints to standard output; progress overwrites itself on a terminal."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._step = 0
        self._started = time.monotonic()
        self._has_progress = False
        self._live = sys.stdout.isatty()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    def step(self, title: str) -> None:
        """Begin the next step."""
        self._step += 1
        self._line(f"\n[{self._step}/{self._steps}] {title}")

    def happens(self, text: str) -> None:
        """One thing that was done."""
        self._line(f"   {self.seconds:6.1f} s  {text}")

    def proved(self, text: str) -> None:
        """One thing that this step has shown."""
        self._line(f"   {self.seconds:6.1f} s  => {text}")

    def progress(self, text: str) -> None:
        """Something that goes on; only a terminal shows each."""
        if self._live:
            sys.stdout.write(f"\r   {self.seconds:6.1f} s  {text}\x1b[K")
            sys.stdout.flush()
            self._has_progress = True

    def table(self, rows: Iterable[tuple[str, str]]) -> None:
        """The result."""
        lines = [(name, value) for name, value in rows]
        wide = max(len(name) for name, _ in lines)
        self._line("")
        for name, value in lines:
            self._line(f"   {name:<{wide}}  {value:>10}")

    def _line(self, text: str) -> None:
        if self._has_progress:
            sys.stdout.write("\r\x1b[K")
            self._has_progress = False
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
