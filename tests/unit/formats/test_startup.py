"""Startup packets, and the options by which clients name their timeline."""

import struct

import pytest

from walkeeper.errors import Malformed
from walkeeper.formats.startup import (
    CancelRequest,
    ConnectionOptions,
    DirectTls,
    EncryptionAnswer,
    GssEncRequest,
    SslRequest,
    StartupMessage,
    StartupPacket,
    StreamProtocol,
    encode_options,
    parse_options,
    parse_startup_packet,
    split_options,
)
from walkeeper.ids import TenantId, TenantTimelineId, TimelineId

TENANT = TenantId(bytes.fromhex("00112233445566778899aabbccddeeff"))
TIMELINE = TimelineId(bytes.fromhex("ffeeddccbbaa99887766554433221100"))
TTID = TenantTimelineId(TENANT, TIMELINE)

EXAMPLE = bytes.fromhex(
    "00000035 00030000757365720075006f7074696f6e73002d632074696d656c696e655f69643d312074656e616e745f69643d320000"
)


def startup(payload: bytes) -> StartupPacket:
    return parse_startup_packet(struct.pack(">I", 0x30000) + payload)


def test_a_startup_message_is_pairs_of_strings() -> None:
    message = StartupMessage({"user": "u", "options": "-c timeline_id=1 tenant_id=2"})
    assert message.encode() == EXAMPLE
    assert parse_startup_packet(EXAMPLE[4:]) == message


@pytest.mark.parametrize("request_", [SslRequest(), GssEncRequest(), CancelRequest(7, 8)])
def test_requests_before_startup_survive_the_wire(request_: SslRequest | GssEncRequest | CancelRequest) -> None:
    encoded = request_.encode()
    assert int.from_bytes(encoded[:4], "big") == len(encoded)
    assert parse_startup_packet(encoded[4:]) == request_


def test_the_codes_are_those_of_postgresql() -> None:
    assert SslRequest().encode()[4:] == bytes.fromhex("04D2162F")
    assert GssEncRequest().encode()[4:] == bytes.fromhex("04D21630")
    assert CancelRequest(0, 0).encode()[4:8] == bytes.fromhex("04D2162E")


@pytest.mark.parametrize("packet", ["04D2162E 00000001", "04D21699", "04D2162F 00"])
def test_unknown_or_misshapen_requests_are_malformed(packet: str) -> None:
    with pytest.raises(Malformed):
        parse_startup_packet(bytes.fromhex(packet))


def test_a_single_byte_is_the_beginning_of_tls() -> None:
    assert parse_startup_packet(b"\x16") == DirectTls()


def test_encryption_is_answered_by_one_letter() -> None:
    assert (EncryptionAnswer(True).encode(), EncryptionAnswer(False).encode()) == (b"S", b"N")


def test_the_protocol_version_is_not_checked() -> None:
    assert parse_startup_packet(struct.pack(">I", 0x20007) + b"\0") == StartupMessage({})


@pytest.mark.parametrize(
    ("payload", "parameters"),
    [
        (b"\0", {}),
        (b"user\0a\0user\0b\0\0", {"user": "a"}),
        (b"user\0a\0dangling\0\0", {"user": "a"}),
        (b"user\0\0\0", {"user": ""}),
        (b"user\0\0options\0x\0\0", {"user": "", "options": "x"}),
    ],
)
def test_the_first_of_two_parameters_counts_and_a_lone_name_does_not(
    payload: bytes, parameters: dict[str, str]
) -> None:
    assert startup(payload) == StartupMessage(parameters)


@pytest.mark.parametrize("payload", [b"", b"user\0a", b"user\0\xff\0\0"])
def test_parameters_without_end_or_sense_are_malformed(payload: bytes) -> None:
    with pytest.raises(Malformed):
        startup(payload)


# -- options --------------------------------------------------------------------------------------------------


def test_options_of_a_walproposer_name_its_timeline() -> None:
    text = "-c timeline_id=ffeeddccbbaa99887766554433221100 tenant_id=00112233445566778899aabbccddeeff"
    assert encode_options(TTID) == text
    assert parse_options(text).ttid == TTID


def test_old_spellings_and_upper_case_digits_are_understood() -> None:
    text = f"ztimelineid={TIMELINE} ztenantid={str(TENANT).upper()}"
    assert parse_options(text).ttid == TTID


def test_half_a_name_names_no_timeline() -> None:
    options = parse_options(f"tenant_id={TENANT}")
    assert options.tenant_id == TENANT
    assert options.ttid is None


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        ("  a\t\tb\n\fc\r", ["a", "b", "c"]),
        ("a\\ b c", ["a\\ b", "c"]),
        ("a\\\\ b", ["a\\\\", "b"]),
        ("a\\", ["a\\"]),
        ("a\vb", ["a\vb"]),
    ],
)
def test_options_are_split_at_blanks_that_are_not_escaped(text: str, tokens: list[str]) -> None:
    assert list(split_options(text)) == tokens


@pytest.mark.parametrize(
    "text", ["-c", "whatever", "-ctenant_id=1", "--tenant_id=1", "TENANT_ID=1", "ttid=x", "a\\ tenant_id=1"]
)
def test_tokens_that_are_no_known_option_are_skipped(text: str) -> None:
    assert parse_options(text) == ConnectionOptions()


def test_a_token_is_cut_at_its_first_equals_sign() -> None:
    assert parse_options("availability_zone=a=b").availability_zone == "a=b"


def test_the_last_of_two_options_counts() -> None:
    assert parse_options("availability_zone=a availability_zone=b").availability_zone == "b"


INTERPRETED = 'protocol={"type":"interpreted","args":{"format":"bincode","compression":null}}'


def test_an_interpreted_stream_needs_its_shard() -> None:
    options = parse_options(f"{INTERPRETED} shard_count=0 shard_number=255 shard_stripe_size=4294967295")
    assert options.protocol is StreamProtocol.INTERPRETED


def test_a_vanilla_stream_may_be_asked_for_by_name() -> None:
    assert parse_options('protocol={"type":"vanilla","more":[]}') == ConnectionOptions()


@pytest.mark.parametrize(
    "text",
    [
        "tenant_id=12",
        "timeline_id=",
        f"timeline_id={TIMELINE}0",
        "protocol=vanilla",
        'protocol={"type":"Vanilla"}',
        'protocol="vanilla"',
        "protocol=[]",
        "protocol={}",
        'protocol={"type":{}}',
        "protocol=" + "[" * 9_000,
        INTERPRETED,
        f"{INTERPRETED} shard_count=1 shard_number=0",
        "shard_count=1",
        f"{INTERPRETED} shard_count=256 shard_number=0 shard_stripe_size=0",
        f"{INTERPRETED} shard_count=-1 shard_number=0 shard_stripe_size=0",
        f"{INTERPRETED} shard_count=1_0 shard_number=0 shard_stripe_size=0",
        f"{INTERPRETED} shard_count=1 shard_number=0 shard_stripe_size=4294967296",
    ],
)
def test_known_options_with_bad_values_are_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        parse_options(text)
