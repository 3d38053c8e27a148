"""The next client, even when there is no descriptor for it for a while."""

import socket

import structlog
import trio
from trio.testing import MockClock

from scarce import others_having_all_files
from walkeeper.links.accept import OUT_OF_FILES_SECONDS, accept_client


async def test_want_of_descriptors_is_waited_for_and_told(autojump_clock: MockClock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        listener.setblocking(False)
        client.connect(listener.getsockname())
        with structlog.testing.capture_logs() as lines, others_having_all_files():
            with trio.move_on_after(9.5 * OUT_OF_FILES_SECONDS) as limit:
                await accept_client(listener)
        assert limit.cancelled_caught
        assert [line["event"] for line in lines] == ["cannot accept connections"] * 10
        with await accept_client(listener) as accepted:
            assert accepted.getpeername() == client.getsockname()
