"""What systemd is told."""

import socket
from pathlib import Path

import structlog

from walkeeper.daemon.notify import READY, notify


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
