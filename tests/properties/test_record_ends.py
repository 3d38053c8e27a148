"""Any WAL, cut anywhere: the scanner, the verifier and the generator that wrote it agree where records end."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from hypothesis import assume, given
from hypothesis import strategies as st

from walkeeper.errors import Malformed
from walkeeper.formats.xlog import (
    LONG_HEADER_BYTES,
    MAGICS,
    PAGE_BYTES,
    RECORD_HEADER_BYTES,
    Record,
    RecordScanner,
    RecordVerifier,
    last_record_start,
)
from walkeeper.formats.xlog_pages import PageLayout, encode_page_header
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.testing.wal import WalGenerator

MIB = 1 << 20
SEGMENT = 5 * MIB
LAST_PAGE = SEGMENT - PAGE_BYTES


@dataclass(frozen=True, slots=True)
class Case:
    """Generated WAL, and whether it begins inside a record."""

    generated: WalGenerator
    pg_major: int
    inside_record: bool

    def scanner(self) -> RecordScanner:
        return RecordScanner.start(
            self.generated.start, pg_major=self.pg_major, wal_seg_size=MIB, inside_record=self.inside_record
        )

    def verifier(self) -> RecordVerifier:
        return RecordVerifier(
            self.generated.start,
            pg_major=self.pg_major,
            wal_seg_size=MIB,
            inside_record=self.inside_record,
            prev=INVALID_LSN,
        )


page_starts = st.sampled_from([SEGMENT, SEGMENT + PAGE_BYTES, LAST_PAGE])
mid_pages = st.integers(5, PAGE_BYTES // 8 - 1).map(lambda eighth: 8 * eighth)
starts = st.builds(lambda page, offset: Lsn(page + offset), page_starts, st.just(0) | mid_pages)
# How much of a page a record leaves free: where the next one is split in every possible way.
rests = st.sampled_from([0, 8, 16, 24, 32, 40, 48])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    start, pg_major = draw(starts), draw(st.sampled_from(list(MAGICS)))
    inside_record = start % PAGE_BYTES == 0 and draw(st.booleans())
    rem_len = draw(st.sampled_from([0, 1, 8, 13, 16, 24, 100, 8152, 8168, 9000, 30000])) if inside_record else 0
    generated = WalGenerator(start, pg_major=pg_major, wal_seg_size=MIB, rem_len=rem_len)
    for _ in range(draw(st.integers(1, 12))):
        write_something(draw, generated)
    return Case(generated, pg_major, inside_record)


def write_something(draw: st.DrawFn, generated: WalGenerator) -> None:
    kind = draw(
        st.sampled_from(["small", "small", "small", "large", "to page end", "to segment end", "switch", "torn"])
    )
    if kind == "small":
        generated.record(bytes(draw(st.integers(0, 600))))
    elif kind == "large":
        generated.record(bytes(draw(st.sampled_from([8000, 20000, 100000, MIB + 5000]))))
    elif kind == "to page end":
        fill(generated, draw(st.sampled_from([1, 2, 4])) * PAGE_BYTES, draw(rests))
    elif kind == "to segment end":
        fill(generated, MIB, draw(rests))
    elif kind == "switch":
        generated.switch()
    else:
        generated.torn_record(pages=draw(st.integers(0, 2)))


def fill(generated: WalGenerator, unit: int, rest: int) -> None:
    """A record that leaves ``rest`` bytes up to a multiple of ``unit``; a bare one if there is no room for that."""
    end = generated.lsn - generated.lsn % unit + unit - rest
    if end - generated.lsn >= 64:
        generated.record_up_to(Lsn(end))
    else:
        generated.record()


def cuts(generated: WalGenerator) -> st.SearchStrategy[int]:
    """LSNs in the WAL, most of them close to where something begins or ends."""
    records = generated.records
    marks: list[int] = [generated.start, *(r.start for r in records), *(r.end for r in records)]
    marks += [mark - mark % PAGE_BYTES for mark in marks]
    near = st.builds(lambda mark, step: mark + step, st.sampled_from(marks), st.integers(-48, 48))
    inside = st.integers(generated.start, generated.lsn)
    return inside | near.map(lambda lsn: min(max(lsn, generated.start), generated.lsn))


def batches(case: Case, data: st.DataObject, wal: bytes | None = None) -> Iterator[list[memoryview]]:
    """The WAL, or ``wal`` in its place, as it may arrive: batches of slices, each cut anywhere."""
    generated = case.generated
    rest, begin = memoryview(generated.wal if wal is None else wal), generated.start
    places = sorted(data.draw(st.lists(cuts(generated), max_size=8)))
    batch: list[memoryview] = []
    for place in (*places, generated.lsn):
        batch.append(rest[: place - begin])
        rest = rest[place - begin :]
        begin = Lsn(place)
        if place == generated.lsn or data.draw(st.booleans()):
            yield batch
            batch = []


@given(cases(), st.data())
def test_scanner_verifier_and_generator_agree_after_every_batch(case: Case, data: st.DataObject) -> None:
    scanner, verifier = case.scanner(), case.verifier()
    seen: list[Record] = []
    for batch in batches(case, data):
        scanner = scanner.scan(batch)
        for piece in batch:
            seen += verifier.feed(piece)
        expected = case.generated.record_end_at(scanner.next_lsn)
        assert (verifier.stopped, verifier.next_lsn) == (None, scanner.next_lsn)
        assert (scanner.record_end, verifier.record_end) == (expected, expected)
    assert seen == case.generated.records


@given(cases(), st.data())
def test_what_is_behind_a_switch_changes_nothing_wherever_it_is_cut(case: Case, data: st.DataObject) -> None:
    case.generated.switch()
    case.generated.record()
    wal = litter_behind_switches(case, data)
    scanner, verifier = case.scanner(), case.verifier()
    seen: list[Record] = []
    for batch in batches(case, data, wal):
        scanner = scanner.scan(batch)
        for piece in batch:
            seen += verifier.feed(piece)
        assert scanner.record_end == case.generated.record_end_at(scanner.next_lsn)
    assert seen == case.generated.records


def litter_behind_switches(case: Case, data: st.DataObject) -> bytes:
    """The WAL with anything but pages of their place behind switches: noise, or pages of a segment long ago."""
    generated = case.generated
    layout = PageLayout.of(case.pg_major, MIB)
    wal = bytearray(generated.wal)
    noise = data.draw(st.binary(min_size=1, max_size=50))
    for record in generated.records:
        begin = record.start + RECORD_HEADER_BYTES + LONG_HEADER_BYTES
        if record.header.is_switch and begin < record.end:
            litter = noise * (MIB // len(noise) + 1)
            wal[begin - generated.start : record.end - generated.start] = litter[: record.end - begin]
            for page in range(begin + -begin % PAGE_BYTES, record.end, data.draw(st.integers(1, 9)) * PAGE_BYTES):
                header = encode_page_header(layout, page - MIB, tli=1, system_id=1)
                wal[page - generated.start : page - generated.start + len(header)] = header
    return bytes(wal)


@given(cases(), st.data())
def test_one_scan_up_to_any_cut_finds_the_last_end(case: Case, data: st.DataObject) -> None:
    generated = case.generated
    cut = data.draw(cuts(generated))
    scanner = case.scanner().scan([memoryview(generated.wal)[: cut - generated.start]])
    assert (scanner.next_lsn, scanner.record_end) == (cut, generated.record_end_at(cut))


@given(cases(), st.data())
def test_a_scanner_may_begin_at_any_record_end(case: Case, data: st.DataObject) -> None:
    generated = case.generated
    begin = data.draw(st.sampled_from(generated.records)).end
    cut = max(begin, data.draw(cuts(generated)))
    scanner = RecordScanner.start(begin, pg_major=case.pg_major, wal_seg_size=MIB)
    scanner = scanner.scan([memoryview(generated.wal)[begin - generated.start : cut - generated.start]])
    assert scanner.record_end == max(begin, generated.record_end_at(cut))


@given(cases(), st.data())
def test_the_start_of_a_record_is_found_from_its_end(case: Case, data: st.DataObject) -> None:
    generated = case.generated
    record = data.draw(st.sampled_from(generated.records))
    first_page = generated.start + -generated.start % PAGE_BYTES
    assume(first_page <= record.end)
    begin = data.draw(st.sampled_from(range(first_page, record.end + 1, PAGE_BYTES)))
    wal = litter_behind_switches(case, data) if data.draw(st.booleans()) else generated.wal
    window = memoryview(wal)[begin - generated.start : record.end - generated.start]
    found = last_record_start(window, record.end, pg_major=case.pg_major, wal_seg_size=MIB)
    splits_a_switch = any(r.header.is_switch and r.start < begin <= r.start + 16 for r in generated.records)
    assert found == (record.start if record.start >= begin and not splits_a_switch else None)


@given(cases(), st.data())
def test_damaged_wal_never_ends_further_on_and_never_breaks_the_scanner(case: Case, data: st.DataObject) -> None:
    """The scanner may overlook damage, the verifier may not; neither raises anything but Malformed."""
    wal = bytearray(case.generated.wal)
    place = data.draw(st.integers(0, len(wal) - 1))
    wal[place] ^= data.draw(st.integers(1, 255))
    with suppress(Malformed):
        assert case.scanner().scan([bytes(wal)]).record_end % 8 == 0
    verifier = case.verifier()
    seen = verifier.feed(bytes(wal))
    assert seen == case.generated.records[: len(seen)]
