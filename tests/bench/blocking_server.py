"""The peer to compare with: a thread for each connection that blocks on everything, and no consensus at all.

It parses AppendRequests of protocol 3, writes them to segment files, syncs and answers; whatever its receive buffer
holds shares a write and a sync.  It checks nothing: no terms, no positions, no records, no control file, and a
timeline lasts as long as its connection.  So it stands for what Python and the disk do when nothing else is asked.

    python -m bench.blocking_server PORT DIRECTORY
"""

import os
import socket
import sys
import threading
from contextlib import closing, suppress
from pathlib import Path
from struct import Struct

from bench.workloads import PROTOCOL, SEGMENT_BYTES, TERM, TLI
from walkeeper.formats.authentication import AuthenticationOk
from walkeeper.formats.backend import CopyBothResponse, ReadyForQuery
from walkeeper.formats.frames import encode_frame
from walkeeper.formats.proposer import encode_acceptor_message
from walkeeper.formats.segments import segment_name, segment_number
from walkeeper.ids import NodeId
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import NO_GENERATION, Configuration
from walkeeper.messages import AcceptorGreeting, AcceptorMessage, AppendResponse, VoteResponse
from walkeeper.terms import TermHistory

RECEIVE_BYTES = 1 << 20
SLICES_MAX = 1024  # IOV_MAX

FRAME = Struct(">cI")
APPEND = Struct(">cIQQQQQ")

WELCOME = AuthenticationOk().encode() + ReadyForQuery().encode()
GREETING = AcceptorGreeting(NodeId(1), Configuration(), TERM)
VOTE = VoteResponse(NO_GENERATION, TERM, True, INVALID_LSN, INVALID_LSN, TermHistory())


class Segments:
    """The files of one timeline: sparse, of full size, one after the other."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = -1
        directory.mkdir()

    def append(self, lsn: int, slices: list[memoryview]) -> None:
        """Write and sync."""
        for at in range(0, len(slices), SLICES_MAX):
            lsn = self.write(lsn, slices[at : at + SLICES_MAX])
        os.fdatasync(self.file)

    def write(self, lsn: int, slices: list[memoryview]) -> int:
        """Write; a segment that is full is synced before the next one is begun.  Where the WAL ends now."""
        offset = lsn % SEGMENT_BYTES
        if sum(map(len, slices)) > (room := SEGMENT_BYTES - offset):
            joined = memoryview(b"".join(slices))
            return self.write(self.write(lsn, [joined[:room]]), [joined[room:]])
        if offset == 0 or self.file < 0:
            self.begin(lsn)
        return lsn + os.pwritev(self.file, slices, offset)

    def begin(self, lsn: int) -> None:
        """Make the segment of ``lsn``."""
        self.close()
        path = self.directory / segment_name(TLI, segment_number(Lsn(lsn), SEGMENT_BYTES), SEGMENT_BYTES)
        self.file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.ftruncate(self.file, SEGMENT_BYTES)
        os.fsync(self.file)

    def close(self) -> None:
        if self.file >= 0:
            os.fdatasync(self.file)
            os.close(self.file)
            self.file = -1


def serve(sock: socket.socket, directory: Path) -> None:
    """One connection, to its end."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = memoryview(bytearray(RECEIVE_BYTES))
    segments = Segments(directory)
    with sock, closing(segments), suppress(ConnectionError):
        welcome(sock, buffer)
        filled = 0
        while received := sock.recv_into(buffer[filled:]):
            filled += received
            used = take(sock, buffer[:filled], segments)
            buffer[: filled - used] = buffer[used:filled]
            filled -= used


def welcome(sock: socket.socket, buffer: memoryview) -> None:
    """Let anybody in.  The client waits for each answer, so nothing else is in the buffer yet."""
    sock.recv_into(buffer)
    sock.sendall(WELCOME)
    sock.recv_into(buffer)
    sock.sendall(CopyBothResponse().encode())


def take(sock: socket.socket, received: memoryview, segments: Segments) -> int:
    """Keep and answer all frames that are complete; how many bytes that was."""
    at, begin_lsn, end_lsn = 0, 0, 0
    slices: list[memoryview] = []
    while len(received) - at >= FRAME.size:
        _, length = FRAME.unpack_from(received, at)
        body, end = at + FRAME.size, at + 1 + length
        if end > len(received):
            break
        if received[body] == ord("a"):
            _, _, _, begin, end_lsn, _, _ = APPEND.unpack_from(received, body)
            begin_lsn = begin_lsn or begin
            slices.append(received[body + APPEND.size : end])
        else:
            answer(sock, bytes(received[body:end]))
        at = end
    if slices:
        segments.append(begin_lsn, slices)
        say(sock, AppendResponse(NO_GENERATION, TERM, Lsn(end_lsn)))
    return at


def answer(sock: socket.socket, message: bytes) -> None:
    """What is not an append: a greeting or a request for a vote, or something that wants no answer."""
    if message.startswith(b"g"):
        say(sock, GREETING)
    elif message.startswith(b"v"):
        say(sock, VOTE)


def say(sock: socket.socket, message: AcceptorMessage) -> None:
    sock.sendall(encode_frame(b"d", encode_acceptor_message(message, PROTOCOL)))


def main(port: int, directory: Path) -> None:
    """Serve until killed."""
    listener = socket.create_server(("127.0.0.1", port), backlog=128)
    for number in range(sys.maxsize):
        sock, _ = listener.accept()
        threading.Thread(target=serve, args=(sock, directory / str(number)), daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
