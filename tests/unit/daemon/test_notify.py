"""What systemd is told."""

import socket
from contextlib import suppress
from pathlib import Path

import pytest
import structlog
import trio
from trio.testing import MockClock

from walkeeper.control.health import Check
from walkeeper.daemon.notify import READY, STATUS_SECONDS, notify, reporting, watchdog_seconds


def test_the_service_manager_hears_the_state(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        notify(READY, {"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert manager.recv(64) == b"READY=1"


def test_a_socket_without_a_name_in_the_file_system_works_too() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("")  # the kernel makes up an abstract name
        name = manager.getsockname()
        notify(READY, {"NOTIFY_SOCKET": "@" + name[1:].decode()})
        assert manager.recv(64) == b"READY=1"


def test_a_service_manager_that_is_not_there_is_a_warning(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as lines:
        notify(READY, {"NOTIFY_SOCKET": str(tmp_path / "absent")})
        notify(READY, {})
    assert [line["log_level"] for line in lines] == ["warning"]


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_asked_for_by_the_service_manager(
    environment: dict[str, str], seconds: float | None
) -> None:
    assert watchdog_seconds(environment, 7) == seconds


def heard(manager: socket.socket) -> list[str]:
    """All that has been said."""
    said: list[str] = []
    manager.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            said.append(manager.recv(1000).decode())
    return said


async def test_a_sign_of_life_comes_twice_in_its_time_and_only_while_all_is_well(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    problems: list[Check] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "3000000"}
        async with reporting(environment, lambda: problems, lambda: "serving"):
            await trio.sleep(3.1)
            assert heard(manager) == ["WATCHDOG=1\nSTATUS=serving"] * 3
            problems.append(Check("disk", "no answer"))
            await trio.sleep(3)
            assert heard(manager) == ["STATUS=disk: no answer"] * 2
            problems.clear()
            await trio.sleep(1.5)
            assert heard(manager) == ["WATCHDOG=1\nSTATUS=serving"]
        await trio.sleep(10)
        assert heard(manager) == []


async def test_without_a_watchdog_the_status_is_told_now_and_then(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        async with reporting({"NOTIFY_SOCKET": str(tmp_path / "notify")}, list, lambda: "serving"):
            await trio.sleep(1.5 * STATUS_SECONDS)
        assert heard(manager) == ["STATUS=serving"] * 2


async def test_no_text_says_more_to_the_service_manager_than_a_status(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        said = "it says x\nMAINPID=1\x1b[2J"
        async with reporting({"NOTIFY_SOCKET": str(tmp_path / "notify")}, list, lambda: said):
            await trio.sleep(0.1)
        assert heard(manager) == ["STATUS=it says x?MAINPID=1?[2J"]


def test_a_service_manager_that_does_not_read_is_not_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, structlog.testing.capture_logs() as lines:
        manager.bind(str(tmp_path / "notify"))
        for _ in range(10_000):
            notify(READY, {"NOTIFY_SOCKET": str(tmp_path / "notify")})
            if lines:
                break
    assert lines[0]["log_level"] == "warning"
