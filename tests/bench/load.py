"""The load generator: writers that push frames into one server, and what they saw.

One process, one thread for what is measured (pipelined runs send from a second one): sockets that do not block,
and epoll.  It costs a few microseconds for an append; what it costs is in every server's figure alike.

Connecting, electing and the first append of each timeline, which makes its first segment, come before the clock
starts.  Does not start servers.
"""

import math
import secrets
import select
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import quantiles
from struct import Struct
from time import perf_counter
from typing import Final

from bench.workloads import PROTOCOL, SERVER, TERM, WAL_START, Frames, Workload
from walkeeper.formats.commands import StartWalPush, encode_start_wal_push
from walkeeper.formats.frames import FrameParser, encode_frame
from walkeeper.formats.frontend import Query
from walkeeper.formats.proposer import encode_proposer_message
from walkeeper.formats.startup import StartupMessage, encode_options
from walkeeper.ids import TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import Lsn
from walkeeper.membership import NO_GENERATION, Configuration
from walkeeper.messages import ProposerElected, ProposerGreeting, ProposerMessage, VoteRequest
from walkeeper.terms import TermHistory

ANSWER_SECONDS: Final = 30.0
"""The longest silence of a server that still works."""

RECEIVE_BYTES: Final = 64 * 1024

REPLY: Final = Struct(">cIcIQQQqQQ")
"""A CopyData frame with an AppendResponse of protocol 3: its length never varies here."""
_FLUSH_LSN_FIELD: Final = 5

_CPUCLOCK_SCHED: Final = 2


class ServerFailed(Exception):
    """The server under test went away, fell silent or said something else; the text says what."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: appends answered as durable, their WAL, wall-clock seconds, and seconds of the server's CPUs.

    The latencies, in seconds, are of runs in which each append is answered by itself.
    """

    appends: int
    wal_bytes: int
    seconds: float
    cpu_seconds: float = 0.0
    latency_p50: float = math.nan
    latency_p99: float = math.nan

    @property
    def bytes_per_second(self) -> float:
        return self.wal_bytes / self.seconds

    @property
    def appends_per_second(self) -> float:
        return self.appends / self.seconds


def run_load(workload: Workload, frames: Frames, port: int, server_pid: int, seconds: float) -> Measured:
    """Drive ``workload`` against the server on ``port``; ``seconds`` limits what is not pipelined.

    Raises ServerFailed.
    """
    with ExitStack() as stack:
        writers = [Writer(stack.enter_context(connect(port)), frames) for _ in range(workload.writers)]
        for writer in writers:
            writer.begin()
        cpu_before = cpu_seconds(server_pid)
        measured = _pipeline(writers[0]) if workload.is_pipelined else _one_by_one(writers, seconds)
        cpu = cpu_seconds(server_pid) - cpu_before
    return replace(measured, cpu_seconds=cpu)


def connect(port: int) -> socket.socket:
    """A blocking connection with a limit on each of its calls."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class Writer:
    """One connection, one new timeline, and how far it is."""

    def __init__(self, sock: socket.socket, frames: Frames) -> None:
        self.sock = sock
        self.frames = frames
        self.next = 0
        self.sent_at = 0.0
        self._replies = b""
        self._parser = FrameParser()

    def begin(self) -> None:
        """Everything up to the answer to the first append."""
        ttid = TenantTimelineId(TenantId(secrets.token_bytes(16)), TimelineId(secrets.token_bytes(16)))
        self.sock.sendall(StartupMessage({"user": "bench", "options": encode_options(ttid)}).encode())
        self._expect(b"Z")
        self.sock.sendall(Query(encode_start_wal_push(StartWalPush(proto_version=PROTOCOL))).encode())
        self._expect(b"W")
        self._say(ProposerGreeting(ttid, Configuration(), SERVER))
        self._expect(b"d")
        self._say(VoteRequest(NO_GENERATION, TERM))
        self._expect(b"d")
        self._say(ProposerElected(NO_GENERATION, TERM, WAL_START, TermHistory.of((TERM, WAL_START))))
        self.send()
        while self.receive() <= WAL_START:  # any reply will do: a bulk append does not end where a record does
            pass

    def send(self) -> None:
        """The next append."""
        starts = self.frames.starts
        piece = self.frames.buffer[starts[self.next] : starts[self.next + 1]]
        self.next += 1
        self.sent_at = perf_counter()
        self.sock.sendall(piece)

    def receive(self) -> Lsn:
        """Receive once: how far the WAL is durable according to the newest whole reply, 0 if none has come."""
        received = _receive(self.sock)
        replies = self._replies + received if self._replies else received
        whole = len(replies) - len(replies) % REPLY.size
        self._replies = replies[whole:]
        if not whole:
            return Lsn(0)
        fields = REPLY.unpack_from(replies, whole - REPLY.size)
        if fields[0] != b"d" or fields[2] != b"a":
            raise ServerFailed(f"not the answer to an append: {replies!r}")
        return Lsn(fields[_FLUSH_LSN_FIELD])

    def _say(self, message: ProposerMessage) -> None:
        self.sock.sendall(encode_frame(b"d", encode_proposer_message(message, PROTOCOL)))

    def _expect(self, tag: bytes) -> None:
        """Skip frames up to the first one with ``tag``."""
        while True:
            while (frame := self._parser.next_frame()) is None:
                self._parser.feed(_receive(self.sock))
            if frame.tag == b"E":
                raise ServerFailed(f"the server refuses: {bytes(frame.body)!r}")
            if frame.tag == tag:
                return


def _receive(sock: socket.socket) -> bytes:
    try:
        received = sock.recv(RECEIVE_BYTES)
    except OSError as error:
        raise ServerFailed(f"the connection was lost: {error}") from error
    if not received:
        raise ServerFailed("the server has closed the connection")
    return received


def _one_by_one(writers: Sequence[Writer], seconds: float) -> Measured:
    """Each writer sends an append when the one before is durable, until the time is over or there are no more."""
    by_number = {writer.sock.fileno(): writer for writer in writers}
    latencies: list[float] = []
    with select.epoll() as ready:
        for number in by_number:
            ready.register(number, select.EPOLLIN)
        began = now = perf_counter()
        for writer in writers:
            writer.send()
        while now - began < seconds and all(writer.next < len(writer.frames.end_lsns) for writer in writers):
            events = ready.poll(ANSWER_SECONDS)
            if not events:
                raise ServerFailed(f"no answer for {ANSWER_SECONDS} s")
            for number, _ in events:
                writer = by_number[number]
                if writer.receive() >= writer.frames.end_lsns[writer.next - 1]:
                    now = perf_counter()
                    latencies.append(now - writer.sent_at)
                    writer.send()
    wal_bytes = len(latencies) * writers[0].frames.wal_bytes // len(writers[0].frames.end_lsns)
    percentiles = quantiles(latencies, n=100)
    return Measured(
        len(latencies), wal_bytes, now - began, latency_p50=percentiles[49], latency_p99=percentiles[98]
    )


def _pipeline(writer: Writer) -> Measured:
    """Send everything, and wait until the last byte is durable."""
    frames, first = writer.frames, writer.next
    rest = frames.buffer[frames.starts[first] :]
    sender = threading.Thread(target=_send_all, args=(writer.sock, rest), daemon=True)
    began = perf_counter()
    sender.start()
    while writer.receive() < frames.end_lsns[-1]:
        pass
    seconds = perf_counter() - began
    sender.join()
    return Measured(len(frames.end_lsns) - first, frames.end_lsns[-1] - frames.end_lsns[first - 1], seconds)


def _send_all(sock: socket.socket, data: memoryview) -> None:
    try:
        sock.sendall(data)
    except OSError:
        return  # the receiving side hears of it too, and says so


def cpu_seconds(pid: int) -> float:
    """What a process has used of all CPUs, in user and kernel mode.  Raises OSError if there is no such process.

    This clock counts nanoseconds, where /proc/PID/stat drops up to two hundredths of a second.
    Source: Linux ``posix-timers.h``, MAKE_PROCESS_CPUCLOCK, which clock_getcpuclockid(3) uses.
    """
    return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)
