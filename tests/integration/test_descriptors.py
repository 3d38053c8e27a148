"""Descriptors: idle clients cannot take those that commits need, and a keeper that has none left goes on when it has.

The limit is the kernel's, set around the keeper (``ulimit -n``), or lowered below it while it runs (prlimit).
"""

import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from fix_keepers import NewKeeper
from keeper_client import Client, Ended, Refused
from programs import Keeper
from walkeeper.daemon.files import settle_connections_max
from walkeeper.ids import TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import Lsn
from writer import Writer

FILES_MAX = 400
CONNECTIONS_MAX = settle_connections_max(None, FILES_MAX)
CROWD = 2 * FILES_MAX
LOOKS = 200
LINES_MAX = 60  # of a crowd of hundreds, in some seconds

INSUFFICIENT_RESOURCES = "53000"

MIB = 1 << 20
TTID = TenantTimelineId(TenantId(b"\x0c" * 16), TimelineId(b"\x0d" * 16))
OTHER_TTID = TenantTimelineId(TenantId(b"\x0e" * 16), TimelineId(b"\x0f" * 16))
START = Lsn(0x0200_0000)


@pytest.fixture
def keeper(new_keeper: NewKeeper) -> Keeper:
    """A keeper that may have few files open; it begins with a soft limit below its hard one."""
    keeper = new_keeper()
    limited = f'ulimit -Sn 100 && ulimit -Hn {FILES_MAX} && exec "$@"'
    keeper.command = ["sh", "-c", limited, "sh", *keeper.command]
    keeper.start()
    keeper.wait_ready()
    return keeper


@contextmanager
def crowd(port: int) -> Iterator[None]:
    """Far more clients than there are descriptors, who say nothing."""
    with ExitStack() as stack:
        for _ in range(CROWD):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        yield


def descriptors(keeper: Keeper) -> list[int]:
    return [int(name) for name in os.listdir(f"/proc/{keeper.pid}/fd")]


def lead(client: Client, writer: Writer) -> None:
    vote = writer.win(client)
    writer.lead(client, vote, vote.flush_lsn or START)


def write(client: Client, writer: Writer, wal_bytes: int) -> None:
    writer.append(client, wal_bytes)
    writer.hear_all(client)


def until(keeper: Keeper, is_so: Callable[[], bool]) -> None:
    for _ in range(LOOKS):
        if is_so():
            return
        keeper.pause()
    raise AssertionError("it never came")


def answer_to_newcomer(keeper: Keeper) -> str:
    """What somebody who comes now is told: the SQLSTATE of a refusal, "served", or nothing."""
    try:
        with Client(keeper.pg_port) as client:
            client.start_up(OTHER_TTID)
    except Refused as refused:
        return refused.sqlstate
    except Ended:
        return ""
    return "served"


def serves_everybody(keeper: Keeper) -> bool:
    return answer_to_newcomer(keeper) == "served" and keeper.status("/livez") == 200


def write_until_refused(client: Client, writer: Writer) -> str:
    """Enough for many segments; the SQLSTATE that ends it."""
    try:
        for _ in range(100):
            write(client, writer, 100_000)
    except Refused as refused:
        return refused.sqlstate
    return ""


def test_commits_go_on_among_crowds_of_idle_clients(keeper: Keeper) -> None:
    writer = Writer(TTID, start_lsn=START, seed=1)
    with Client(keeper.pg_port) as client:
        lead(client, writer)
        write(client, writer, 1000)
        lines = keeper.log.count("\n")
        with crowd(keeper.http_port), crowd(keeper.pg_port):
            until(keeper, lambda: "too many strangers" in keeper.log and answer_to_newcomer(keeper) == "served")
            for _ in range(50):
                write(client, writer, 100_000)  # new segments are made meanwhile
            assert keeper.status("/livez") == 200
            assert len(descriptors(keeper)) < FILES_MAX
            assert keeper.log.count("\n") - lines < LINES_MAX
        until(keeper, lambda: serves_everybody(keeper))
    assert f"connections_max={CONNECTIONS_MAX}" in keeper.log
    for trouble in ("Traceback", "cannot accept", "read again from disk"):
        assert trouble not in keeper.log


def test_a_keeper_without_descriptors_refuses_what_needs_them_and_goes_on_when_it_has_some(keeper: Keeper) -> None:
    writer, other = Writer(TTID, start_lsn=START, seed=1), Writer(OTHER_TTID, start_lsn=START, seed=2)
    with Client(keeper.pg_port) as client, Client(keeper.pg_port) as stranger:
        lead(client, writer)
        for _ in range(2):  # with the second it hears of its first commit, which is kept in a file
            write(client, writer, 1000)
        vote = other.win(stranger)
        resource.prlimit(keeper.pid, resource.RLIMIT_NOFILE, (1 + max(descriptors(keeper)), FILES_MAX))
        with crowd(keeper.http_port), crowd(keeper.pg_port):
            for _ in range(10):
                write(client, writer, 1000)
                write(client, writer, 40_000)
            other.lead(stranger, vote, START)
            try:
                write(stranger, other, 40_000)  # its segment keeps one of those that are held back
                refusal = write_until_refused(client, writer)
            except Refused as refused:  # the crowd has taken one before
                refusal = refused.sqlstate
            assert refusal == INSUFFICIENT_RESOURCES
            until(keeper, lambda: keeper.log.count("cannot accept") > 1)
        resource.prlimit(keeper.pid, resource.RLIMIT_NOFILE, (FILES_MAX, FILES_MAX))
    until(keeper, lambda: serves_everybody(keeper))
    for one in (writer, other):
        with Client(keeper.pg_port) as client:
            lead(client, one)
            write(client, one, 3 * MIB // 2)
    assert keeper.log.count("\n") < LINES_MAX
    for trouble in ("Traceback", "read again from disk"):
        assert trouble not in keeper.log
