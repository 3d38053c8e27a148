"""A bad wire: carries Ethernet frames between two interfaces, later, or not at all.

Purpose: delay, loss and one-way silence without `tc netem`, which few kernels of small machines have.
Rules: standard library only, no module of ours, for it has to start at once; the same seed loses the same frames; frames
keep their order, as on a wire.  Ends with SIGTERM; frames on their way are lost then.

Not here: which interfaces, and when (network.py).

    relay.py INTERFACE INTERFACE --seconds 0.05 --loss 0.02 [--loss-back 1.0] --seed 7
"""

import argparse
import collections
import random
import select
import socket
import sys
import time

SOL_PACKET = 263
PACKET_IGNORE_OUTGOING = 23
PACKET_VNET_HDR = 15
"""Frames come with what the kernel has left undone (checksums, cutting), and it does that for whoever gets them."""

FRAME_BYTES_MAX = 10 + 14 + 65536
QUEUE_FRAMES_MAX = 20_000  # what comes when a wire is as full as this is lost: some MiB of whole frames
FRAMES_A_TURN = 64  # then the other direction


class Direction:
    """What comes in here goes out there."""

    def __init__(
        self, source: socket.socket, target: socket.socket, seconds: float, loss: float, seed: str
    ) -> None:
        self.source = source
        self.target = target
        self._seconds = seconds
        self._loss = loss
        self._random = random.Random(seed)
        self._queue: collections.deque[tuple[float, bytes]] = collections.deque()

    def receive(self) -> None:
        """Take what has come; some of it is lost."""
        for _ in range(FRAMES_A_TURN):
            try:
                frame = self.source.recv(FRAME_BYTES_MAX)
            except BlockingIOError:
                return
            if self._random.random() >= self._loss and len(self._queue) < QUEUE_FRAMES_MAX:
                self._queue.append((time.monotonic() + self._seconds, frame))

    def send(self) -> float:
        """Give what has been on its way for long enough; the seconds until the next is due, or one if none is."""
        while self._queue:
            due = self._queue[0][0] - time.monotonic()
            if due > 0:
                return due
            _, frame = self._queue.popleft()
            try:
                self.target.send(frame)
            except OSError:
                continue  # the interface is full, or gone: lost
        return 1.0


def open_interface(name: str) -> socket.socket:
    """Everything that comes in at an interface."""
    every_protocol = 3
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    opened.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    opened.setblocking(False)
    opened.bind((name, every_protocol))
    return opened


def main(arguments: list[str]) -> None:
    """Carry frames until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("interfaces", nargs=2)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--loss", type=float, default=0.0)
    parser.add_argument("--loss-back", type=float, default=0.0)
    parser.add_argument("--seed", default="")
    given = parser.parse_args(arguments)
    here, there = map(open_interface, given.interfaces)
    out = Direction(here, there, given.seconds, given.loss, f"{given.seed} out")
    back = Direction(there, here, given.seconds, given.loss_back, f"{given.seed} back")
    by_source = {here: out, there: back}
    wait = 1.0
    while True:
        for source in select.select([here, there], [], [], wait)[0]:
            by_source[source].receive()
        wait = min(out.send(), back.send())


if __name__ == "__main__":
    main(sys.argv[1:])
