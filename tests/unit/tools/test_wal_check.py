"""What is checked of the WAL that a keeper gives, and what has to be believed."""

from collections.abc import Callable, Sequence

import pytest

from walkeeper.errors import BadWal
from walkeeper.formats.xlog import PAGE_BYTES, Record
from walkeeper.formats.xlog_pages import first_segment_headers
from walkeeper.ids import TimelineNumber
from walkeeper.lsn import Lsn
from walkeeper.messages import ServerInfo
from walkeeper.testing.wal import WalGenerator
from walkeeper.tools.wal_check import WalCheck

MIB = 1 << 20
SERVER = ServerInfo(150005, 77, MIB)
TLI = TimelineNumber(1)
SEGMENT = Lsn(3 * MIB)
"""Where the segment begins that is checked."""

Build = Callable[[WalGenerator], object]


def some(wal: WalGenerator) -> None:
    for size in range(100):
        wal.record(bytes(size))


def to_the_end(wal: WalGenerator) -> None:
    wal.record_up_to(Lsn(wal.lsn - wal.lsn % MIB + MIB))


def generate(*build: Build, start: int = SEGMENT, rem_len: int = 0) -> WalGenerator:
    generated = WalGenerator(Lsn(start), wal_seg_size=MIB, system_id=77, rem_len=rem_len)
    for step in build:
        step(generated)
    return generated


def check(wal: bytes, *, stop_lsn: int = SEGMENT + MIB, piece_bytes: int = 50_000) -> WalCheck:
    """Raises BadWal."""
    checked = WalCheck(SEGMENT, SERVER, TLI)
    for at in range(0, len(wal), piece_bytes):
        checked.feed(wal[at : at + piece_bytes])
    checked.require(Lsn(stop_lsn))
    return checked


def over_the_end(wal: WalGenerator) -> None:
    """A record that ends behind the segment's start."""
    to_the_end_but(wal, 100)
    wal.record(bytes(20_000))


def to_the_end_but(wal: WalGenerator, left: int) -> None:
    wal.record_up_to(Lsn(SEGMENT + MIB - left if wal.lsn >= SEGMENT else SEGMENT - left))


BEFORE = Lsn(SEGMENT - PAGE_BYTES)

LEGAL: dict[str, WalGenerator] = {
    "records to its end": generate(some, to_the_end),
    "the rest of a record": generate(some, to_the_end, rem_len=20_000),
    "the rest of a record and no more": generate(lambda wal: None, rem_len=2 * MIB),
    "a record that goes on": generate(some, over_the_end),
    "a switch": generate(some, WalGenerator.switch),
    "a torn record": generate(some, lambda wal: wal.torn_record(pages=2), some, to_the_end),
    "a torn record at its end": generate(some, lambda wal: to_the_end_but(wal, 96), WalGenerator.torn_record, some),
    "a torn record at its beginning": generate(
        lambda wal: to_the_end_but(wal, 96), WalGenerator.torn_record, some, to_the_end, start=BEFORE
    ),
    "a switch over its beginning, 8 bytes here": generate(
        lambda wal: to_the_end_but(wal, 16), WalGenerator.switch, some, start=BEFORE
    ),
    "a switch over its beginning, 16 bytes here": generate(
        lambda wal: to_the_end_but(wal, 8), WalGenerator.switch, some, start=BEFORE
    ),
}  # fmt: skip


def segment_and_on(generated: WalGenerator) -> bytes:
    return generated.wal[SEGMENT - generated.start :]


def records_of(name: str) -> Sequence[Record]:
    """Those that begin in the segment and can be checked."""
    return [each for each in LEGAL[name].records if SEGMENT <= each.start < SEGMENT + MIB]


@pytest.mark.parametrize("name", LEGAL)
@pytest.mark.parametrize("piece_bytes", [777, 8192, 3 * MIB])
def test_what_postgresql_writes_passes(name: str, piece_bytes: int) -> None:
    wal = segment_and_on(LEGAL[name])
    assert check(wal[:MIB], piece_bytes=piece_bytes).next_lsn == SEGMENT + MIB
    assert check(wal, piece_bytes=piece_bytes).next_lsn == SEGMENT + len(wal)


@pytest.mark.parametrize("name", [name for name in LEGAL if records_of(name)])
def test_a_flipped_bit_in_any_record_that_begins_in_the_segment_is_found(name: str) -> None:
    for record in records_of(name)[::25]:
        wal = bytearray(segment_and_on(LEGAL[name]))
        wal[record.start + 4 - SEGMENT] ^= 1
        with pytest.raises(BadWal) as found:
            check(bytes(wal))
        assert found.value.lsn == record.start


def test_damage_behind_the_segment_is_no_fault_of_the_segment() -> None:
    generated = generate(some, to_the_end, some)
    wal = bytearray(generated.wal)
    wal[MIB + 60] ^= 1
    checked = check(bytes(wal))
    with pytest.raises(BadWal):
        checked.require(generated.lsn)


def test_a_record_that_goes_on_is_open_until_its_end_was_read() -> None:
    generated = LEGAL["a record that goes on"]
    checked = check(generated.wal[:-9])
    assert checked.is_open(Lsn(SEGMENT + MIB))
    checked.feed(generated.wal[-9:-8] + b"\xff" * 8)
    with pytest.raises(BadWal):
        checked.require(Lsn(SEGMENT + MIB))


def test_of_the_rest_of_a_record_only_the_length_is_checked() -> None:
    wal = bytearray(LEGAL["the rest of a record"].wal)
    wal[3000] ^= 1
    check(bytes(wal))
    wal[PAGE_BYTES + 16] ^= 1
    with pytest.raises(BadWal):
        check(bytes(wal))


def check_behind(generated: WalGenerator, wal: bytes) -> None:
    """All of ``wal``, which begins a page before the segment.  Raises BadWal."""
    checked = WalCheck(SEGMENT, SERVER, TLI, wal[:PAGE_BYTES])
    checked.feed(wal[PAGE_BYTES:])
    checked.require(Lsn(generated.lsn))


def test_where_a_record_began_before_the_segment_it_is_checked_if_that_is_there() -> None:
    generated = generate(
        lambda wal: to_the_end_but(wal, 100), lambda wal: wal.record(bytes(20_000)), some, start=BEFORE
    )
    check_behind(generated, generated.wal)
    wal = bytearray(generated.wal)
    wal[PAGE_BYTES + 3000] ^= 1
    with pytest.raises(BadWal):
        check_behind(generated, bytes(wal))


@pytest.mark.parametrize("before", [bytes(PAGE_BYTES), b"\xff" * PAGE_BYTES, b"\xff" * 4 * PAGE_BYTES])
def test_what_is_before_the_segment_may_be_anything(before: bytes) -> None:
    generated = LEGAL["the rest of a record"]
    checked = WalCheck(SEGMENT, SERVER, TLI, before)
    checked.feed(generated.wal)
    checked.require(generated.lsn)
    assert checked.next_lsn == generated.lsn


def test_a_switch_that_was_seen_from_its_beginning_is_no_doubtful_one() -> None:
    generated = LEGAL["a switch over its beginning, 8 bytes here"]
    check_behind(generated, generated.wal)


def test_behind_what_may_be_a_switch_checking_begins_again_with_the_next_segment() -> None:
    generated = generate(lambda wal: to_the_end_but(wal, 8), WalGenerator.switch, some, start=BEFORE)
    wal = bytearray(segment_and_on(generated))
    wal[MIB + 100] ^= 1
    with pytest.raises(BadWal):
        check(bytes(wal), stop_lsn=SEGMENT + 2 * MIB)


@pytest.mark.parametrize("stop", [40, 100, 5000])
def test_wal_may_end_in_the_first_page(stop: int) -> None:
    wal = generate(some).wal[:stop]
    check(wal, stop_lsn=SEGMENT + stop)


# -- where WAL is missing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("blank", [slice(40, PAGE_BYTES), slice(40, MIB), slice(PAGE_BYTES, 3 * PAGE_BYTES)])
def test_a_hole_is_damage(blank: slice) -> None:
    wal = bytearray(generate(some, lambda wal: wal.record(bytes(500_000)), some, to_the_end).wal)
    wal[blank] = bytes(len(wal[blank]))
    with pytest.raises(BadWal):
        check(bytes(wal))


@pytest.mark.parametrize("offset", [48, 5000, 2 * PAGE_BYTES + 48, 5 * PAGE_BYTES + 104])
def test_the_head_that_a_keeper_makes_where_its_wal_begins_in_mid_segment_is_none(offset: int) -> None:
    start = Lsn(SEGMENT + offset)
    head = first_segment_headers(start, server=SERVER, tli=TLI)
    generated = generate(some, to_the_end, start=start)
    for piece_bytes in (1000, 3 * MIB):
        check(head + generated.wal, piece_bytes=piece_bytes)
        check(head, stop_lsn=start, piece_bytes=piece_bytes)
        damaged = bytearray(head + generated.wal)
        damaged[offset + 30] ^= 1
        with pytest.raises(BadWal):
            check(bytes(damaged), piece_bytes=piece_bytes)


def test_a_head_that_no_keeper_makes_is_a_hole() -> None:
    start = Lsn(SEGMENT + 5 * PAGE_BYTES + 104)
    head = bytearray(first_segment_headers(start, server=SERVER, tli=TLI))
    generated = generate(some, to_the_end, start=start)
    for place in (5 * PAGE_BYTES + 50, 5 * PAGE_BYTES + 2):
        other = bytearray(head)
        other[place] ^= 4
        with pytest.raises(BadWal):
            check(bytes(other + generated.wal))
