"""Crowds and noise on both ports: they keep nobody out, cost little memory, and hold up no shutdown."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

from fix_keepers import NewKeeper
from keeper_client import Client, connect
from programs import Keeper
from walkeeper.formats.frontend import Query
from walkeeper.ids import TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import Lsn, format_lsn
from writer import Writer

TTID = TenantTimelineId(TenantId(b"\x0c" * 16), TimelineId(b"\x0d" * 16))
START = Lsn(0x0200_0000)

HALF_OPEN = 1000
SEATS = "100"
ENDS_SECONDS = 5.0
DEAF_READERS = 80
DEAF_OPERATORS = 20
DEAF_BYTES = 4096
NOISES = 200
GROWTH_BYTES_MAX = 64 << 20


def start(keeper: Keeper) -> Keeper:
    keeper.start()
    keeper.wait_ready()
    return keeper


def lead(client: Client, writer: Writer) -> None:
    vote = writer.win(client)
    writer.lead(client, vote, vote.flush_lsn or START)


def write(client: Client, writer: Writer, wal_bytes: int) -> None:
    writer.append(client, wal_bytes)
    writer.hear_all(client)


@contextmanager
def strangers(port: int, count: int) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        yield


def test_a_thousand_half_open_connections_keep_no_writer_out(new_keeper: NewKeeper) -> None:
    keeper, writer = start(new_keeper(1, "--max-connections", SEATS)), Writer(TTID, start_lsn=START, seed=1)
    with strangers(keeper.pg_port, HALF_OPEN):
        with Client(keeper.pg_port) as client:
            lead(client, writer)
            for _ in range(10):
                write(client, writer, 10_000)
    assert "too many strangers" in keeper.log
    assert "too many clients" not in keeper.log


def test_a_hundred_clients_that_stopped_reading_do_not_hold_up_the_end(new_keeper: NewKeeper) -> None:
    keeper, writer = start(new_keeper()), Writer(TTID, start_lsn=START, seed=1)
    with ExitStack() as stack:
        client = stack.enter_context(Client(keeper.pg_port))
        lead(client, writer)
        for _ in range(60):
            write(client, writer, 100_000)
        for _ in range(DEAF_READERS):
            reader = stack.enter_context(Client(keeper.pg_port, room_bytes=DEAF_BYTES))
            reader.start_up(TTID)
            reader.send(Query(f"START_REPLICATION PHYSICAL {format_lsn(START)} (term='{writer.term}')").encode())
        for _ in range(DEAF_OPERATORS):
            operator = stack.enter_context(connect(keeper.http_port, room_bytes=DEAF_BYTES))
            operator.sendall(b"GET /metrics HTTP/1.1\r\nHost: keeper\r\n\r\n" * 20)
        write(client, writer, 100_000)
        began = time.monotonic()
        assert keeper.stop() == 0
        assert time.monotonic() - began < ENDS_SECONDS


def test_noise_on_both_ports_changes_nothing_and_costs_little_memory(new_keeper: NewKeeper) -> None:
    keeper, writer, random = start(new_keeper()), Writer(TTID, start_lsn=START, seed=1), Random(20)
    before = resident_bytes(keeper)
    for number in range(NOISES):
        port = (keeper.pg_port, keeper.http_port)[number % 2]
        with socket.create_connection(("127.0.0.1", port)) as sock:
            try:
                sock.sendall(random.randbytes(random.randrange(1, 100_000)))
            except ConnectionError:
                pass
    with Client(keeper.pg_port) as client:
        lead(client, writer)
        write(client, writer, 10_000)
    assert keeper.status("/livez") == keeper.status("/readyz") == 200
    assert resident_bytes(keeper) - before < GROWTH_BYTES_MAX
    assert "Traceback" not in keeper.log


def resident_bytes(keeper: Keeper) -> int:
    lines = Path(f"/proc/{keeper.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
