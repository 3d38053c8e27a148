"""The next client, even when there is no descriptor for it for a while."""

import socket

import structlog
import trio
from trio.testing import MockClock

from scarce import others_having_all_files
from walkeeper.links.accept import OUT_OF_FILES_SECONDS, accept_client
from walkeeper.links.throttle import THROTTLE_SECONDS, Throttle


async def test_want_of_descriptors_is_waited_for_and_told_now_and_then(autojump_clock: MockClock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        listener.setblocking(False)
        client.connect(listener.getsockname())
        throttle = Throttle()
        with structlog.testing.capture_logs() as lines, others_having_all_files():
            with trio.move_on_after(1.5 * THROTTLE_SECONDS) as limit:
                await accept_client(listener, throttle)
        assert limit.cancelled_caught
        assert [line["event"] for line in lines] == ["cannot accept connections"] * 2
        assert lines[1]["unsaid"] >= 0.9 * THROTTLE_SECONDS / OUT_OF_FILES_SECONDS
        with await accept_client(listener, throttle) as accepted:
            assert accepted.getpeername() == client.getsockname()
