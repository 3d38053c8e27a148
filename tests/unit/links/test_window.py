"""The newest WAL, in memory."""

from hypothesis import given
from hypothesis import strategies as st

from walkeeper.links.window import SLICE_COST_BYTES, Window
from walkeeper.lsn import LSN_MAX, Lsn

START = Lsn(1000)


def window_of(*pieces: bytes) -> Window:
    window = Window(START)
    for piece in pieces:
        window.append(piece)
    return window


def read(window: Window, begin: int, end: int) -> bytes:
    return b"".join(window.slices(Lsn(begin), Lsn(end)))


@given(st.lists(st.binary(max_size=20), max_size=20), st.data())
def test_any_range_reads_as_it_was_written(pieces: list[bytes], data: st.DataObject) -> None:
    window, whole = window_of(*pieces), b"".join(pieces)
    begin = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(begin, len(whole)))
    assert window.end_lsn == START + len(whole)
    assert read(window, START + begin, START + end) == whole[begin:end]


def test_slices_are_views_of_what_was_appended() -> None:
    piece = b"0123456789"
    (view,) = window_of(piece).slices(Lsn(START + 2), Lsn(START + 5))
    assert view.obj is piece


@given(st.lists(st.integers(1, 50), max_size=3000), st.integers(0, 3000), st.integers(0, 1_000_000))
def test_shrinking_drops_the_oldest_and_keeps_the_rest_readable(sizes: list[int], below: int, most: int) -> None:
    whole = bytes(place % 251 for place in range(sum(sizes)))
    window, at = Window(START), 0
    for size in sizes:
        window.append(whole[at : at + size])
        at += size
    window.shrink(most, Lsn(START + below))
    assert window.tail_lsn <= max(START + below, START)
    assert read(window, window.tail_lsn, window.end_lsn) == whole[window.tail_lsn - START :]
    uncommitted = window.tail_lsn + 50 > START + below
    assert window.cost_bytes <= most or uncommitted


def test_what_is_not_committed_is_kept_however_full_the_window_is() -> None:
    window = window_of(b"a" * 100, b"b" * 100)
    window.shrink(0, START)
    assert window.tail_lsn == START
    window.shrink(0, Lsn(START + 199))
    assert window.tail_lsn == START + 100
    window.shrink(0, LSN_MAX)
    assert (window.tail_lsn, window.cost_bytes) == (START + 200, 0)


def test_small_slices_cost_more_than_their_bytes() -> None:
    assert window_of(b"ab", b"c").cost_bytes == 3 + 2 * SLICE_COST_BYTES


def test_an_empty_window_can_be_moved() -> None:
    window = Window()
    window.start_at(START)
    window.append(b"abc")
    assert read(window, START, START + 3) == b"abc"
