"""Frames are cut out of receive buffers without copying, and only within limits."""

import struct

import pytest

from walkeeper.errors import Malformed
from walkeeper.formats.frames import (
    FRAME_BYTES_MAX,
    PAYLOADS_MAX,
    STARTUP_BYTES_MAX,
    Frame,
    FrameParser,
    encode_copy_data_head,
    encode_frame,
)


def taken(frame: Frame | None) -> tuple[bytes, bytes] | None:
    return None if frame is None else (frame.tag, bytes(frame.body))


def parser_of(*buffers: bytes) -> FrameParser:
    """A parser that was fed ``buffers``, each but the last of which ends inside a frame."""
    parser = FrameParser()
    for buffer in buffers:
        assert parser.next_frame() is None
        parser.feed(buffer)
    return parser


def test_a_frame_has_a_tag_a_length_and_a_body() -> None:
    assert encode_frame(b"W", bytes(3)) == bytes.fromhex("57 00000007 000000")
    assert taken(parser_of(bytes.fromhex("57 00000007 000000")).next_frame()) == (b"W", bytes(3))


def test_a_copy_data_head_announces_its_payload() -> None:
    assert encode_copy_data_head(4) + b"abcd" == encode_frame(b"d", b"abcd")


def test_bodies_are_views_of_the_receive_buffer() -> None:
    buffer = encode_frame(b"d", b"wal") + encode_frame(b"d", b"more")
    assert all(payload.obj is buffer for payload in parser_of(buffer).copy_payloads())


def test_only_the_frame_that_straddles_two_receives_is_copied() -> None:
    stream = encode_frame(b"d", b"first") + encode_frame(b"d", b"second")
    head, tail = stream[:7], stream[7:]
    payloads = parser_of(head, tail).copy_payloads()
    assert [bytes(payload) for payload in payloads] == [b"first", b"second"]
    assert [payload.obj is tail for payload in payloads] == [False, True]


def test_copy_payloads_stop_at_a_frame_of_another_kind() -> None:
    parser = parser_of(encode_frame(b"d", b"1") + encode_frame(b"c", b"") + encode_frame(b"d", b"2"))
    assert parser.copy_payloads() == [b"1"]
    assert parser.copy_payloads() == []
    assert taken(parser.next_frame()) == (b"c", b"")
    assert parser.copy_payloads() == [b"2"]


def test_so_many_payloads_are_taken_at_once_and_no_more() -> None:
    numbers = [b"%d" % number for number in range(2 * PAYLOADS_MAX + 1)]
    stream = b"".join(encode_frame(b"d", number) for number in numbers)
    parser = parser_of(stream[:3], stream[3:])
    taken = [parser.copy_payloads() for _ in range(3)]
    assert [len(payloads) for payloads in taken] == [PAYLOADS_MAX, PAYLOADS_MAX, 1]
    assert [bytes(payload) for payloads in taken for payload in payloads] == numbers
    assert parser.is_starved


def test_a_straddling_frame_of_another_kind_is_left_alone_by_copy_payloads() -> None:
    parser = parser_of(b"c\0\0", b"\0\4" + encode_frame(b"d", b"1"))
    assert parser.copy_payloads() == []
    assert taken(parser.next_frame()) == (b"c", b"")
    assert parser.copy_payloads() == [b"1"]


def test_a_parser_is_starved_as_soon_as_every_payload_is_taken() -> None:
    stream = encode_frame(b"d", b"1") + encode_frame(b"d", b"2")
    parser = parser_of(stream)
    assert parser.copy_payloads() == [b"1", b"2"]
    assert parser.is_starved
    parser.feed(stream)
    assert parser.copy_payloads() == [b"1", b"2"]


@pytest.mark.parametrize("rest", [encode_frame(b"c", b""), encode_frame(b"d", b"3")[:-1]])
def test_a_parser_is_not_starved_before_the_rest_was_looked_at(rest: bytes) -> None:
    parser = parser_of(encode_frame(b"d", b"1") + rest)
    assert parser.copy_payloads() == [b"1"]
    assert not parser.is_starved


def test_an_empty_payload_is_a_payload() -> None:
    assert parser_of(encode_frame(b"d", b"")).copy_payloads() == [b""]


@pytest.mark.parametrize("length", [0, 3, FRAME_BYTES_MAX, 2**31, 2**32 - 1])
def test_an_impossible_length_is_malformed_as_soon_as_it_is_read(length: int) -> None:
    header = struct.pack(">cI", b"d", length)
    with pytest.raises(Malformed):
        parser_of(header).next_frame()
    with pytest.raises(Malformed):
        parser_of(header).copy_payloads()
    with pytest.raises(Malformed):
        parser_of(header[:4], header[4:]).copy_payloads()


def test_the_longest_frame_is_accepted() -> None:
    body = bytes(FRAME_BYTES_MAX - 5)
    assert parser_of(encode_frame(b"d", body)).copy_payloads() == [body]


def test_a_frame_that_was_only_announced_takes_no_memory() -> None:
    parser = parser_of(struct.pack(">cI", b"d", FRAME_BYTES_MAX - 1))
    assert parser.next_frame() is None
    assert len(parser._partial) == 5


def test_feeding_while_something_is_left_to_take_is_a_bug() -> None:
    parser = parser_of(encode_frame(b"Z", b"I"))
    with pytest.raises(AssertionError):
        parser.feed(b"more")


def test_a_parser_knows_whether_it_is_between_frames() -> None:
    parser = FrameParser()
    seen = [parser.is_between_frames]
    for buffer in (b"Z\0", b"\0\0\5I"):
        parser.feed(buffer)
        seen.append(parser.is_between_frames)
        parser.next_frame()
        seen.append(parser.is_between_frames)
    assert seen == [True, False, False, False, True]


@pytest.mark.parametrize("length", [0, 7, STARTUP_BYTES_MAX + 1, 2**32 - 1])
def test_a_startup_packet_of_impossible_length_is_malformed(length: int) -> None:
    with pytest.raises(Malformed):
        parser_of(struct.pack(">I", length) + bytes(8)).next_startup()


def test_the_longest_startup_packet_is_accepted() -> None:
    body = bytes(STARTUP_BYTES_MAX - 4)
    packet = parser_of(struct.pack(">I", STARTUP_BYTES_MAX) + body).next_startup()
    assert packet is not None
    assert bytes(packet) == body


def test_a_tls_handshake_out_of_the_blue_is_told_from_a_startup_packet() -> None:
    packet = parser_of(bytes.fromhex("16030100f8")).next_startup()
    assert packet is not None
    assert bytes(packet) == b"\x16"


def test_nothing_of_a_tls_handshake_but_its_first_byte_is_taken() -> None:
    parser = FrameParser()
    parser.feed(b"\x16\3")
    assert parser.next_startup() is None
    parser.feed(b"\1\0\xf8")
    assert parser.next_startup() is not None
    assert [parser.next_byte() for _ in range(5)] == [b"\3", b"\1", b"\0", b"\xf8", None]


def test_frames_follow_startup_packets_in_one_buffer() -> None:
    parser = parser_of(struct.pack(">II", 8, 80877103) + encode_frame(b"X", b""))
    packet = parser.next_startup()
    assert packet is not None
    assert bytes(packet) == struct.pack(">I", 80877103)
    assert taken(parser.next_frame()) == (b"X", b"")


def test_a_single_byte_can_be_taken_before_frames() -> None:
    parser = parser_of(b"N" + encode_frame(b"Z", b"I"))
    assert parser.next_byte() == b"N"
    assert taken(parser.next_frame()) == (b"Z", b"I")
    assert parser.next_byte() is None
