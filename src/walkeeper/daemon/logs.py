"""Log lines: structlog, as text or as JSON, one event a line.

Who a line is about (tenant, timeline, connection, request) is bound once, in the task that knows, as a context
variable (``structlog.contextvars``); child tasks and worker threads inherit it.  The standard library's loggers,
which other libraries write to, come out the same way.  An error of ours is one line, since its text says everything;
an exception that nobody expected brings its traceback.

Levels follow Neon's: error needs a person, warning was handled, info is a change of state.
Does not decide where to log: the daemon logs to standard output as Neon's does, commands whose output is an
answer log to standard error.
"""

import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, TextIO, cast

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from walkeeper.daemon.log_lines import LogLines
from walkeeper.errors import WalkeeperError
from walkeeper.links.throttle import Throttle

CountEvent = Callable[[str], None]
"""Told the level of every line: ``error``, ``warning``, ``info``, ``debug``."""

NoteEvent = Callable[[Mapping[str, Any]], None]
"""Told every line that is written."""

JSON_TRACEBACKS: Final = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
"""Local variables stay out: they may be WAL, or passwords."""


def configure_logs(
    log_format: str,
    stream: TextIO,
    count: CountEvent | None = None,
    note: NoteEvent | None = None,
    count_lost: Callable[[], None] = lambda: None,
) -> None:
    """Make ``structlog.get_logger()`` and ``logging`` write to ``stream``.  Call once, before the first line.

    ``log_format`` is ``plain`` or ``json``.  ``count_lost`` is called, on any thread, for each line that cannot be written.
    """
    head: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _name_errors,
    ]
    if count is not None:
        head.append(_counter(count))
    shared = [structlog.contextvars.merge_contextvars, *head]
    noting = [] if note is None else [_noter(note)]
    renderers = _renderers(log_format, stream)
    lines = LogLines(stream, _teller([*head, *noting, *renderers]), count_lost)
    structlog.configure(
        processors=[*shared, Throttle(), *noting, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", lines)),  # it writes and flushes, no more
    )
    _adopt_standard_loggers(shared, renderers, lines)


def _renderers(log_format: str, stream: TextIO) -> list[Processor]:
    if log_format == "json":
        return [structlog.processors.ExceptionRenderer(JSON_TRACEBACKS), structlog.processors.JSONRenderer()]
    plain = structlog.dev.ConsoleRenderer(
        colors=stream.isatty(), pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
    )
    return [plain]


def _name_errors(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace the traceback of a named error by its name and text."""
    error = event.get("exc_info")
    if error is True:
        error = sys.exc_info()
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, WalkeeperError):
        del event["exc_info"]
        event["error"] = str(error)
        event["error_type"] = type(error).__name__
    return event


def _counter(count: CountEvent) -> Processor:
    def counting(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        count(str(event["level"]))
        return event

    return counting


def _noter(note: NoteEvent) -> Processor:
    def noting(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        note(event)
        return event

    return noting


def _teller(processors: list[Processor]) -> Callable[[int], str]:
    """Makes the line about those that were lost.  It is nobody's in particular, whoever writes the next one."""

    def tell(count: int) -> str:
        event: Any = {"event": "log lines were lost: they could not be written", "lines": count}
        for process in processors:
            event = process(None, "warning", event)
        return str(event)

    return tell


def _adopt_standard_loggers(shared: list[Processor], renderers: list[Processor], lines: LogLines) -> None:
    handler = logging.StreamHandler(lines)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
