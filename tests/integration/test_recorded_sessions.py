"""Real walproposers, replayed: a living keeper takes what they said, and keeps every byte of it.

Each recorded connection is of one walproposer with one of three acceptors, which its AcceptorGreeting names; our
keeper of the same number takes that acceptor's part.  Sessions that continue each other run one after the other on
the same keepers.
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from keeper_client import Client
from programs import Keeper
from recorded import Connection, Recorded, connections
from stored_wal import StoredTimeline
from walkeeper.formats.backend import CopyBothResponse, ReadyForQuery
from walkeeper.formats.frontend import CopyData
from walkeeper.formats.proposer import parse_acceptor_message, parse_proposer_message
from walkeeper.formats.segments import next_segment_start
from walkeeper.ids import TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import INVALID_LSN, Lsn, format_lsn, parse_lsn
from walkeeper.messages import AcceptorMessage, AppendRequest, VoteResponse

FRAME_HEADER_BYTES = 5
SEGMENT_BYTES = 1 << 20
SYSTEM_ID = 7711014284793129718
TTID = TenantTimelineId(TenantId(b"\x11" * 16), TimelineId(b"\x22" * 16))

HISTORIES = [
    ["seed_first_boot"],
    ["v3_first_boot"],
    ["v2_first_boot", "v2_restart_term2", "v3_segment_cross"],
]
"""Sessions in their order; the second and third protocol meet in one timeline when a client is upgraded."""


def test_every_recorded_session_is_replayed() -> None:
    replayed = {session for history in HISTORIES for session in history}
    assert replayed == {connection.name.split(".")[0] for connection in connections()}


@pytest.mark.parametrize("history", HISTORIES, ids=lambda history: str(history[-1]))
def test_a_recorded_walproposer_is_served_and_its_wal_is_kept_byte_for_byte(
    history: Sequence[str], keepers: list[Keeper]
) -> None:
    for number, keeper in enumerate(keepers, start=1):
        kept = b""
        for session in history:
            connection = connection_with(session, number)
            replay(connection, keeper)
            appends = appends_of(connection)
            kept += b"".join(append.wal for append in appends)
            assert_kept(keeper, kept, appends[-1])


def connection_with(session: str, number: int) -> Connection:
    """The connection of that session with the acceptor of that number."""
    (found,) = [
        connection
        for connection in connections()
        if connection.name.startswith(f"{session}.") and node_id_of(connection) == number
    ]
    return found


def node_id_of(connection: Connection) -> int:
    (greeting,) = [message for message in connection.messages if message.kind == "AcceptorGreeting"]
    return int(greeting.fields["node_id"])


def appends_of(connection: Connection) -> list[AppendRequest]:
    parsed = [
        parse_proposer_message(message.raw[FRAME_HEADER_BYTES:], connection.proto_version)
        for message in connection.messages
        if message.from_client and message.kind == "AppendRequest"
    ]
    return [message for message in parsed if isinstance(message, AppendRequest)]


def replay(connection: Connection, keeper: Keeper) -> None:
    """Send what the client sent, each part when the answers that it had seen by then are here."""
    version = connection.proto_version
    with Client(keeper.pg_port, version=version) as client:
        flushed_lsn = INVALID_LSN
        for message in connection.messages:
            if message.from_client:
                client.send(message.raw)
            elif message.kind != "AppendResponse":
                wait_for_answer_like(message, client, version)
            elif (recorded_lsn := parse_lsn(message.fields["flush_lsn"])) > flushed_lsn:
                flushed_lsn = client.hear_flushed(recorded_lsn).flush_lsn
        client.end()
        assert all(isinstance(message, CopyData) for message in client.last_words())


def wait_for_answer_like(recorded: Recorded, client: Client, version: int) -> None:
    """Wait for an answer, and compare what of it the client goes on with."""
    match recorded.kind:
        case "EncryptionResponse":
            assert client.sock.recv(1) == recorded.raw
        case "Z":
            while not isinstance(client.next_message(), ReadyForQuery):
                pass
        case "W":
            assert isinstance(client.next_message(), CopyBothResponse)
        case "AcceptorGreeting":
            assert client.hear() == acceptor_message(recorded, version)
        case "VoteResponse":
            assert without_lags(client.hear()) == without_lags(acceptor_message(recorded, version))
        case kind:
            assert kind in ("R", "S")  # ReadyForQuery comes behind them


def acceptor_message(recorded: Recorded, version: int) -> AcceptorMessage:
    return parse_acceptor_message(recorded.raw[FRAME_HEADER_BYTES:], version)


def without_lags(vote: AcceptorMessage) -> VoteResponse:
    """A vote without the positions that the stand-in let lag, or never told."""
    assert isinstance(vote, VoteResponse)
    return replace(vote, truncate_lsn=INVALID_LSN, timeline_start_lsn=INVALID_LSN)


def assert_kept(keeper: Keeper, wal: bytes, last: AppendRequest) -> None:
    """The keeper has exactly `wal`, and says so in every way."""
    begin_lsn, end_lsn = Lsn(last.end_lsn - len(wal)), last.end_lsn
    stored = StoredTimeline.of(keeper.data, TTID, SEGMENT_BYTES)
    assert stored.wal(begin_lsn, end_lsn) == wal
    assert not any(stored.wal(end_lsn, next_segment_start(end_lsn, SEGMENT_BYTES)))
    with Client(keeper.pg_port) as client:
        client.start_up(TTID)
        assert client.query("TIMELINE_STATUS") == [(format_lsn(end_lsn), format_lsn(last.commit_lsn))]
        ((system_id, tli, _, _),) = client.query("IDENTIFY_SYSTEM")
        assert (system_id, tli) == (str(SYSTEM_ID), "1")
    status = keeper.ask(f"/v1/tenant/{TTID.tenant_id}/timeline/{TTID.timeline_id}")
    assert status["flush_lsn"] == format_lsn(end_lsn)
    assert status["commit_lsn"] == format_lsn(last.commit_lsn)
    assert status["timeline_start_lsn"] == format_lsn(begin_lsn)
    assert status["acceptor_state"]["term"] == last.term
