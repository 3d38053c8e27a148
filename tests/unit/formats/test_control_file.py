"""The control file, byte for byte: golden files of every version that was ever written.

Bodies of versions 1 to 4 and 7 to 9 are the vectors of Neon's own tests; the files of version 10 came out of the
serializer Neon uses; the two examples are of a timeline as it might be in production.
"""

import struct
from dataclasses import replace

import pytest
from crc32c import crc32c

from walkeeper.errors import Malformed
from walkeeper.formats.control_file import (
    ControlFile,
    PartialSegment,
    UploadStatus,
    control_file_as_json,
    encode_control_file,
    parse_control_file,
    read_envelope,
)
from walkeeper.ids import NodeId, TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import Lsn
from walkeeper.membership import Configuration, Generation, Member
from walkeeper.messages import ServerInfo
from walkeeper.terms import Term, TermHistory

BODY_1 = bytes.fromhex(
    "2a000000000000002b00000000000000e02202002143658778563412cf0480929707ee75372337efaa5ecf96112ded66422aa5e9"
    "53e5440fa5427ac478563412c47a42a50f44e553e9a52a4266ed2d1178029649000000000ccd5b07000000007002964900000000"
)

BODY_2 = bytes.fromhex(
    "2a00000000000000010000000000000029000000000000000100000000000000e02202002143658778563412cf0480929707ee75"
    "372337efaa5ecf96112ded66422aa5e953e5440fa5427ac478563412c47a42a50f44e553e9a52a4266ed2d117802964900000000"
    "0ccd5b07000000007002964900000000"
)

BODY_3 = bytes.fromhex(
    "2a00000000000000010000000000000029000000000000000100000000000000e022020021436587785634122000000000000000"
    "63663034383039323937303765653735333732333337656661613565636639362000000000000000313132646564363634323261"
    "61356539353365353434306661353432376163347856341220000000000000006334376134326135306634346535353365396135"
    "32613432363665643264313178029649000000000ccd5b07000000007002964900000000"
)

BODY_4 = bytes.fromhex(
    "20000000000000006366303438303932393730376565373533373233333765666161356563663936200000000000000031313264"
    "656436363432326161356539353365353434306661353432376163342a0000000000000001000000000000002900000000000000"
    "0100000000000000e022020021436587785634127856341220000000000000006334376134326135306634346535353365396135"
    "326134323636656432643131780296490000000084009649000000007f9698000000000000e49549000000000100000000000000"
    "010000000000000058ff9549000000002a000000000000007002964900000000b001964900000000"
)

BODY_7 = bytes.fromhex(
    "20000000000000006366303438303932393730376565373533373233333765666161356563663936200000000000000031313264"
    "656436363432326161356539353365353434306661353432376163342a0000000000000001000000000000002900000000000000"
    "01000000000000000e00000021436587785634127856341220000000000000006334376134326135306634346535353365396135"
    "32613432363665643264313100563412000000001200000000000000780296490000000084009649000000007f96980000000000"
    "00e49549000000000100000000000000010000000000000058ff9549000000002a000000000000007002964900000000b0019649"
    "00000000"
)

BODY_8 = bytes.fromhex(
    "20000000000000006366303438303932393730376565373533373233333765666161356563663936200000000000000031313264"
    "656436363432326161356539353365353434306661353432376163342a0000000000000001000000000000002900000000000000"
    "01000000000000000e00000021436587785634127856341220000000000000006334376134326135306634346535353365396135"
    "32613432363665643264313100563412000000001200000000000000780296490000000084009649000000007f96980000000000"
    "00e49549000000000100000000000000010000000000000058ff9549000000002a000000000000007002964900000000b0019649"
    "000000000000000000000000"
)

BODY_9 = bytes.fromhex(
    "20000000000000006366303438303932393730376565373533373233333765666161356563663936200000000000000031313264"
    "656436363432326161356539353365353434306661353432376163342a0000000000000001000000000000002900000000000000"
    "01000000000000000e00000021436587785634127856341220000000000000006334376134326135306634346535353365396135"
    "32613432363665643264313100563412000000001200000000000000780296490000000084009649000000007f96980000000000"
    "00e49549000000000100000000000000010000000000000058ff9549000000002a000000000000007002964900000000b0019649"
    "00000000000000000000000000000000"
)

FILE_10_A = bytes.fromhex(
    "efcefeca0a0000002000000000000000636630343830393239373037656537353337323333376566616135656366393620000000"
    "0000000031313264656436363432326161356539353365353434306661353432376163342a000000010000000000000001000000"
    "000000000800000000000000686568652e6f72673815002a00000000000000010000000000000029000000000000000100000000"
    "000000e0220200214365877856341278563412200000000000000063343761343261353066343465353533653961353261343236"
    "3665643264313100563412000000001200000000000000780296490000000084009649000000007f9698000000000000e4954900"
    "000000000000000000000000000000000000000000000000000000b0189dbb"
)

FILE_10_B = bytes.fromhex(
    "efcefeca0a0000002000000000000000636630343830393239373037656537353337323333376566616135656366393620000000"
    "0000000031313264656436363432326161356539353365353434306661353432376163342a000000010000000000000001000000"
    "000000000800000000000000686568652e6f726738150102000000000000000200000000000000030000000000000068c3a9ffff"
    "0300000000000000000000000000000000002a00000000000000010000000000000029000000000000000100000000000000e022"
    "02002143658778563412785634122000000000000000633437613432613530663434653535336539613532613432363665643264"
    "313100563412000000001200000000000000780296490000000084009649000000007f9698000000000000e49549000000000300"
    "0000000000000000000002000000000000006e300100000000000000020000000000000003000000000000000100000048000000"
    "000000003030303030303031303030303030303030303030303030325f325f303030303030303030323533343836385f30303030"
    "3030303030323533343431305f736b312e7061727469616c10445302000000006848530200000000020000000000000002000000"
    "02000000000000006e3204000000000000000500000000000000060000000000000001000000684853020000000040a387670000"
    "000015cd5b072d49b255"
)

FILE_7_EXAMPLE = bytes.fromhex(
    "efcefeca070000002000000000000000306166336332316435623865343937366131623263336434653566363037313820000000"
    "00000000396437633561336231663065326434633662386137393638353734363335323405000000000000000200000000000000"
    "0100000000000000d8f04901000000000500000000000000505a6b0100000000f3490200a04fc2ed9e327f640000000120000000"
    "000000003030303130323033303430353036303730383039306130623063306430653066d8f0490100000000d8f0490100000000"
    "505a6b0100000000d8f0490100000000505a6b0100000000d8f04901000000000000000000000000c794bb60"
)

FILE_10_EXAMPLE = bytes.fromhex(
    "efcefeca0a0000002000000000000000306166336332316435623865343937366131623263336434653566363037313820000000"
    "00000000396437633561336231663065326434633662386137393638353734363335323403000000030000000000000001000000"
    "000000000400000000000000736b2d314e1502000000000000000400000000000000736b2d324e15030000000000000004000000"
    "00000000736b2d334e1501010000000000000004000000000000000400000000000000736b2d344e150500000000000000020000"
    "00000000000100000000000000d8f04901000000000500000000000000505a6b0100000000f3490200a04fc2ed9e327f64000000"
    "0120000000000000003030303130323033303430353036303730383039306130623063306430653066d8f0490100000000d8f049"
    "0100000000505a6b0100000000d8f0490100000000505a6b0100000000d8f0490100000000010000000000000001000000480000"
    "00000000003030303030303031303030303030303030303030303030315f355f303030303030303030313642354135305f303030"
    "303030303030313642354135305f736b312e7061727469616c505a6b0100000000505a6b01000000000500000000000000000000"
    "0000b955690000000080b2e60e3b341215"
)

BODIES = {1: BODY_1, 2: BODY_2, 3: BODY_3, 4: BODY_4, 5: BODY_7, 6: BODY_7, 7: BODY_7, 8: BODY_8, 9: BODY_9}
TIMELINE_ID = bytes.fromhex("112ded66422aa5e953e5440fa5427ac4")
TTID = TenantTimelineId(TenantId.parse("cf0480929707ee75372337efaa5ecf96"), TimelineId(TIMELINE_ID))
SYSTEM_ID = 0x1234567887654321

# What all golden bodies have in common.
COMMON = ControlFile(
    TTID,
    ServerInfo(140000, SYSTEM_ID, 0x12345678),
    term=Term(42),
    term_history=TermHistory.of((41, 1)),
    proposer_uuid=TIMELINE_ID[::-1],
    commit_lsn=Lsn(1234567800),
)
EARLY = replace(COMMON, peer_horizon_lsn=Lsn(123456780))
LATE = replace(
    COMMON,
    server=ServerInfo(14, SYSTEM_ID, 0x12345678),
    timeline_start_lsn=Lsn(0x12345600),
    local_start_lsn=Lsn(0x12),
    backup_lsn=Lsn(1234567300),
    peer_horizon_lsn=Lsn(9999999),
    remote_consistent_lsn=Lsn(1234560000),
)
MEANT = {
    1: replace(EARLY, term_history=TermHistory.of((43, 0))),
    2: EARLY,
    3: EARLY,
    4: replace(COMMON, peer_horizon_lsn=Lsn(9999999)),
    5: LATE,
    6: LATE,
    7: LATE,
    8: LATE,
    9: LATE,
}
MANAGED = replace(
    LATE,
    server=ServerInfo(140000, SYSTEM_ID, 0x12345678),
    configuration=Configuration(Generation(42), (Member(NodeId(1), "hehe.org", 5432),)),
)
RICH = replace(
    MANAGED,
    configuration=replace(
        MANAGED.configuration,
        new_members=(Member(NodeId(2), "h\u00e9", 65535), Member(NodeId(3), "", 0)),
    ),
    partial_backup=(
        PartialSegment(UploadStatus.IN_PROGRESS, "n0", Lsn(1), Lsn(2), Term(3)),
        PartialSegment(
            UploadStatus.UPLOADED,
            "000000010000000000000002_2_0000000002534868_0000000002534410_sk1.partial",
            Lsn(0x2534410),
            Lsn(0x2534868),
            Term(2),
        ),
        PartialSegment(UploadStatus.DELETING, "n2", Lsn(4), Lsn(5), Term(6)),
    ),
    evicted_at=Lsn(0x2534868),
    created_at=(1736942400, 123456789),
)
EXAMPLE = ControlFile(
    TenantTimelineId(
        TenantId.parse("0af3c21d5b8e4976a1b2c3d4e5f60718"), TimelineId.parse("9d7c5a3b1f0e2d4c6b8a796857463524")
    ),
    ServerInfo(150003, 7241562384010203040, 16 << 20),
    term=Term(5),
    term_history=TermHistory.of((1, 0x149F0D8), (5, 0x16B5A50)),
    proposer_uuid=bytes(range(16)),
    timeline_start_lsn=Lsn(0x149F0D8),
    local_start_lsn=Lsn(0x149F0D8),
    commit_lsn=Lsn(0x16B5A50),
    backup_lsn=Lsn(0x149F0D8),
    peer_horizon_lsn=Lsn(0x16B5A50),
    remote_consistent_lsn=Lsn(0x149F0D8),
)
EXAMPLE_MANAGED = replace(
    EXAMPLE,
    configuration=Configuration(
        Generation(3),
        tuple(Member(NodeId(number), f"sk-{number}", 5454) for number in (1, 2, 3)),
        (Member(NodeId(4), "sk-4", 5454),),
    ),
    partial_backup=(
        PartialSegment(
            UploadStatus.UPLOADED,
            "000000010000000000000001_5_00000000016B5A50_00000000016B5A50_sk1.partial",
            Lsn(0x16B5A50),
            Lsn(0x16B5A50),
            Term(5),
        ),
    ),
    created_at=(1767225600, 250000000),
)


def seal(version: int, body: bytes, magic: int = 0xCAFECEEF) -> bytes:
    """A whole file around a body."""
    content = struct.pack("<II", magic, version) + body
    return content + struct.pack("<I", crc32c(content))


@pytest.mark.parametrize("version", MEANT)
def test_every_old_version_is_read_as_what_it_means_now(version: int) -> None:
    assert parse_control_file(seal(version, BODIES[version])) == MEANT[version]


@pytest.mark.parametrize(
    ("golden", "meant"), [(FILE_10_A, MANAGED), (FILE_10_B, RICH), (FILE_10_EXAMPLE, EXAMPLE_MANAGED)]
)
def test_version_ten_is_read_and_written_as_the_golden_files(golden: bytes, meant: ControlFile) -> None:
    assert parse_control_file(golden) == meant
    assert encode_control_file(meant) == golden


def test_the_example_of_version_seven_is_read() -> None:
    assert parse_control_file(FILE_7_EXAMPLE) == EXAMPLE


def test_without_a_generation_version_nine_is_written() -> None:
    one_peer, rest = 8 + 5 * 8, 8 + 4
    no_peers = BODY_9[: -one_peer - rest] + bytes(8 + rest)
    assert encode_control_file(LATE) == seal(9, no_peers)
    assert len(encode_control_file(LATE)) == 232 + 16


def test_version_nine_forgets_the_time_of_creation() -> None:
    assert parse_control_file(encode_control_file(replace(LATE, created_at=(1, 2)))) == LATE


def test_a_version_five_file_without_a_start_begins_before_all_wal() -> None:
    body = BODY_7.replace(struct.pack("<QQ", 0x12345600, 0x12), bytes(16))
    assert parse_control_file(seal(5, body)) == replace(LATE, timeline_start_lsn=Lsn(1), local_start_lsn=Lsn(1))
    assert parse_control_file(seal(7, body)).timeline_start_lsn == 0


def test_a_version_six_file_without_a_server_version_is_of_the_only_one_there_was() -> None:
    body = BODY_7.replace(struct.pack("<IQ", 14, SYSTEM_ID), struct.pack("<IQ", 0, SYSTEM_ID))
    assert parse_control_file(seal(6, body)).server.pg_version == 140005
    assert parse_control_file(seal(7, body)).server.pg_version == 0


def test_ids_in_upper_case_are_read() -> None:
    body = BODY_7.replace(TTID.tenant_id.raw.hex().encode(), TTID.tenant_id.raw.hex().upper().encode())
    assert parse_control_file(seal(7, body)).ttid == TTID


# -- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 4, 100, len(FILE_10_B) - 1])
def test_one_flipped_bit_anywhere_is_a_checksum_mismatch(place: int) -> None:
    damaged = bytearray(FILE_10_B)
    damaged[place] ^= 1
    with pytest.raises(Malformed, match="checksum"):
        parse_control_file(bytes(damaged))


def test_the_magic_is_looked_at_before_the_version() -> None:
    with pytest.raises(Malformed, match="magic"):
        parse_control_file(seal(99, b"", magic=0xCAFED00D))


@pytest.mark.parametrize("version", [0, 11])
def test_an_unknown_version_is_refused(version: int) -> None:
    with pytest.raises(Malformed, match=f"version {version}"):
        parse_control_file(seal(version, BODY_9))


@pytest.mark.parametrize("version", BODIES)
def test_a_byte_too_many_or_too_few_is_refused(version: int) -> None:
    for body in (BODIES[version] + b"\0", BODIES[version][:-1]):
        with pytest.raises(Malformed):
            parse_control_file(seal(version, body))


@pytest.mark.parametrize("size", range(12))
def test_a_file_too_short_to_hold_a_version_is_refused(size: int) -> None:
    with pytest.raises(Malformed):
        parse_control_file(FILE_10_A[:size])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(b"cf048092", b"xf048092", id="an id that is not hexadecimal"),
        pytest.param(struct.pack("<Q", 32), struct.pack("<Q", 31), id="an id that is too short"),
        pytest.param(struct.pack("<Q", 32), struct.pack("<Q", 1 << 63), id="a string longer than the file"),
        pytest.param(b"hehe", b"\xff\xffhe", id="a host that is not UTF-8"),
        pytest.param(struct.pack("<IQ", 42, 1), struct.pack("<IQ", 42, 1 << 63), id="more members than bytes"),
        pytest.param(b"\x38\x15\x01", b"\x38\x15\x02", id="neither with nor without new members"),
        pytest.param(struct.pack("<QQ", 3, 0), struct.pack("<QQ", 2, 0), id="a node twice"),
        pytest.param(struct.pack("<IQ", 2, 2), struct.pack("<IQ", 3, 2), id="an unknown upload status"),
        pytest.param(
            struct.pack("<IQ", 1, 0x2534868), struct.pack("<IQ", 2, 0x2534868), id="an unknown eviction state"
        ),
    ],
)
def test_a_body_that_makes_no_sense_is_refused(old: bytes, new: bytes) -> None:
    body = FILE_10_B[8:-4]
    assert old in body
    with pytest.raises(Malformed):
        parse_control_file(seal(10, body.replace(old, new, 1)))


def test_a_term_history_that_shrinks_is_refused() -> None:
    entry = struct.pack("<QQQ", 1, 41, 1)
    body = BODY_7.replace(entry, struct.pack("<QQQQQ", 2, 41, 1, 41, 2))
    with pytest.raises(Malformed, match="history"):
        parse_control_file(seal(7, body))


# -- how it is shown ----------------------------------------------------------------------------------------


def test_the_json_is_that_of_neon() -> None:
    assert control_file_as_json(EXAMPLE_MANAGED) == {
        "tenant_id": "0af3c21d5b8e4976a1b2c3d4e5f60718",
        "timeline_id": "9d7c5a3b1f0e2d4c6b8a796857463524",
        "mconf": {
            "generation": 3,
            "members": [{"id": number, "host": f"sk-{number}", "pg_port": 5454} for number in (1, 2, 3)],
            "new_members": [{"id": 4, "host": "sk-4", "pg_port": 5454}],
        },
        "acceptor_state": {
            "term": 5,
            "term_history": [{"term": 1, "lsn": "0/149F0D8"}, {"term": 5, "lsn": "0/16B5A50"}],
        },
        "server": {"pg_version": 150003, "system_id": 7241562384010203040, "wal_seg_size": 16777216},
        "proposer_uuid": "000102030405060708090a0b0c0d0e0f",
        "timeline_start_lsn": "0/149F0D8",
        "local_start_lsn": "0/149F0D8",
        "commit_lsn": "0/16B5A50",
        "backup_lsn": "0/149F0D8",
        "peer_horizon_lsn": "0/16B5A50",
        "remote_consistent_lsn": "0/149F0D8",
        "partial_backup": {
            "segments": [
                {
                    "status": "Uploaded",
                    "name": "000000010000000000000001_5_00000000016B5A50_00000000016B5A50_sk1.partial",
                    "commit_lsn": "0/16B5A50",
                    "flush_lsn": "0/16B5A50",
                    "term": 5,
                }
            ]
        },
        "eviction_state": "Present",
        "creation_ts": {"secs_since_epoch": 1767225600, "nanos_since_epoch": 250000000},
    }


def test_the_json_of_an_evicted_timeline_says_where_it_ended() -> None:
    shown = control_file_as_json(RICH)
    assert shown["eviction_state"] == {"Offloaded": "0/2534868"}
    assert [segment["status"] for segment in shown["partial_backup"]["segments"]] == [
        "InProgress",
        "Uploaded",
        "Deleting",
    ]
    assert control_file_as_json(LATE)["mconf"] == {"generation": 0, "members": [], "new_members": None}


# -- files that cannot be read ------------------------------------------------------------------------------


def test_an_envelope_tells_the_version_and_whether_the_checksum_holds() -> None:
    whole = encode_control_file(
        ControlFile(TenantTimelineId(TenantId(bytes(16)), TimelineId(bytes(16))), ServerInfo(150003, 7, 1 << 24))
    )
    assert read_envelope(whole) == (9, True)
    assert read_envelope(whole[:-1]) == (9, False)
    assert read_envelope(whole[:50] + b"x" + whole[51:]) == (9, False)


@pytest.mark.parametrize("content", [b"", b"\xef\xce\xfe\xca\x09\0\0\0", bytes(500)])
def test_what_is_no_control_file_has_no_envelope(content: bytes) -> None:
    assert read_envelope(content) is None
