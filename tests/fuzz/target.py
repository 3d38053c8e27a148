"""What a fuzz target is: a function that feeds one parser, and the only errors that may come out of it.

Does not know any parser (``wire``, ``wal``, ``sessions``, ``texts``), and does not make inputs (``tests/properties``,
``__main__``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from walkeeper.errors import ConfigError, WalkeeperError

ERROR_CHARACTERS_MAX: Final = 1000
"""Longest text of an error that a peer may bring about: it goes to the peer, and to the log, as one line."""


@dataclass(frozen=True, slots=True)
class Target:
    """One parser.  ``feed`` gives it bytes and asserts what must be true of whatever it makes of them.

    ``errors`` are those that its documentation names; ``seeds`` makes examples of what is well-formed.
    """

    name: str
    feed: Callable[[bytes], None]
    errors: tuple[type[WalkeeperError], ...]
    seeds: Callable[[], Sequence[bytes]]

    def __call__(self, data: bytes) -> None:
        """Whatever is raised is a bug."""
        said = self._complaint_about(data)
        assert len(said) <= ERROR_CHARACTERS_MAX

    def _complaint_about(self, data: bytes) -> str:
        """What the parser complains of, if it does.  An operator reads his own words back, however many: they do not count."""
        try:
            self.feed(data)
        except self.errors as error:
            return "" if isinstance(error, ConfigError) else str(error)
        return ""
