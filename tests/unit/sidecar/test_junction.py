"""The proof that a primary's WAL continues the quorum's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.errors import ConfigError
from walkeeper.lsn import Lsn
from walkeeper.messages import ServerInfo
from walkeeper.sidecar.junction import Junction, Proof
from walkeeper.testing.wal import WalGenerator

SERVER = ServerInfo(150005, 1, 1 << 20)
START = Lsn(0x1000000)


def written(*sizes: int) -> WalGenerator:
    wal = WalGenerator(START, wal_seg_size=SERVER.wal_seg_size)
    for size in sizes:
        wal.logical_message("test", bytes(size))
    return wal


def junction_at(wal: WalGenerator, record: int) -> Junction:
    """The quorum ends behind the record with that number."""
    end = wal.records[record].end
    return Junction(end, wal.wal[: end - START], wal.records[record].start)


@given(st.lists(st.integers(0, 20_000), min_size=2, max_size=6), st.data())
def test_the_continuation_passes_whole_however_it_is_cut(sizes: list[int], data: st.DataObject) -> None:
    wal = written(*sizes)
    junction = junction_at(wal, data.draw(st.integers(0, len(sizes) - 2)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wal.wal)), max_size=6)))
    proof, passed = Proof(junction, SERVER), b""
    for begin, end in zip([0, *cuts], [*cuts, len(wal.wal)], strict=True):
        passed += b"".join(proof.let_through([wal.wal[begin:end]]))
    assert passed == wal.wal[junction.lsn - START :]
    assert proof.may_lead


def test_nothing_passes_before_the_first_records_header_is_there() -> None:
    wal = written(100, 100)
    junction = junction_at(wal, 0)
    proof = Proof(junction, SERVER)
    known = junction.lsn - START
    assert list(proof.let_through([wal.wal[: known + 16]])) == []
    assert list(proof.let_through([wal.wal[known + 16 : known + 24]])) == [wal.wal[known : known + 24]]


def test_equal_bytes_up_to_the_junction_allow_to_lead() -> None:
    wal = written(100, 100)
    junction = junction_at(wal, 1)
    proof = Proof(junction, SERVER)
    proof.let_through([wal.wal[:-1]])
    assert not proof.may_lead
    proof.let_through([wal.wal[-1:]])
    assert proof.may_lead


def test_without_bytes_to_compare_the_first_record_decides() -> None:
    wal = written(100, 100)
    end, last = wal.records[0].end, wal.records[0].start
    proof = Proof(Junction(end, b"", last), SERVER)
    assert not proof.may_lead
    assert proof.let_through([wal.wal[end - START :]])
    assert proof.may_lead


def test_where_no_wal_was_kept_there_is_nothing_to_prove() -> None:
    proof = Proof(Junction(START), SERVER)
    assert proof.may_lead
    assert list(proof.let_through([b"anything"])) == [b"anything"]


def test_other_bytes_before_the_junction_are_refused() -> None:
    wal = written(100, 100)
    other = bytearray(wal.wal)
    other[wal.records[0].start - START + 50] ^= 1
    proof = Proof(junction_at(wal, 1), SERVER)
    with pytest.raises(ConfigError):
        proof.let_through([bytes(other)])


def test_a_first_record_that_follows_another_is_refused() -> None:
    wal = written(100, 100)
    end, last = wal.records[0].end, Lsn(wal.records[0].start + 8)
    proof = Proof(Junction(end, b"", last), SERVER)
    with pytest.raises(ConfigError):
        proof.let_through([wal.wal[end - START :]])


def test_no_record_at_the_junction_is_refused() -> None:
    wal = written(100)
    end, last = wal.records[0].end, wal.records[0].start
    proof = Proof(Junction(end, b"", last), SERVER)
    with pytest.raises(ConfigError):
        proof.let_through([bytes(100)])
