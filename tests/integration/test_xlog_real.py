"""Record scanner and verifier against WAL that PostgreSQL wrote, judged by pg_waldump."""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import postgres
from walkeeper.formats.segments import parse_segment_name, segment_name
from walkeeper.formats.xlog import PAGE_BYTES, Record, RecordScanner, RecordVerifier
from walkeeper.formats.xlog_pages import PageLayout
from walkeeper.lsn import Lsn, format_lsn, parse_lsn
from walkeeper.testing.wal import XLOG_OVERWRITE_CONTRECORD, WalGenerator

NewCluster = Callable[[str], postgres.Cluster]


@dataclass(frozen=True, slots=True)
class RealWal:
    """All WAL of a cluster from a segment start on, as bytes."""

    start: Lsn
    wal: bytes
    pg_major: int
    wal_seg_size: int

    def verifier(self) -> RecordVerifier:
        return RecordVerifier(
            self.start, pg_major=self.pg_major, wal_seg_size=self.wal_seg_size, inside_record=True
        )

    def records(self) -> list[Record]:
        verifier = self.verifier()
        records = verifier.feed(self.wal)
        assert verifier.stopped is not None, "the zeroes behind the end must stop it"
        return records


def read_wal(cluster: postgres.Cluster, wal_seg_size: int) -> RealWal:
    """The segments in pg_wal up to the one written last: what lies behind is old or empty."""
    names = sorted(path.name for path in cluster.wal.iterdir() if parse_segment_name(path.name, wal_seg_size))
    first = parse_segment_name(names[0], wal_seg_size)
    assert first is not None
    wal = b"".join((cluster.wal / name).read_bytes() for name in names)
    return RealWal(Lsn(first.segno * wal_seg_size), wal, cluster.binaries.major, wal_seg_size)


def waldump_starts(cluster: postgres.Cluster, wal: RealWal) -> list[Lsn]:
    """Where pg_waldump sees records start."""
    said = cluster.run(
        "pg_waldump", "-p", str(cluster.wal), "-s", format_lsn(first_start(wal)), check=False, seconds=120
    )
    return [parse_lsn(found) for found in re.findall(r"lsn: ([0-9A-F]+/[0-9A-F]+), prev", said.stdout)]


def first_start(wal: RealWal) -> Lsn:
    return wal.records()[0].start


@pytest.fixture(params=[1, 16])
def written(request: pytest.FixtureRequest, new_cluster: NewCluster) -> tuple[postgres.Cluster, RealWal]:
    """A cluster that was killed after writing WAL of all kinds, with segments of 1 and of 16 MiB."""
    cluster = new_cluster("writer")
    cluster.initdb(segment_mib=request.param)
    cluster.configure(wal_level="logical", autovacuum="off", wal_keep_size="1GB", wal_recycle="off")
    cluster.start()
    cluster.sql("CREATE TABLE t (i int, s text)")
    for size in (10, 3000, 9000, 200000):
        cluster.sql(f"SELECT pg_logical_emit_message(false, 'p', repeat('x', {size}))")
    cluster.sql("INSERT INTO t SELECT g, repeat('a', 100 + g % 500) FROM generate_series(1, 20000) g")
    cluster.sql("SELECT pg_switch_wal()")
    cluster.sql("INSERT INTO t SELECT g, repeat('b', 300) FROM generate_series(1, 2000) g")
    cluster.sql("SELECT pg_switch_wal()")
    cluster.sql("INSERT INTO t VALUES (1, 'z')")
    cluster.kill()
    return cluster, read_wal(cluster, request.param << 20)


def test_verifier_and_scanner_see_the_records_pg_waldump_sees(written: tuple[postgres.Cluster, RealWal]) -> None:
    cluster, wal = written
    records = wal.records()
    assert [record.start for record in records] == waldump_starts(cluster, wal)
    assert sum(record.header.is_switch for record in records) == 2
    scan_in_random_pieces(wal, records)


def scan_in_random_pieces(wal: RealWal, records: list[Record]) -> None:
    """The scanner's end must be that of the last record whose bytes it has seen, after each piece."""
    stream = memoryview(wal.wal)[: records[-1].end - wal.start]
    scanner = RecordScanner.start(
        wal.start, pg_major=wal.pg_major, wal_seg_size=wal.wal_seg_size, inside_record=True
    )
    verifier, at, dice = wal.verifier(), 0, random.Random(1)
    while at < len(stream):
        piece = stream[at : at + dice.choice((1, 24, 600, PAGE_BYTES, 131072))]
        scanner, at = scanner.scan([piece]), at + len(piece)
        verifier.feed(piece)
        assert scanner.record_end == verifier.record_end
    assert scanner.record_end == records[-1].end


def test_a_record_that_a_crash_tore_is_dropped_where_postgres_goes_on(new_cluster: NewCluster) -> None:
    cluster = new_cluster("torn")
    cluster.initdb(segment_mib=1)
    cluster.configure(wal_keep_size="1GB", autovacuum="off")
    cluster.start()
    cluster.sql("CHECKPOINT")
    torn_at = parse_lsn(cluster.sql("SELECT pg_current_wal_insert_lsn()"))
    cluster.sql("SELECT pg_logical_emit_message(false, 'p', repeat('x', 100000))")
    cluster.sql("CREATE TABLE flushed ()")
    cluster.kill()
    missing = Lsn(torn_at - torn_at % PAGE_BYTES + 3 * PAGE_BYTES)
    lose_wal_from(cluster, missing, wal_seg_size=1 << 20)
    cluster.start()
    cluster.sql("CREATE TABLE t ()")
    cluster.kill()
    wal = read_wal(cluster, 1 << 20)
    records = wal.records()
    (replaced,) = [r for r in records if (r.header.rmid, r.header.info) == (0, XLOG_OVERWRITE_CONTRECORD)]
    assert replaced.start - replaced.start % PAGE_BYTES == missing
    assert records[-1].start > replaced.start
    scan_in_random_pieces(wal, records)


def lose_wal_from(cluster: postgres.Cluster, lsn: Lsn, *, wal_seg_size: int) -> None:
    """Make the disk forget all WAL from ``lsn`` on."""
    path = cluster.wal / segment_name(1, lsn // wal_seg_size, wal_seg_size)
    with path.open("r+b") as file:
        file.seek(lsn % wal_seg_size)
        file.write(bytes(wal_seg_size - lsn % wal_seg_size))
    for later in sorted(cluster.wal.iterdir()):
        if parse_segment_name(later.name, wal_seg_size) and later.name > path.name:
            later.unlink()


def test_pg_waldump_reads_what_the_generator_writes(work_directory: Path, pg_binaries: postgres.Binaries) -> None:
    account = postgres.choose_account()
    start = Lsn(3 << 20)
    generated = WalGenerator(start, pg_major=pg_binaries.major, wal_seg_size=1 << 20)
    for size in (0, 10, 300, 9000, 1_500_000):
        generated.logical_message("prefix", bytes(size))
    generated.torn_record(pages=2)
    generated.record()
    generated.record_up_to(Lsn(generated.lsn - generated.lsn % PAGE_BYTES + PAGE_BYTES))
    generated.switch()
    generated.logical_message("prefix", b"in the next segment")
    wal = generated.wal + bytes(-len(generated.wal) % generated.layout.wal_seg_size)
    for offset in range(0, len(wal), 1 << 20):
        name = segment_name(1, (start + offset) >> 20, 1 << 20)
        (work_directory / name).write_bytes(wal[offset : offset + (1 << 20)])
    account.own(work_directory)
    command = [pg_binaries.program("pg_waldump"), "-p", str(work_directory), "-s", format_lsn(start + 40)]
    said = account.run(command, cwd=work_directory, check=False).stdout
    starts = [parse_lsn(found) for found in re.findall(r"lsn: ([0-9A-F]+/[0-9A-F]+), prev", said)]
    assert starts == [record.start for record in generated.records]


def test_the_magic_is_the_one_this_postgres_writes(pg: postgres.Cluster) -> None:
    wal = read_wal(pg, 16 << 20)
    layout = PageLayout.of(pg.binaries.major, 16 << 20)
    assert layout.read_page_header(wal.wal, 0, wal.start).tli == 1
