"""Log lines."""

import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog

from walkeeper.daemon.logs import configure_logs
from walkeeper.errors import Corrupt
from walkeeper.links.throttle import LINES_MAX, throttled_logger

LOST = "log lines were lost: they could not be written"


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


def test_whoever_notes_events_is_told_what_is_written_and_nothing_that_is_held_back() -> None:
    noted: list[Mapping[str, Any]] = []
    configure_logs("json", io.StringIO(), note=lambda line: noted.append(dict(line)))
    with structlog.contextvars.bound_contextvars(ttid="t"):
        for _ in range(2 * LINES_MAX):
            throttled_logger().warning("too many clients")
    assert len(noted) == LINES_MAX
    assert (noted[0]["event"], noted[0]["level"], noted[0]["ttid"]) == ("too many clients", "warning", "t")


@pytest.fixture(params=["structlog", "logging"])
def say(request: pytest.FixtureRequest) -> Callable[[str], object]:
    """Either of the two ways to write a line."""
    return lambda text: (
        structlog.get_logger().info(text)
        if request.param == "structlog"
        else logging.getLogger("library").info(text)
    )


def test_lines_that_cannot_be_written_are_dropped_and_counted_and_told_of_when_writing_works_again(
    tmp_path: Path, say: Callable[[str], object]
) -> None:
    lost: list[int] = []
    with (tmp_path / "log").open("w") as log, open("/dev/full", "w") as full:
        disk = os.dup(log.fileno())
        configure_logs("json", log, count_lost=lambda: lost.append(1))
        say("one")
        os.dup2(full.fileno(), log.fileno())
        with structlog.contextvars.bound_contextvars(ttid="t"):
            say("two")
            say("three")
        os.dup2(disk, log.fileno())
        os.close(disk)
        with structlog.contextvars.bound_contextvars(ttid="t"):
            say("four")
        say("five")
    said = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["event"] for line in said] == ["one", LOST, "four", "five"]
    assert (said[1]["lines"], said[1]["level"], "ttid" in said[1]) == (2, "warning", False)
    assert len(lost) == 2


def test_a_line_that_breaks_off_is_counted_and_the_next_one_begins_anew() -> None:
    source, sink = os.pipe()
    os.set_blocking(sink, False)
    with open(source, "rb") as reader, open(sink, "w") as log:
        configure_logs("json", log)
        structlog.get_logger().info("long" * 100_000)
        broken = os.read(reader.fileno(), 1 << 20)
        structlog.get_logger().info("short")
        end, *lines = os.read(reader.fileno(), 1 << 20).splitlines()
    assert b"\n" not in broken
    assert end == b""
    assert [json.loads(line)["event"] for line in lines] == [LOST, "short"]


def test_a_log_whose_reader_has_ended_is_given_up_without_an_error() -> None:
    lost: list[int] = []
    source, sink = os.pipe()
    os.close(source)
    with open(sink, "w") as log:
        configure_logs("plain", log, count_lost=lambda: lost.append(1))
        structlog.get_logger().info("one")
        structlog.get_logger().info("two")
    assert len(lost) == 2
