"""Where writers say what happens to them: what they need of a logger, so that tests can listen.

Does not configure logging and names no level but those that are used; the daemon does the rest.
"""

from typing import Protocol


class Log(Protocol):
    """structlog's bound logger, as far as writers use it."""

    def info(self, event: str, **fields: object) -> object: ...
    def warning(self, event: str, **fields: object) -> object: ...
    def error(self, event: str, **fields: object) -> object: ...
