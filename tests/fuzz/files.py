"""Fuzz targets: what lies on a disk that others may have written: control files, WAL, names, id files."""

import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from crc32c import crc32c

from fuzz.target import Target
from recorded import connections
from walkeeper.errors import ConfigError, Malformed
from walkeeper.formats.control_file import (
    MAGIC,
    VERSION_NEWEST,
    ControlFile,
    PartialSegment,
    UploadStatus,
    control_file_as_json,
    encode_control_file,
    parse_control_file,
    read_envelope,
)
from walkeeper.formats.proposer import parse_proposer_message
from walkeeper.formats.segments import parse_segment_name, segment_name
from walkeeper.formats.sizes import format_size, parse_size
from walkeeper.formats.xlog import (
    PAGE_BYTES,
    RECORD_HEADER_BYTES,
    Record,
    RecordScanner,
    RecordVerifier,
    first_record_header,
    last_record_start,
)
from walkeeper.formats.xlog_pages import MAGICS, PAGE_MASK, PageLayout, server_of_segment
from walkeeper.ids import NodeId, TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import Lsn, format_lsn, parse_lsn
from walkeeper.membership import Configuration, Generation, Member
from walkeeper.messages import AppendRequest, ServerInfo
from walkeeper.storage.data_directory import parse_id
from walkeeper.terms import Term, TermHistory
from walkeeper.testing.wal import WalGenerator

SEGMENT_BYTES = 1 << 20
MAJORS = sorted(MAGICS)
RECORDED_EVERY = 8
"""One in so many recorded appends is enough: they are much alike."""

# -- control files --------------------------------------------------------------------------------------------


def feed_control_file(data: bytes) -> None:
    """As it is, and with a magic and a checksum that are right."""
    with suppress(Malformed):
        _read_control_file(data)
    body = MAGIC.to_bytes(4, "little") + data
    _read_control_file(body + crc32c(body).to_bytes(4, "little"))


def _read_control_file(content: bytes) -> None:
    envelope = read_envelope(content)
    found = parse_control_file(content)
    assert envelope is not None
    assert envelope.checksum_holds
    assert control_file_as_json(found)["tenant_id"] == str(found.ttid.tenant_id)
    if not found.configuration.generation:  # there is no room for either then
        found = replace(found, configuration=Configuration(), created_at=(0, 0))
    assert parse_control_file(encode_control_file(found)) == found


def control_file_seeds() -> list[bytes]:
    """What follows the magic and precedes the checksum: the newest two as they are written, the others made of them."""
    ttid = TenantTimelineId(TenantId(bytes(range(16))), TimelineId(bytes(range(16, 32))))
    unmanaged = ControlFile(
        ttid,
        ServerInfo(170002, 7241562384010203040, SEGMENT_BYTES),
        term=Term(5),
        term_history=TermHistory.of((1, 0x1000), (5, 0x2000)),
        commit_lsn=Lsn(0x2000),
        partial_backup=(PartialSegment(UploadStatus.UPLOADED, "n", Lsn(1), Lsn(2), Term(3)),),
        evicted_at=Lsn(0x3000),
    )
    members = (Member(NodeId(1), "a", 5454), Member(NodeId(2), "b", 5454))
    managed = replace(
        unmanaged, configuration=Configuration(Generation(3), members, members[:1]), created_at=(9, 9)
    )
    written = [encode_control_file(each)[4:-4] for each in (unmanaged, managed)]
    early = bytes(8) + bytes(4) + (170002).to_bytes(4, "little") + bytes(100)
    return [
        *written,
        *(version.to_bytes(4, "little") + written[0][4:] for version in range(4, VERSION_NEWEST)),
        *(version.to_bytes(4, "little") + early for version in (1, 2, 3)),
    ]


# -- WAL ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SomeWal:
    """WAL, where it begins and for whom; made of any bytes."""

    begin_lsn: Lsn
    pg_major: int
    inside_record: bool
    cut: int
    wal: bytes

    HEAD_BYTES = 8

    @classmethod
    def of(cls, data: bytes) -> "SomeWal":
        head = data[: cls.HEAD_BYTES].ljust(cls.HEAD_BYTES, b"\0")
        begin_lsn = int.from_bytes(head[:4], "big")
        inside = bool(head[4] & 0x80) and not begin_lsn & PAGE_MASK
        major, cut = MAJORS[(head[4] & 0x7F) % len(MAJORS)], int.from_bytes(head[6:8], "big")
        return cls(Lsn(begin_lsn), major, inside, cut, data[cls.HEAD_BYTES :])

    @classmethod
    def encode(
        cls, begin_lsn: int, pg_major: int, wal: bytes, *, cut: int = 0, inside_record: bool = False
    ) -> bytes:
        flags = MAJORS.index(pg_major) | (0x80 if inside_record else 0)
        return begin_lsn.to_bytes(4, "big") + bytes([flags, 0]) + cut.to_bytes(2, "big") + wal

    def has_pages_behind_switches(self, records: Sequence[Record]) -> bool:
        """Whether any page there has its header, as PostgreSQL's never have: the scanner would take it for WAL."""
        layout = PageLayout.of(self.pg_major, SEGMENT_BYTES)
        return any(
            has_header(layout, self.wal, page + 1 - self.begin_lsn, page + 1)
            for record in records
            if record.header.is_switch
            for page in range((record.start + RECORD_HEADER_BYTES - 1) | PAGE_MASK, record.end - 1, PAGE_BYTES)
        )

    def scanner(self) -> RecordScanner:
        return RecordScanner.start(
            self.begin_lsn, pg_major=self.pg_major, wal_seg_size=SEGMENT_BYTES, inside_record=self.inside_record
        )

    def verifier(self) -> RecordVerifier:
        return RecordVerifier(
            self.begin_lsn, pg_major=self.pg_major, wal_seg_size=SEGMENT_BYTES, inside_record=self.inside_record
        )


def has_header(layout: PageLayout, wal: bytes, offset: int, page: int) -> bool:
    """Whether it is there as a whole, and legible."""
    if offset + layout.header_bytes(page) > len(wal):
        return False
    try:
        layout.read_page_header(wal, offset, page)
    except Malformed:
        return False
    return True


def feed_scanner(data: bytes) -> None:
    """Of WAL in which the verifier finds nothing wrong, however it is cut, the scanner finds the same end."""
    some = SomeWal.of(data)
    verifier = some.verifier()
    is_good = not some.has_pages_behind_switches(verifier.feed(some.wal)) and verifier.stopped is None
    for slices in ([some.wal], [some.wal[: some.cut], some.wal[some.cut :]]):
        scanner = some.scanner()
        try:
            for piece in slices:
                scanner = scanner.scan([piece])
        except Malformed:
            assert not is_good
            raise
        assert scanner.next_lsn == some.begin_lsn + len(some.wal)
        assert len(scanner._carry) < PAGE_BYTES
        if is_good:
            assert (scanner.record_end, scanner.tli) == (verifier.record_end, verifier.tli)


def feed_verifier(data: bytes) -> None:
    """However the WAL is cut, it is the same records; they follow each other and lie in what was read."""
    some = SomeWal.of(data)
    verifier, in_pieces = some.verifier(), some.verifier()
    records = verifier.feed(some.wal)
    assert in_pieces.feed(some.wal[: some.cut]) + in_pieces.feed(some.wal[some.cut :]) == records
    assert in_pieces.record_end == verifier.record_end
    assert (in_pieces.stopped is None) == (verifier.stopped is None)
    for earlier, later in itertools.pairwise(records):
        assert earlier.end <= later.start
    for record in records:
        assert some.begin_lsn <= record.start < record.end


def feed_record_headers(data: bytes) -> None:
    """The header of the first record, and what the last one's start is."""
    some = SomeWal.of(data)
    header = first_record_header(some.wal, some.begin_lsn, pg_major=some.pg_major, wal_seg_size=SEGMENT_BYTES)
    if header is not None:
        assert header.total_bytes <= 1 << 30
    page = Lsn((some.begin_lsn + PAGE_MASK) & ~PAGE_MASK)
    wal, end = some.wal[page - some.begin_lsn :], Lsn(some.begin_lsn + len(some.wal))
    if end > page:
        start = last_record_start(wal, end, pg_major=some.pg_major, wal_seg_size=SEGMENT_BYTES)
        assert start is None or page <= start < end


def feed_segment(data: bytes) -> None:
    """The first bytes of a segment that nobody knows anything about."""
    server = server_of_segment(data)
    assert server.pg_major in MAJORS


def wal_seeds() -> list[bytes]:
    """Recorded WAL, and generated WAL that crosses pages and segments, switches, tears and goes on."""
    return [*_recorded_wal(), *(SomeWal.encode(*each, cut=cut) for each in _generated_wal() for cut in (0, 100))]


def _recorded_wal() -> list[bytes]:
    appends = [
        parse_proposer_message(message.raw[5:], connection.proto_version)
        for connection in connections()
        for message in connection.messages
        if message.kind == "AppendRequest"
    ]
    return [
        SomeWal.encode(append.begin_lsn, 15, bytes(append.wal[:2000]))
        for append in appends[::RECORDED_EVERY]
        if isinstance(append, AppendRequest) and append.wal
    ]


def _generated_wal() -> list[tuple[int, int, bytes]]:
    made = []
    for major in (14, 16, 18):
        for start in (SEGMENT_BYTES * 3, SEGMENT_BYTES * 3 - 200, SEGMENT_BYTES * 3 + PAGE_BYTES - 72):
            wal = WalGenerator(Lsn(start), pg_major=major, wal_seg_size=SEGMENT_BYTES)
            wal.record(b"one")
            wal.logical_message("prefix", bytes(300))
            wal.record()
            made.append((start, major, wal.wal))
    wal = WalGenerator(Lsn(SEGMENT_BYTES * 3 - 64), pg_major=17, wal_seg_size=SEGMENT_BYTES)
    wal.switch()
    wal.record(b"after")
    made.append((wal.start, 17, wal.wal))
    wal = WalGenerator(Lsn(SEGMENT_BYTES - 3 * PAGE_BYTES + 7800), pg_major=17, wal_seg_size=SEGMENT_BYTES)
    wal.torn_record()
    wal.record(b"after")
    made.append((wal.start, 17, wal.wal))
    return made


# -- names and small files ------------------------------------------------------------------------------------


def feed_segment_name(data: bytes) -> None:
    name = data.decode(errors="surrogateescape")
    for size in (SEGMENT_BYTES, 16 * SEGMENT_BYTES, 1024 * SEGMENT_BYTES):
        parsed = parse_segment_name(name, size)
        if parsed is not None:
            assert name.removesuffix(".partial").upper() == segment_name(parsed.tli, parsed.segno, size)
            assert parsed.partial == name.endswith(".partial")


def feed_id_file(data: bytes) -> None:
    assert str(parse_id(Path("id"), data)) == data.decode().lstrip("0")


def feed_size(data: bytes) -> None:
    size = parse_size(data.decode(errors="replace"))
    assert parse_size(format_size(size)) == size


def feed_lsn(data: bytes) -> None:
    """LSNs and ids, which raise ValueError by contract."""
    text = data.decode(errors="replace")
    _reads_again(parse_lsn, format_lsn, text)
    _reads_again(TenantId.parse, str, text)


def _reads_again(parse: Callable[[str], object], show: Callable[..., str], text: str) -> None:
    try:
        found = parse(text)
    except ValueError:
        return
    assert parse(show(found)) == found


TARGETS = (
    Target("control-file", feed_control_file, (Malformed,), control_file_seeds),
    Target("scanner", feed_scanner, (Malformed,), wal_seeds),
    Target("verifier", feed_verifier, (Malformed,), wal_seeds),
    Target("record-headers", feed_record_headers, (Malformed,), wal_seeds),
    Target(
        "segment",
        feed_segment,
        (Malformed,),
        lambda: [wal for begin, _, wal in _generated_wal() if not begin % SEGMENT_BYTES],
    ),
    Target(
        "segment-name",
        feed_segment_name,
        (),
        lambda: [b"000000010000000A0000000B", b"0000000100000000000000FF.partial", b"00000002.history"],
    ),
    Target("id-file", feed_id_file, (ConfigError,), lambda: [b"1", b"18446744073709551615", b"7\n"]),
    Target("size", feed_size, (Malformed,), lambda: [b"16MB", b" 1 GB ", b"8192", b"4kB"]),
    Target("lsn", feed_lsn, (), lambda: [b"0/16B3748", b" FFFFFFFF / 0 ", b"0123456789abcdef0123456789ABCDEF"]),
)
