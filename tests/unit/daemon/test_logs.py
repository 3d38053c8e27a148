"""Log lines."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from walkeeper.daemon.logs import configure_logs
from walkeeper.errors import Corrupt
from walkeeper.links.throttle import LINES_MAX, throttled_logger


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def json_lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_has_level_time_and_what_was_said() -> None:
    stream = io.StringIO()
    configure_logs("json", stream)
    structlog.get_logger().warning("disk is slow", seconds=3)
    [line] = json_lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "disk is slow", "level": "warning", "seconds": 3}


def test_a_plain_line_is_one_line() -> None:
    stream = io.StringIO()
    configure_logs("plain", stream)
    structlog.get_logger().info("timeline is open", tenant="t")
    assert stream.getvalue().count("\n") == 1
    assert "timeline is open" in stream.getvalue()
    assert "tenant=t" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_what_a_task_bound_is_on_every_line_of_it() -> None:
    stream = io.StringIO()
    configure_logs("json", stream)
    with structlog.contextvars.bound_contextvars(tenant="t"):
        structlog.get_logger().info("ours")
        logging.getLogger("library").warning("theirs")
    structlog.get_logger().info("outside")
    assert [line.get("tenant") for line in json_lines(stream)] == ["t", "t", None]


def test_the_standard_librarys_lines_come_out_the_same_way() -> None:
    stream = io.StringIO()
    configure_logs("json", stream)
    logging.getLogger("library").warning("%d of %d", 1, 2)
    [line] = json_lines(stream)
    assert (line["event"], line["level"]) == ("1 of 2", "warning")


@pytest.mark.parametrize("log_format", ["plain", "json"])
def test_a_named_error_is_one_line_without_traceback(log_format: str) -> None:
    stream = io.StringIO()
    configure_logs(log_format, stream)
    try:
        raise Corrupt("bad header")
    except Corrupt as error:
        structlog.get_logger().error("cannot read", exc_info=error)
        structlog.get_logger().exception("cannot read")
        logging.getLogger("library").exception("cannot read")
    assert stream.getvalue().count("\n") == 3
    assert stream.getvalue().count("bad header") == 3
    assert "Traceback" not in stream.getvalue()


@pytest.mark.parametrize("log_format", ["plain", "json"])
def test_an_unexpected_error_brings_its_traceback(log_format: str) -> None:
    stream = io.StringIO()
    configure_logs(log_format, stream)
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        structlog.get_logger().exception("surprise")
    assert "ZeroDivisionError" in stream.getvalue()
    assert sys._getframe().f_code.co_name in stream.getvalue()


def test_lines_that_others_bring_about_are_few_for_each_timeline_and_all_are_counted() -> None:
    levels: list[str] = []
    stream = io.StringIO()
    configure_logs("json", stream, levels.append)
    for ttid in ("noisy", "quiet"):
        with structlog.contextvars.bound_contextvars(ttid=ttid):
            for _ in range(LINES_MAX + 1):
                throttled_logger().warning("refused")
    assert [line["ttid"] for line in json_lines(stream)] == ["noisy"] * LINES_MAX + ["quiet"] * LINES_MAX
    assert len(levels) == 2 * (LINES_MAX + 1)


def test_every_line_is_counted_by_its_level() -> None:
    levels: list[str] = []
    configure_logs("json", io.StringIO(), levels.append)
    structlog.get_logger().info("one")
    structlog.get_logger().debug("not even a line")
    logging.getLogger("library").error("two")
    assert levels == ["info", "error"]
