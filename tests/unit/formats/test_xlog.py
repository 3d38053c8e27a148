"""The record scanner and the verifier, case by case.  Any WAL cut anywhere: tests/properties/test_record_ends.py."""

from collections.abc import Callable
from itertools import pairwise

import pytest

from walkeeper.errors import Malformed
from walkeeper.formats.xlog import PAGE_BYTES, RecordScanner, RecordVerifier, last_record_start
from walkeeper.formats.xlog_pages import PageLayout, encode_page_header
from walkeeper.lsn import Lsn
from walkeeper.testing.wal import WalGenerator, encode_record

MIB = 1 << 20
SEGMENT = Lsn(3 * MIB)
PAGE = Lsn(SEGMENT + PAGE_BYTES)

Build = Callable[[WalGenerator], object]


def generate(start: int, *build: Build, rem_len: int = 0) -> WalGenerator:
    generated = WalGenerator(Lsn(start), wal_seg_size=MIB, rem_len=rem_len)
    for step in build:
        step(generated)
    return generated


def scanner(start: int, *, tli: int = 0, inside_record: bool = False) -> RecordScanner:
    return RecordScanner.start(Lsn(start), pg_major=15, wal_seg_size=MIB, tli=tli, inside_record=inside_record)


def verifier(start: int, *, inside_record: bool = False, prev: Lsn | None = None) -> RecordVerifier:
    return RecordVerifier(Lsn(start), pg_major=15, wal_seg_size=MIB, inside_record=inside_record, prev=prev)


def some(count: int, size: int = 100) -> Build:
    def build(generated: WalGenerator) -> None:
        for _ in range(count):
            generated.record(bytes(size))

    return build


def leaving(size: int) -> Build:
    """Leave ``size`` bytes free on the page."""

    def build(generated: WalGenerator) -> None:
        generated.record_up_to(Lsn(generated.lsn - generated.lsn % PAGE_BYTES + PAGE_BYTES - size))

    return build


to_page_end = leaving(0)

LAYOUTS: dict[str, WalGenerator] = {
    "from mid-page": generate(PAGE + 800, some(100)),
    "from a page start": generate(PAGE, some(100)),
    "from a segment start": generate(SEGMENT, some(100)),
    "over a segment end": generate(SEGMENT - 5000, some(100)),
    "ending with a page": generate(PAGE, some(3), to_page_end, some(3)),
    "ending with a segment": generate(SEGMENT - 5000, some(3), to_page_end, some(3)),
    "over many pages": generate(PAGE, some(3), some(1, 40000), some(3)),
    "over whole segments": generate(SEGMENT - 5000, some(1), some(1, 2 * MIB + 77), some(3)),
    "bare records over page ends": generate(PAGE, *(leaving(8), some(1, 0), leaving(16), some(1, 0)) * 2),
    "a switch": generate(PAGE, some(3), WalGenerator.switch, some(3)),
    "a switch over a page end": generate(PAGE, leaving(8), WalGenerator.switch, some(3)),
    "a switch over a page end later": generate(PAGE, leaving(16), WalGenerator.switch, some(3)),
    "a switch over a segment end": generate(SEGMENT - 5000, leaving(8), WalGenerator.switch, some(3)),
    "a switch at a page end": generate(PAGE, leaving(24), WalGenerator.switch, some(3)),
    "a switch at a segment end": generate(SEGMENT - 5000, leaving(24), WalGenerator.switch, some(3)),
    "torn in its first page": generate(PAGE, some(3), WalGenerator.torn_record, some(3)),
    "torn after two pages": generate(PAGE, some(3), lambda wal: wal.torn_record(pages=2), some(100)),
    "torn at a segment end": generate(SEGMENT - 5000, some(3), WalGenerator.torn_record, some(3)),
}


def cuts(generated: WalGenerator) -> list[int]:
    """Every byte near the ends of pages and of some records, and some in between."""
    wal_bytes = generated.lsn - generated.start
    marks = {0, wal_bytes, *range(-generated.start % PAGE_BYTES, min(wal_bytes, 4 * PAGE_BYTES), PAGE_BYTES)}
    marks |= {record.end - generated.start for record in (*generated.records[:3], *generated.records[-4:])}
    near = {mark + step for mark in marks for step in range(-26, 48)}
    return sorted(cut for cut in near | set(range(0, wal_bytes, wal_bytes // 50)) if 0 <= cut <= wal_bytes)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_record_end_is_right_at_every_cut(name: str) -> None:
    generated = LAYOUTS[name]
    wal = memoryview(generated.wal)
    for cut in cuts(generated):
        scanned = scanner(generated.start).scan([wal[:cut]])
        assert scanned.next_lsn == generated.start + cut
        assert scanned.record_end == generated.record_end_at(generated.start + cut), cut


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_cut_anywhere_changes_nothing_later(name: str) -> None:
    generated = LAYOUTS[name]
    wal = memoryview(generated.wal)
    for cut in cuts(generated):
        scanned = scanner(generated.start).scan([wal[:cut]]).scan([wal[cut:]])
        assert scanned.record_end == generated.records[-1].end, cut


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("piece_bytes", [1, 7, 600, 131072])
def test_the_verifier_yields_every_record_however_the_wal_is_cut_and_is_the_same_if_nobody_wants_them(
    name: str, piece_bytes: int
) -> None:
    generated = LAYOUTS[name]
    wal = generated.wal if piece_bytes > 7 else generated.wal[: 4 * PAGE_BYTES]
    verified, checked, seen = verifier(generated.start), verifier(generated.start), []
    for at in range(0, len(wal), piece_bytes):
        seen += verified.feed(wal[at : at + piece_bytes])
        checked.check(wal[at : at + piece_bytes])
        assert vars(checked) == vars(verified)
    complete = [r for r in generated.records if r.end <= generated.record_end_at(generated.start + len(wal))]
    assert (verified.stopped, seen) == (None, complete)
    assert verified.next_lsn == generated.start + len(wal)


def test_a_scan_returns_a_new_scanner_and_leaves_the_old_one_alone() -> None:
    generated = LAYOUTS["from mid-page"]
    old = scanner(generated.start)
    new = old.scan([generated.wal])
    assert old == scanner(generated.start)
    assert new.next_lsn == generated.lsn
    with pytest.raises(Malformed):
        new.scan([bytes(100)])
    assert new.scan([]) == new


def test_many_small_slices_are_one_large_one() -> None:
    generated = LAYOUTS["over a segment end"]
    slices = [generated.wal[at : at + 5] for at in range(0, len(generated.wal), 5)]
    assert scanner(generated.start).scan(slices) == scanner(generated.start).scan([generated.wal])


def test_large_slices_may_be_cut_in_the_padding_of_a_record() -> None:
    generated = generate(PAGE, some(1000, 101))
    places = [0, *(record.end - 1 - PAGE for record in generated.records[::200]), len(generated.wal)]
    slices = [generated.wal[begin:end] for begin, end in pairwise(places)]
    assert scanner(PAGE).scan(slices).record_end == generated.lsn


def test_what_a_scanner_carries_is_smaller_than_a_page_header() -> None:
    generated = LAYOUTS["over whole segments"]
    scanned = scanner(generated.start)
    for at in range(0, len(generated.wal), 4099):
        scanned = scanned.scan([generated.wal[at : at + 4099]])
        assert len(scanned._carry) < 40


def test_pages_between_are_jumped_over() -> None:
    """Not a promise to anyone, but what makes a scan cheap: see the module's docstring."""
    generated = generate(PAGE, some(300))
    damaged = bytearray(generated.wal)
    damaged[2 * PAGE_BYTES : 2 * PAGE_BYTES + 500] = b"\xff" * 500
    assert scanner(PAGE).scan([bytes(damaged)]).record_end == generated.lsn
    assert verifier(PAGE).feed(bytes(damaged))[-1].end < PAGE + 2 * PAGE_BYTES


# -- where WAL begins ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rem_len", [0, 5, 8, 16, 24, 1000, 8168, 30000])
@pytest.mark.parametrize("start", [PAGE, SEGMENT])
def test_a_start_inside_a_record_skips_its_rest(start: Lsn, rem_len: int) -> None:
    generated = generate(start, some(3), rem_len=rem_len)
    verified = verifier(start, inside_record=True)
    assert verified.feed(generated.wal) == generated.records
    for cut in range(0, len(generated.wal) + 1, 5):
        scanned = scanner(start, inside_record=True).scan([generated.wal[:cut]])
        assert scanned.record_end == generated.record_end_at(start + cut)


def test_without_being_told_a_scanner_does_not_begin_inside_a_record() -> None:
    generated = generate(PAGE, some(100), rem_len=100)
    for wal_bytes in (24, 200, PAGE_BYTES + 10):
        with pytest.raises(Malformed, match="xlp_rem_len"):
            scanner(PAGE).scan([generated.wal[:wal_bytes]])


@pytest.mark.parametrize("seen_bytes", [8, 16])
def test_the_rest_of_what_may_be_a_switch_is_not_guessed(seen_bytes: int) -> None:
    """A switch that began before the WAL cannot be told from the last bytes of a longer record."""
    header = encode_page_header(PageLayout.of(15, MIB), SEGMENT, tli=1, system_id=1, rem_len=seen_bytes)
    wal = header + encode_record(0, 0x40)[-seen_bytes:] + bytes(100)
    with pytest.raises(Malformed, match="XLOG_SWITCH"):
        scanner(SEGMENT, inside_record=True).scan([wal])
    verified = verifier(SEGMENT, inside_record=True)
    assert (verified.feed(wal), verified.record_end) == ([], SEGMENT)
    assert verified.stopped is not None


def test_the_timeline_id_is_what_the_pages_say() -> None:
    generated = WalGenerator(PAGE, wal_seg_size=MIB, tli=7)
    generated.record()
    assert scanner(PAGE).tli == 0
    assert scanner(PAGE).scan([generated.wal]).tli == 7


def test_a_switch_of_the_timeline_id_is_refused() -> None:
    generated = WalGenerator(PAGE, wal_seg_size=MIB, tli=2)
    generated.record()
    with pytest.raises(Malformed, match="from 1 to 2"):
        scanner(PAGE, tli=1).scan([generated.wal])


# -- what PostgreSQL would not write ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["from mid-page", "over many pages", "torn in its first page"])
def test_a_page_of_zeroes_is_no_wal_without_a_switch(name: str) -> None:
    generated = LAYOUTS[name]
    blank = -generated.start % PAGE_BYTES or PAGE_BYTES
    wal = generated.wal[:blank] + bytes(PAGE_BYTES)
    with pytest.raises(Malformed, match="xlp_magic"):
        scanner(generated.start).scan([wal])


def test_zeroes_where_a_record_should_start_are_malformed() -> None:
    generated = LAYOUTS["from mid-page"]
    with pytest.raises(Malformed, match="xl_tot_len is 0"):
        scanner(generated.start).scan([generated.wal + bytes(8)])


def test_the_padding_behind_a_switch_is_not_looked_at() -> None:
    generated = generate(PAGE, WalGenerator.switch)
    noise = generated.wal[:48] + encode_record(0, 0) * ((len(generated.wal) - 48) // 24) + b"\xff" * 8
    scanned = scanner(PAGE).scan([noise[:48]])
    assert (scanned.next_lsn, scanned.record_end) == (PAGE + 48, SEGMENT + MIB)
    assert scanned.scan([noise[48:]]).record_end == SEGMENT + MIB
    verified = verifier(PAGE)
    assert (verified.feed(noise), verified.stopped) == (generated.records, None)


def test_the_rest_of_an_open_record_must_be_as_long_as_is_missing() -> None:
    generated = generate(PAGE, some(1, 20000))
    other = generate(PAGE, some(1, 20008))
    scanned = scanner(PAGE).scan([generated.wal[:PAGE_BYTES]])
    with pytest.raises(Malformed, match="xlp_rem_len"):
        scanned.scan([other.wal[PAGE_BYTES:]])


def test_a_record_that_goes_on_must_be_continued() -> None:
    scanned = scanner(PAGE).scan([generate(PAGE, some(1, 20000)).wal[:PAGE_BYTES]])
    with pytest.raises(Malformed, match="xlp_rem_len"):
        scanned.scan([generate(PAGE + PAGE_BYTES, some(1)).wal])


# -- what only the verifier sees ----------------------------------------------------------------------------


def test_the_verifier_stops_at_the_zeroes_behind_the_wal() -> None:
    generated = LAYOUTS["a switch"]
    verified = verifier(generated.start)
    assert verified.feed(generated.wal + bytes(PAGE_BYTES)) == generated.records
    assert verified.stopped is not None
    assert verified.record_end == generated.records[-1].end
    assert verified.feed(generated.wal) == []


@pytest.mark.parametrize("name", ["from mid-page", "over many pages", "a switch over a page end"])
def test_one_flipped_bit_ends_the_wal_before_its_record(name: str) -> None:
    generated = LAYOUTS[name]
    for record in generated.records[:5]:
        for offset in (9, 16, 22):
            place = record.start - generated.start + offset
            if (record.start + offset) // PAGE_BYTES != record.start // PAGE_BYTES:
                continue
            wal = bytearray(generated.wal)
            wal[place] ^= 4
            verified, checked = verifier(generated.start), verifier(generated.start)
            verified.feed(bytes(wal))
            checked.check(bytes(wal))
            assert verified.stopped is not None
            assert (checked.record_end, str(checked.stopped)) == (verified.record_end, str(verified.stopped))
            assert verified.record_end <= record.start < verified.record_end + 48


def test_a_stale_record_with_a_good_checksum_is_caught_by_its_xl_prev() -> None:
    generated = generate(PAGE, some(2))
    stale = generate(generated.lsn, some(1))
    verified = verifier(PAGE)
    assert verified.feed(generated.wal + stale.wal) == generated.records
    assert verified.stopped is not None and "xl_prev" in str(verified.stopped)


def test_the_first_record_must_point_to_the_record_before_if_that_is_known() -> None:
    generated = generate(PAGE, some(1))
    assert verifier(PAGE, prev=Lsn(0)).feed(generated.wal) == generated.records
    assert verifier(PAGE, prev=Lsn(8)).feed(generated.wal) == []


def test_no_record_points_forward() -> None:
    generated = WalGenerator(PAGE, wal_seg_size=MIB, prev=Lsn(PAGE + 24))
    generated.record()
    assert verifier(PAGE).feed(generated.wal) == []


# -- the record before a junction ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_start_of_the_last_record_is_found_or_lies_before_the_window(name: str) -> None:
    generated = LAYOUTS[name]
    wal, first_page = memoryview(generated.wal), -generated.start % PAGE_BYTES
    for record in generated.records[-4:]:
        pages = range(first_page, record.end - generated.start + 1, PAGE_BYTES)
        for begin in {*pages[:2], *pages[-9:]}:
            window = wal[begin : record.end - generated.start]
            found = last_record_start(window, record.end, pg_major=15, wal_seg_size=MIB)
            in_sight = record.start >= generated.start + begin and not splits_a_switch(generated, begin)
            assert found == (record.start if in_sight else None)


def splits_a_switch(generated: WalGenerator, begin: int) -> bool:
    """Whether the page ``begin`` bytes into the WAL begins inside an XLOG_SWITCH."""
    page = generated.start + begin
    return any(
        record.header.is_switch and record.start < page <= record.start + 16 for record in generated.records
    )


def test_where_no_record_ends_there_is_none_to_be_found() -> None:
    generated = LAYOUTS["from a page start"]
    record = generated.records[-1]
    for missing in (8, 16, 80):
        end = Lsn(record.end - missing)
        with pytest.raises(Malformed, match="ends at"):
            last_record_start(generated.wal[:-missing], end, pg_major=15, wal_seg_size=MIB)


def test_where_a_record_is_open_none_ends() -> None:
    window = generate(PAGE, some(1, 1000)).wal[:512]
    with pytest.raises(Malformed, match="ends at"):
        last_record_start(window, Lsn(PAGE + 512), pg_major=15, wal_seg_size=MIB)


def test_a_damaged_window_is_malformed() -> None:
    generated = LAYOUTS["from a page start"]
    damaged = bytearray(generated.wal)
    damaged[200] ^= 1
    with pytest.raises(Malformed, match="CRC"):
        last_record_start(bytes(damaged), generated.lsn, pg_major=15, wal_seg_size=MIB)


def test_a_window_whose_first_page_has_no_header_is_too_short_unless_a_segment_begins_there() -> None:
    """Behind an XLOG_SWITCH pages have none."""
    generated = LAYOUTS["from a page start"]
    damaged = bytearray(generated.wal)
    damaged[0] ^= 1
    assert last_record_start(bytes(damaged), generated.lsn, pg_major=15, wal_seg_size=MIB) is None
    generated = generate(SEGMENT, some(3, 100))
    damaged = bytearray(generated.wal)
    damaged[0] ^= 1
    with pytest.raises(Malformed):
        last_record_start(bytes(damaged), generated.lsn, pg_major=15, wal_seg_size=MIB)
