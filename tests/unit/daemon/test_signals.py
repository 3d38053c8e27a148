"""What the service manager and the log are told of a reload."""

import socket
from pathlib import Path

import pytest
import structlog
import trio
from trio.testing import MockClock

from minted import Mint
from walkeeper.auth.tokens import TokenVerifier, load_keys
from walkeeper.auth.upkeep import keeping_keys
from walkeeper.daemon.signals import reload
from walkeeper.testing.offload import InlineOffload

PERIOD_SECONDS = 10.0


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


async def test_what_is_read_again_is_called_the_same_whether_it_was_asked_for_or_not(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    Mint.ed25519().write(tmp_path / "one")
    verifier = TokenVerifier(load_keys(tmp_path))
    said: list[list[str]] = []
    async with keeping_keys(verifier, tmp_path, PERIOD_SECONDS, InlineOffload()):
        for is_asked in (True, False):
            with structlog.testing.capture_logs() as lines:
                for path, key in (("new", Mint.rsa().pem), ("broken", b"-----BEGIN PUBLIC KEY-----\n")):
                    (tmp_path / path).write_bytes(key)
                    if is_asked:
                        await reload(lambda: False)
                    else:
                        await trio.sleep(PERIOD_SECONDS + 1)
                    (tmp_path / "broken").unlink(missing_ok=True)
            said.append([line["event"] for line in lines if line["event"] != "reloaded"])
    assert said == [["keys reloaded", "keys not reloaded, those of before are still valid"]] * 2
