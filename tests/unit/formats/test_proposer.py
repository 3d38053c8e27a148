"""Messages between proposers and acceptors, byte for byte in both protocol versions."""

import pytest

from walkeeper.errors import Malformed
from walkeeper.formats.proposer import (
    encode_acceptor_message,
    encode_append_head,
    encode_proposer_message,
    parse_acceptor_message,
    parse_proposer_message,
)
from walkeeper.ids import NodeId, TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import LSN_MAX, Lsn
from walkeeper.membership import (
    KEEPERS_MAX,
    NO_CONFIGURATION,
    NO_GENERATION,
    Configuration,
    Generation,
    Member,
)
from walkeeper.messages import (
    APPEND_BYTES_MAX,
    AcceptorGreeting,
    AcceptorMessage,
    AppendRequest,
    AppendResponse,
    HotStandbyFeedback,
    PageserverFeedback,
    ProposerElected,
    ProposerGreeting,
    ProposerMessage,
    ServerInfo,
    VoteRequest,
    VoteResponse,
)
from walkeeper.terms import Term, TermHistory

TTID = TenantTimelineId(
    TenantId(bytes.fromhex("00112233445566778899aabbccddeeff")),
    TimelineId(bytes.fromhex("ffeeddccbbaa99887766554433221100")),
)
SERVER = ServerInfo(150005, 0x0102030405060708, 16 << 20)
CONFIGURATION = Configuration(
    Generation(5),
    (Member(NodeId(1), "sk1", 5454), Member(NodeId(2), "sk2", 5455)),
    (Member(NodeId(3), "sk3", 5456),),
)
GENERATION, TERM = Generation(5), Term(3)
START, COMMIT, FLUSH = Lsn(0x149FD18), Lsn(0x149FD90), Lsn(0x149FE00)
HISTORY = TermHistory.of((0, START), (2, 0x149FD50), (3, FLUSH))
TIME = 0x303DD950B6B61
WAL = bytes.fromhex("10d10500")
FEEDBACK = PageserverFeedback(12345678, FLUSH, COMMIT, START, TIME, shard_number=1)

TENANT_HEX = "3030313132323333343435353636373738383939616162626363646465656666 00"
TIMELINE_HEX = "6666656564646363626261613939383837373636353534343333323231313030 00"
CONFIGURATION_HEX = (
    "00000005 00000002 0000000000000001 736b3100 154e 0000000000000002 736b3200 154f"
    "00000001 0000000000000003 736b3300 1550"
)
FEEDBACK_HEX = (
    "06"
    "63757272656e745f74696d656c696e655f73697a6500 00000008 0000000000bc614e"
    "70735f77726974656c736e00 00000008 000000000149fe00"
    "70735f666c7573686c736e00 00000008 000000000149fd90"
    "70735f6170706c796c736e00 00000008 000000000149fd18"
    "70735f7265706c7974696d6500 00000008 000303dd950b6b61"
    "73686172645f6e756d62657200 00000004 00000001"
)

PROPOSER: dict[str, tuple[int, ProposerMessage, str]] = {
    "greeting in 3": (
        3,
        ProposerGreeting(TTID, NO_CONFIGURATION, SERVER),
        f"67 {TENANT_HEX} {TIMELINE_HEX} 00000000 00000000 00000000 000249f5 0102030405060708 01000000",
    ),
    "greeting in 3 with configuration": (
        3,
        ProposerGreeting(TTID, CONFIGURATION, ServerInfo(150005, 0, 16 << 20)),
        f"67 {TENANT_HEX} {TIMELINE_HEX} {CONFIGURATION_HEX} 000249f5 0000000000000000 01000000",
    ),
    "vote in 3": (3, VoteRequest(GENERATION, TERM), "76 00000005 0000000000000003"),
    "elected in 3": (
        3,
        ProposerElected(GENERATION, TERM, FLUSH, HISTORY),
        (
            "65 00000005 0000000000000003 000000000149fe00 00000003 0000000000000000000000000149fd18"
            "0000000000000002000000000149fd50 0000000000000003000000000149fe00"
        ),
    ),
    "append in 3": (
        3,
        AppendRequest(GENERATION, TERM, FLUSH, Lsn(FLUSH + 4), COMMIT, START, WAL),
        "61 00000005 0000000000000003 000000000149fe00 000000000149fe04 000000000149fd90 000000000149fd18 10d10500",
    ),
    "heartbeat in 3": (
        3,
        AppendRequest(GENERATION, TERM, FLUSH, FLUSH, COMMIT, START),
        "61 00000005 0000000000000003 000000000149fe00 000000000149fe00 000000000149fd90 000000000149fd18",
    ),
    "greeting in 2": (
        2,
        ProposerGreeting(TTID, NO_CONFIGURATION, SERVER),
        (
            "6700000000000000 02000000 f5490200 00000000000000000000000000000000 0807060504030201"
            "ffeeddccbbaa99887766554433221100 00112233445566778899aabbccddeeff 01000000 00000001"
        ),
    ),
    "vote in 2": (
        2,
        VoteRequest(NO_GENERATION, TERM),
        "7600000000000000 0300000000000000 00000000000000000000000000000000",
    ),
    "elected in 2": (
        2,
        ProposerElected(NO_GENERATION, TERM, FLUSH, HISTORY),
        (
            "6500000000000000 0300000000000000 00fe490100000000 03000000 000000000000000018fd490100000000"
            "020000000000000050fd490100000000 030000000000000000fe490100000000 18fd490100000000"
        ),
    ),
    "append in 2": (
        2,
        AppendRequest(NO_GENERATION, TERM, FLUSH, Lsn(FLUSH + 4), COMMIT, START, WAL),
        (
            "6100000000000000 0300000000000000 0000000000000000 00fe490100000000 04fe490100000000"
            "90fd490100000000 18fd490100000000 00000000000000000000000000000000 10d10500"
        ),
    ),
}

ACCEPTOR: dict[str, tuple[int, AcceptorMessage, str]] = {
    "greeting in 3": (
        3,
        AcceptorGreeting(NodeId(2), CONFIGURATION, Term(2)),
        f"67 0000000000000002 {CONFIGURATION_HEX} 0000000000000002",
    ),
    "greeting in 3 without generations": (
        3,
        AcceptorGreeting(NodeId(2), NO_CONFIGURATION, Term(2)),
        "67 0000000000000002 00000000 00000000 00000000 0000000000000002",
    ),
    "vote in 3": (
        3,
        VoteResponse(GENERATION, TERM, True, FLUSH, START, TermHistory(HISTORY.entries[:2])),
        (
            "76 00000005 0000000000000003 01 000000000149fe00 000000000149fd18 00000002"
            "0000000000000000000000000149fd18 0000000000000002000000000149fd50"
        ),
    ),
    "append in 3": (
        3,
        AppendResponse(GENERATION, TERM, FLUSH, COMMIT, HotStandbyFeedback(TIME, 735)),
        (
            "61 00000005 0000000000000003 000000000149fe00 000000000149fd90"
            "000303dd950b6b61 00000000000002df 0000000000000000"
        ),
    ),
    "append in 3 with feedback": (
        3,
        AppendResponse(GENERATION, TERM, FLUSH, COMMIT, pageserver=FEEDBACK),
        (
            "61 00000005 0000000000000003 000000000149fe00 000000000149fd90"
            f"000000000000000000000000000000000000000000000000 {FEEDBACK_HEX}"
        ),
    ),
    "greeting in 2": (
        2,
        AcceptorGreeting(NodeId(9), NO_CONFIGURATION, Term(2)),
        "6700000000000000 0200000000000000 0900000000000000",
    ),
    "vote in 2": (
        2,
        VoteResponse(NO_GENERATION, TERM, True, FLUSH, START, TermHistory(HISTORY.entries[:2])),
        (
            "7600000000000000 0300000000000000 0100000000000000 00fe490100000000 18fd490100000000"
            "02000000 000000000000000018fd490100000000 020000000000000050fd490100000000 0000000000000000"
        ),
    ),
    "vote in 2 with a start": (
        2,
        VoteResponse(NO_GENERATION, TERM, False, FLUSH, START, TermHistory(), START),
        (
            "7600000000000000 0300000000000000 0000000000000000 00fe490100000000 18fd490100000000"
            "00000000 18fd490100000000"
        ),
    ),
    "append in 2": (
        2,
        AppendResponse(NO_GENERATION, TERM, FLUSH, COMMIT, HotStandbyFeedback(TIME, 735)),
        (
            "6100000000000000 0300000000000000 00fe490100000000 90fd490100000000"
            "616b0b95dd030300 df02000000000000 0000000000000000"
        ),
    ),
    "append in 2 with feedback, which is big-endian all the same": (
        2,
        AppendResponse(NO_GENERATION, TERM, FLUSH, COMMIT, pageserver=FEEDBACK),
        (
            "6100000000000000 0300000000000000 00fe490100000000 90fd490100000000"
            f"000000000000000000000000000000000000000000000000 {FEEDBACK_HEX}"
        ),
    ),
}


@pytest.mark.parametrize(("version", "message", "raw"), PROPOSER.values(), ids=PROPOSER)
def test_a_proposer_message_is_these_bytes(version: int, message: ProposerMessage, raw: str) -> None:
    assert encode_proposer_message(message, version) == bytes.fromhex(raw)
    assert parse_proposer_message(memoryview(bytes.fromhex(raw)), version) == message


@pytest.mark.parametrize(("version", "message", "raw"), ACCEPTOR.values(), ids=ACCEPTOR)
def test_an_acceptor_message_is_these_bytes(version: int, message: AcceptorMessage, raw: str) -> None:
    assert encode_acceptor_message(message, version) == bytes.fromhex(raw)
    assert parse_acceptor_message(memoryview(bytes.fromhex(raw)), version) == message


@pytest.mark.parametrize(("version", "message", "raw"), PROPOSER.values(), ids=PROPOSER)
def test_bytes_after_a_proposers_message_are_ignored(version: int, message: ProposerMessage, raw: str) -> None:
    assert parse_proposer_message(bytes.fromhex(raw) + b"more", version) == message


@pytest.mark.parametrize(("version", "message", "raw"), ACCEPTOR.values(), ids=ACCEPTOR)
def test_bytes_after_an_acceptors_message_are_malformed(version: int, message: AcceptorMessage, raw: str) -> None:
    with pytest.raises(Malformed):
        parse_acceptor_message(bytes.fromhex(raw) + b"\0\0", version)


@pytest.mark.parametrize(("version", "message", "raw"), PROPOSER.values(), ids=PROPOSER)
def test_a_proposers_message_cut_short_is_malformed(version: int, message: ProposerMessage, raw: str) -> None:
    whole = bytes.fromhex(raw)
    # An acceptor needs only the first half of a protocol 2 vote request.
    needed = 16 if (version, type(message)) == (2, VoteRequest) else len(whole)
    for length in range(needed):
        with pytest.raises(Malformed):
            parse_proposer_message(whole[:length], version)


@pytest.mark.parametrize(("version", "message", "raw"), ACCEPTOR.values(), ids=ACCEPTOR)
def test_an_acceptors_message_cut_short_is_malformed(version: int, message: AcceptorMessage, raw: str) -> None:
    whole = bytes.fromhex(raw)
    without_feedback = len(whole) - len(bytes.fromhex(FEEDBACK_HEX))
    for length in range(len(whole)):
        if length == without_feedback and isinstance(message, AppendResponse) and message.pageserver:
            continue
        with pytest.raises(Malformed):
            parse_acceptor_message(whole[:length], version)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("tag", [b"x", b"\0", b"\xff"])
def test_an_unknown_tag_is_malformed(version: int, tag: bytes) -> None:
    for parse in (parse_proposer_message, parse_acceptor_message):
        with pytest.raises(Malformed):
            parse(tag + bytes(200), version)


def test_an_acceptor_never_says_elected() -> None:
    with pytest.raises(Malformed):
        parse_acceptor_message(bytes.fromhex(PROPOSER["elected in 3"][2]), 3)


@pytest.mark.parametrize("version", [0, 1, 4, 2**32 - 1])
def test_an_unsupported_protocol_version_is_malformed(version: int) -> None:
    with pytest.raises(Malformed):
        parse_proposer_message(b"v" + bytes(40), version)


def test_only_the_lowest_byte_of_a_protocol_2_tag_counts() -> None:
    raw = bytearray(bytes.fromhex(PROPOSER["vote in 2"][2]))
    raw[1:8] = b"\xff" * 7
    assert parse_proposer_message(bytes(raw), 2) == VoteRequest(NO_GENERATION, TERM)


def test_a_protocol_3_greeting_in_a_protocol_2_session_is_told_apart() -> None:
    with pytest.raises(Malformed):
        parse_proposer_message(bytes.fromhex(PROPOSER["greeting in 3"][2]), 2)


def test_a_2023_greeting_says_who_the_proposer_is() -> None:
    greeting = ProposerGreeting(TTID, NO_CONFIGURATION, SERVER, bytes(range(16)))
    assert parse_proposer_message(encode_proposer_message(greeting, 2), 2) == greeting


@pytest.mark.parametrize("digits", [TENANT_HEX.replace("30", "67", 1), "3030 00", "00"])
def test_an_id_that_is_not_32_digits_is_malformed(digits: str) -> None:
    raw = bytes.fromhex(PROPOSER["greeting in 3"][2].replace(TENANT_HEX, digits))
    with pytest.raises(Malformed):
        parse_proposer_message(raw, 3)


@pytest.mark.parametrize(
    "configuration",
    [
        "00000001 00000000 00000000",
        "00000001 00000002 0000000000000001 00 0000 0000000000000001 00 0000 00000000",
        "00000001 ffffffff",
    ],
)
def test_a_configuration_without_sense_is_malformed(configuration: str) -> None:
    raw = bytes.fromhex(PROPOSER["greeting in 3"][2].replace("00000000 00000000 00000000", configuration))
    with pytest.raises(Malformed):
        parse_proposer_message(raw, 3)


def greeting_of(members: int, new_members: int) -> ProposerGreeting:
    many = [Member(NodeId(number), "sk", 5454) for number in range(1, 1 + max(members, new_members))]
    configuration = Configuration(Generation(1), tuple(many[:members]), tuple(many[:new_members]))
    return ProposerGreeting(TTID, configuration, SERVER)


def test_as_many_members_as_a_writer_can_have_are_read_and_more_are_malformed() -> None:
    most = greeting_of(KEEPERS_MAX, KEEPERS_MAX)
    assert parse_proposer_message(encode_proposer_message(most, 3), 3) == most
    for members, new_members in ((KEEPERS_MAX + 1, 1), (1, KEEPERS_MAX + 1)):
        with pytest.raises(Malformed):
            parse_proposer_message(encode_proposer_message(greeting_of(members, new_members), 3), 3)


@pytest.mark.parametrize("history", [((2, 8), (2, 9)), ((3, 8), (2, 9)), ((1, 9), (2, 8))])
def test_a_term_history_that_does_not_grow_is_malformed(history: tuple[tuple[int, int], ...]) -> None:
    entries = b"".join(term.to_bytes(8, "big") + lsn.to_bytes(8, "big") for term, lsn in history)
    with pytest.raises(Malformed):
        parse_proposer_message(b"e" + bytes(20) + len(history).to_bytes(4, "big") + entries, 3)


def test_a_vote_is_given_or_not() -> None:
    for name, position in (("vote in 3", 13), ("vote in 2", 16)):
        version, _, raw = ACCEPTOR[name]
        wrong = bytearray(bytes.fromhex(raw))
        wrong[position] = 2
        with pytest.raises(Malformed):
            parse_acceptor_message(bytes(wrong), version)


@pytest.mark.parametrize("version", [2, 3])
def test_wal_is_not_copied_out_of_an_append_request(version: int) -> None:
    request = AppendRequest(NO_GENERATION, TERM, FLUSH, Lsn(FLUSH + 4), COMMIT, START, WAL)
    payload = encode_proposer_message(request, version)
    parsed = parse_proposer_message(memoryview(payload), version)
    assert isinstance(parsed, AppendRequest)
    assert isinstance(parsed.wal, memoryview)
    assert parsed.wal.obj is payload


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("wal_bytes", [-1, APPEND_BYTES_MAX + 1])
def test_wal_of_impossible_length_is_malformed(version: int, wal_bytes: int) -> None:
    head = encode_append_head(
        AppendRequest(NO_GENERATION, TERM, FLUSH, Lsn(FLUSH + wal_bytes), COMMIT, START), version
    )
    with pytest.raises(Malformed):
        parse_proposer_message(head + bytes(APPEND_BYTES_MAX + 1), version)


@pytest.mark.parametrize("version", [2, 3])
def test_the_most_wal_fits_into_one_request(version: int) -> None:
    wal = bytes(APPEND_BYTES_MAX)
    request = AppendRequest(NO_GENERATION, TERM, FLUSH, Lsn(FLUSH + len(wal)), COMMIT, START, wal)
    assert parse_proposer_message(encode_proposer_message(request, version), version) == request


@pytest.mark.parametrize("version", [2, 3])
def test_all_numbers_of_an_append_request_are_unsigned(version: int) -> None:
    generation = NO_GENERATION if version == 2 else Generation(2**32 - 1)
    request = AppendRequest(generation, Term(2**64 - 1), LSN_MAX, LSN_MAX, LSN_MAX, LSN_MAX)
    assert parse_proposer_message(encode_proposer_message(request, version), version) == request


@pytest.mark.parametrize("version", [2, 3])
def test_a_head_and_wal_are_an_append_request(version: int) -> None:
    request = AppendRequest(NO_GENERATION, TERM, FLUSH, Lsn(FLUSH + 4), COMMIT, START, WAL)
    assert encode_append_head(request, version) + WAL == encode_proposer_message(request, version)
