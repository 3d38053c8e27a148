"""SIGTERM: what has begun is finished and answered, positions are saved, and nobody can hold the keeper up."""

import signal
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from fix_keepers import NewKeeper
from keeper_client import Client, connect
from programs import Keeper
from stored_wal import StoredTimeline
from walkeeper.formats.frames import encode_frame
from walkeeper.formats.proposer import encode_proposer_message
from walkeeper.ids import TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import Lsn
from walkeeper.membership import NO_GENERATION
from walkeeper.messages import VoteRequest
from walkeeper.terms import Term
from writer import Writer

SEGMENT_BYTES = 1 << 20
TTID = TenantTimelineId(TenantId(b"\x0a" * 16), TimelineId(b"\x0b" * 16))
START = Lsn(0x0200_0000)

LOOKS_MAX = 200
DEAF_BYTES = 4096  # of answers that the kernel keeps for whoever does not read them
LONG_DRAIN = ("--shutdown-timeout", "60s")
ENDS_SECONDS = 5.0
"""For what follows the drain: control files are saved, threads and the interpreter end."""


def start(keeper: Keeper) -> Keeper:
    keeper.start()
    keeper.wait_ready()
    return keeper


def new_writer() -> Writer:
    return Writer(TTID, start_lsn=START, seed=11)


def lead(writer: Writer, client: Client) -> None:
    vote = writer.win(client)
    writer.lead(client, vote, vote.flush_lsn or START)


def stored(keeper: Keeper) -> StoredTimeline:
    return StoredTimeline.of(keeper.data, TTID, SEGMENT_BYTES)


def seconds_to_stop(keeper: Keeper) -> float:
    """SIGTERM; the keeper must end with 0."""
    began = time.monotonic()
    assert keeper.stop() == 0
    return time.monotonic() - began


def test_what_was_kept_of_a_flood_has_been_answered_to_the_last_byte(new_keeper: NewKeeper) -> None:
    keeper, writer = start(new_keeper()), new_writer()
    with Client(keeper.pg_port) as client:
        lead(writer, client)
        writer.append(client, 100)
        writer.hear(client)
        for _ in range(300):
            writer.append(client, 9_000)
        keeper.signal(signal.SIGTERM)
        writer.hear_last_words(client)
    assert keeper.wait() == 0
    start(keeper)
    with Client(keeper.pg_port) as client:
        vote = writer.win(client)
    assert vote.flush_lsn == writer.promised_lsn
    assert stored(keeper).wal(START, vote.flush_lsn) == writer.wal_of(vote.term_history, START, vote.flush_lsn)


def test_positions_that_only_memory_knew_are_saved(new_keeper: NewKeeper) -> None:
    keeper, writer = start(new_keeper()), new_writer()
    with Client(keeper.pg_port) as client:
        lead(writer, client)
        for _ in range(2):  # the first commit of a term is saved at once
            writer.append(client, 50_000)
            writer.hear_all(client)
            writer.heartbeat(client)
            writer.hear(client)
        assert stored(keeper).control_file.commit_lsn < writer.promised_lsn
        assert keeper.stop() == 0
    assert stored(keeper).control_file.commit_lsn == writer.promised_lsn


def begin_an_append(client: Client) -> None:
    """Half of an AppendRequest, and no more."""
    new_writer_led(client)
    client.send(b"d\x00\x00\x10\x00half of it")


def new_writer_led(client: Client) -> None:
    """An idle proposer."""
    lead(new_writer(), client)


def stop_listening(client: Client) -> None:
    """Questions, and nobody who reads the answers: the keeper cannot get rid of them."""
    new_writer_led(client)
    vote = encode_frame(b"d", encode_proposer_message(VoteRequest(NO_GENERATION, Term(0)), 3))
    client.flood(vote * 500_000)


def begin_to_start_up(client: Client) -> None:
    """Half of a startup packet."""
    client.send(b"\x00\x00\x00\x20\x00\x03")


def ask_nothing(client: Client) -> None:
    """A session without a command."""
    client.start_up(TTID)


LINGERERS = [new_writer_led, begin_an_append, begin_to_start_up, ask_nothing, stop_listening]


@pytest.mark.parametrize("linger", LINGERERS, ids=lambda linger: str(linger.__name__))
def test_a_client_that_stays_does_not_hold_the_keeper_up(
    linger: Callable[[Client], None], new_keeper: NewKeeper
) -> None:
    keeper = start(new_keeper(1, "--shutdown-timeout", "1s"))
    with Client(keeper.pg_port, room_bytes=DEAF_BYTES) as client:
        linger(client)
        assert seconds_to_stop(keeper) < 1.0 + ENDS_SECONDS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_with_clients_that_leave_when_told_the_end_waits_for_no_deadline(
    number: signal.Signals, new_keeper: NewKeeper
) -> None:
    keeper = start(new_keeper(1, *LONG_DRAIN))
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(keeper.pg_port)) for _ in range(2)]
        new_writer_led(clients[0])
        ask_nothing(clients[1])
        keeper.signal(number)
        for client in clients:
            client.last_words()
    assert keeper.wait(ENDS_SECONDS) == 0


def test_while_it_drains_the_keeper_is_alive_and_not_ready_and_a_second_signal_ends_it_at_once(
    new_keeper: NewKeeper,
) -> None:
    keeper = start(new_keeper(1, *LONG_DRAIN))
    with Client(keeper.pg_port, room_bytes=DEAF_BYTES) as client:
        stop_listening(client)
        assert keeper.status("/readyz") == 200
        keeper.signal(signal.SIGTERM)
        wait_for_log(keeper, "stopping")
        assert (keeper.status("/livez"), keeper.status("/readyz")) == (200, 503)
        with pytest.raises(ConnectionRefusedError):
            connect(keeper.pg_port)
        keeper.signal(signal.SIGTERM)
        assert keeper.wait(ENDS_SECONDS) == -signal.SIGTERM


def wait_for_log(keeper: Keeper, word: str) -> None:
    """Return when the keeper has said this."""
    for _ in range(LOOKS_MAX):
        if word in keeper.log:
            return
        keeper.pause()
    raise AssertionError(f"{word!r} never came:\n{keeper.log}")
