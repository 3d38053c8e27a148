"""What the service manager is told of a reload."""

import socket
from pathlib import Path

import pytest

from walkeeper.daemon.signals import reload


@pytest.mark.parametrize("serves", [True, False])
async def test_a_reload_says_ready_only_while_the_keeper_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serves: bool
) -> None:
    path = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.setblocking(False)
        await reload(lambda: serves)
        heard = []
        try:
            while True:
                heard.append(manager.recv(4096).decode())
        except BlockingIOError:
            pass
    assert [text.splitlines()[0] for text in heard] == (["RELOADING=1", "READY=1"] if serves else [])
