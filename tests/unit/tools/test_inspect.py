"""``walkeeper inspect`` on data directories that are well, damaged, or none, as whoever runs it sees it."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from crash_points import SEGMENT, SERVER, START, TLI, TTID
from walkeeper.acceptor.effects import InitializeFirstSegment, SyncWal, TruncateWal, WriteWal
from walkeeper.daemon.cli import run_command
from walkeeper.formats.control_file import ControlFile, encode_control_file
from walkeeper.formats.segments import segment_name
from walkeeper.ids import NodeId, TenantTimelineId, TimelineId
from walkeeper.lsn import Lsn, format_lsn
from walkeeper.membership import Configuration, Generation, Member
from walkeeper.storage.data_directory import claim
from walkeeper.storage.disk import LookingDisk, OsDisk
from walkeeper.storage.recovery import CONTROL_FILE
from walkeeper.storage.store import TimelineStore
from walkeeper.terms import Term, TermHistory
from walkeeper.testing.wal import WalGenerator
from walkeeper.tools.inspect import lock_owner
from walkeeper.tools.inspect_findings import judge
from walkeeper.tools.inspect_report import ProgressLine
from walkeeper.tools.inspect_timeline import look

OTHER = TenantTimelineId(TTID.tenant_id, TimelineId(b"o" * 16))
WAL_BYTES = 3 * SEGMENT + SEGMENT // 2
SEGMENTS = 4


@dataclass(frozen=True, slots=True)
class Kept:
    """A timeline in a data directory that no daemon uses."""

    data: Path
    control_file: ControlFile
    wal: WalGenerator

    @property
    def directory(self) -> Path:
        ttid = self.control_file.ttid
        return self.data / str(ttid.tenant_id) / str(ttid.timeline_id)

    def segment(self, number: int) -> Path:
        """The file of the n-th segment from the first, under the name it has."""
        name = segment_name(TLI, START // SEGMENT + number, SEGMENT)
        path = self.directory / name
        return path if path.exists() else path.with_name(f"{name}.partial")

    def save(self, **changes: object) -> None:
        changed = replace(self.control_file, **changes)  # type: ignore[arg-type]
        (self.directory / CONTROL_FILE).write_bytes(encode_control_file(changed))

    def damage(self, lsn: int, wrong: bytes = b"\xff\xff\xff\xff") -> tuple[str, int]:
        """Overwrite WAL; in which file, and at which byte."""
        path = self.segment(lsn // SEGMENT - START // SEGMENT)
        with path.open("r+b") as file:
            file.seek(lsn % SEGMENT)
            file.write(wrong)
        return path.name, lsn % SEGMENT


def keep(data: Path, ttid: TenantTimelineId = TTID, *, start: Lsn = START, inside_record: bool = False) -> Kept:
    """Make a timeline with three segments of WAL and a half, committed but for the last nine records."""
    wal = WalGenerator(start, pg_major=15, wal_seg_size=SEGMENT, rem_len=20_000 if inside_record else 0)
    while wal.lsn < start + WAL_BYTES:
        wal.record(b"Z" * (700 + 9973 * (len(wal.records) % 6)))
    commit_lsn = wal.records[-10].end
    history = TermHistory.of((1, start), (3, start + 8))
    control_file = ControlFile(
        ttid, SERVER, term=Term(3), term_history=history, timeline_start_lsn=start, local_start_lsn=start,
        commit_lsn=commit_lsn,
    )  # fmt: skip
    data.mkdir(exist_ok=True)
    disk = OsDisk(sync=False)
    with closing(claim(disk, data, NodeId(3))) as directory:
        directory.create(replace(control_file, commit_lsn=Lsn(0)))
        store = TimelineStore(disk, directory.directory_of(ttid))
        store.recover()
        for effect in (
            InitializeFirstSegment(start, TLI),
            TruncateWal(start, TLI),
            WriteWal(start, (wal.wal,), TLI),
        ):
            store.perform(effect)
        store.perform(SyncWal())
        store.close()
    kept = Kept(data, control_file, wal)
    kept.save()
    return kept


@dataclass(frozen=True, slots=True)
class Said:
    """How the command ended."""

    code: int
    out: str
    err: str

    @property
    def timeline(self) -> dict[str, Any]:
        (found,) = self.document["timelines"]
        assert isinstance(found, dict)
        return found

    @property
    def document(self) -> dict[str, Any]:
        document = json.loads(self.out)
        assert isinstance(document, dict)
        return document

    @property
    def places(self) -> list[tuple[str, int | None]]:
        return [(problem["file"], problem["offset"]) for problem in self.timeline["problems"]]


Inspect = Callable[..., Said]


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str]) -> Inspect:
    """Run the command: with JSON as its answer, or as text."""

    def run(path: Path, *flags: str, text: bool = False) -> Said:
        code = run_command(["inspect", "-D", str(path), *([] if text else ["--json"]), *flags], {})
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return run


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return keep(tmp_path / "data")


def snapshot(top: Path) -> dict[str, tuple[bytes, int]]:
    """All files, their content and when they were last written."""
    return {
        str(path.relative_to(top)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(top.rglob("*"))
        if path.is_file()
    }


# -- all is well --------------------------------------------------------------------------------------------


def test_a_timeline_that_is_well_is_ok_and_its_last_record_is_told(kept: Kept, inspect: Inspect) -> None:
    said = inspect(kept.data)
    assert (said.code, said.err) == (0, "")
    assert said.document["ok"] is said.timeline["ok"] is True
    assert said.document["node_id"] == 3
    assert said.document["in_use_by_pid"] is None
    (stretch,) = said.timeline["wal"]
    last = kept.wal.records[-1]
    assert stretch["start_lsn"] == format_lsn(START)
    assert stretch["end_lsn"] == format_lsn(kept.wal.lsn)
    assert stretch["records"] == len(kept.wal.records)
    assert stretch["last_record"] == {
        "lsn": format_lsn(last.start),
        "prev_lsn": format_lsn(kept.wal.records[-2].start),
        "resource_manager": "XLOG",
        "length": last.header.total_bytes,
        "xid": 0,
    }


def test_the_control_file_and_the_segments_are_told(kept: Kept, inspect: Inspect) -> None:
    timeline = inspect(kept.data).timeline
    assert timeline["tenant_id"] == str(TTID.tenant_id)
    assert timeline["control_file"]["version"] == 9
    assert timeline["control_file"]["checksum_holds"] is True
    assert timeline["control_file"]["content"]["commit_lsn"] == format_lsn(kept.control_file.commit_lsn)
    assert timeline["segments"] == [
        {"name": kept.segment(number).name, "size": SEGMENT} for number in range(SEGMENTS)
    ]
    assert timeline["segment_bytes"] == SEGMENT
    assert timeline["holes"] == timeline["other_files"] == timeline["spares"] == []


def test_people_are_told_the_same(kept: Kept, inspect: Inspect) -> None:
    kept.save(configuration=Configuration(Generation(4), (Member(NodeId(3), "k3", 5454),)), created_at=(1, 2))
    said = inspect(kept.data, text=True)
    assert said.code == 0
    last = kept.wal.records[-1]
    for part in (
        f"timeline {TTID}: ok",
        "version 10, checksum ok",
        "PostgreSQL 15.5, system id 4660, segments of 1MB",
        f"1:{format_lsn(START)} 3:{format_lsn(START + 8)}",
        "generation 4: 3 at k3:5454",
        f"{'commit':17} {format_lsn(kept.control_file.commit_lsn)}",
        f"4: {kept.segment(0).name} to {kept.segment(3).name}",
        f"{len(kept.wal.records)} verify, from {format_lsn(START)} to {format_lsn(kept.wal.lsn)}",
        f"{format_lsn(last.start)}, XLOG, {last.header.total_bytes} bytes",
    ):
        assert part in said.out


def test_nothing_is_written_and_the_lock_stays_free(kept: Kept, inspect: Inspect) -> None:
    before = snapshot(kept.data)
    inspect(kept.data)
    assert snapshot(kept.data) == before


def test_a_torn_tail_is_how_wal_ends(kept: Kept, inspect: Inspect) -> None:
    kept.damage(kept.wal.records[-1].start + 100)
    said = inspect(kept.data)
    assert said.code == 0
    assert said.timeline["wal"][0]["end_lsn"] == format_lsn(kept.wal.records[-2].end)
    assert said.timeline["remarks"] == []


def test_a_timeline_without_wal_is_well(tmp_path: Path, inspect: Inspect) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with closing(claim(OsDisk(sync=False), data, NodeId(1))) as directory:
        directory.create(ControlFile(TTID, SERVER))
    said = inspect(data)
    assert said.code == 0
    assert said.timeline["wal"] == said.timeline["segments"] == []


def test_wal_that_begins_inside_a_record_is_well(tmp_path: Path, inspect: Inspect) -> None:
    kept = keep(tmp_path / "data", start=Lsn(5 * SEGMENT), inside_record=True)
    said = inspect(kept.data)
    assert said.code == 0
    (stretch,) = said.timeline["wal"]
    assert (stretch["records"], stretch["end_lsn"]) == (len(kept.wal.records), format_lsn(kept.wal.lsn))


def test_a_data_directory_without_timelines_is_well(tmp_path: Path, inspect: Inspect) -> None:
    claim(OsDisk(sync=False), tmp_path, NodeId(1)).close()
    said = inspect(tmp_path)
    assert (said.code, said.document["timelines"]) == (0, [])


def test_wal_that_was_removed_from_the_front_is_remarked_and_no_problem(kept: Kept, inspect: Inspect) -> None:
    kept.segment(0).unlink()
    said = inspect(kept.data)
    assert said.code == 0
    (remark,) = said.timeline["remarks"]
    assert "has been removed" in remark
    assert said.timeline["wal"][0]["end_lsn"] == format_lsn(kept.wal.lsn)


def test_spares_leftovers_and_other_files_are_listed(kept: Kept, inspect: Inspect) -> None:
    for name in ("walspare", "waltmp", "note\x1b[2J"):
        (kept.directory / name).touch()
    said = inspect(kept.data)
    assert said.code == 0
    assert said.timeline["spares"] == ["walspare"]
    assert said.timeline["leftovers"] == ["waltmp"]
    assert said.timeline["other_files"] == ["note\x1b[2J"]
    assert "\x1b" not in inspect(kept.data, text=True).out


def test_a_name_that_is_no_utf_8_is_told_with_escapes(kept: Kept, inspect: Inspect) -> None:
    (kept.directory / os.fsdecode(b"bad\xff")).touch()
    assert "bad\\udcff" in inspect(kept.data, text=True).out
    assert inspect(kept.data).timeline["other_files"] == ["bad\udcff"]


# -- damage -------------------------------------------------------------------------------------------------


def test_a_flipped_byte_below_commit_is_found_and_what_is_behind_it_is_verified(
    kept: Kept, inspect: Inspect
) -> None:
    victim = kept.wal.records[20]
    kept.damage(victim.start + 500)
    said = inspect(kept.data)
    assert said.code == 1
    assert said.err == "walkeeper: 1 problem found\n"
    assert said.places == [(kept.segment(0).name, victim.start % SEGMENT)]
    first, second = said.timeline["wal"]
    assert first["end_lsn"] == said.timeline["problems"][0]["lsn"] == format_lsn(victim.start)
    assert first["last_record"]["lsn"] == format_lsn(kept.wal.records[19].start)
    assert second["end_lsn"] == format_lsn(kept.wal.lsn)


def test_every_damaged_place_is_found(kept: Kept, inspect: Inspect) -> None:
    victims = [kept.wal.records[index] for index in (10, 40, 90)]
    for victim in victims:
        kept.damage(victim.start + 400)
    said = inspect(kept.data)
    assert [problem["lsn"] for problem in said.timeline["problems"]] == [format_lsn(v.start) for v in victims]
    assert len(said.timeline["wal"]) == 4


def test_a_flipped_byte_below_commit_in_the_unfinished_segment_is_found_too(kept: Kept, inspect: Inspect) -> None:
    victim = kept.wal.records[-13]
    place, _ = kept.damage(victim.start + 100)
    assert place.endswith(".partial")
    said = inspect(kept.data)
    assert said.places == [(place, victim.start % SEGMENT)]


def test_damage_in_a_complete_segment_is_a_problem_wherever_commit_is(kept: Kept, inspect: Inspect) -> None:
    kept.save(commit_lsn=START)
    victim = kept.wal.records[20]
    kept.damage(victim.start + 500)
    said = inspect(kept.data)
    assert said.places == [(kept.segment(0).name, victim.start % SEGMENT)]


def test_damage_behind_commit_in_the_last_segment_is_remarked_if_records_follow(
    kept: Kept, inspect: Inspect
) -> None:
    victim = kept.wal.records[-4]
    kept.damage(victim.start + 100)
    said = inspect(kept.data)
    assert said.code == 0
    (remark,) = said.timeline["remarks"]
    assert f"{kept.segment(3).name} at byte {victim.start % SEGMENT}" in remark


def test_a_hole_is_a_problem_and_what_is_behind_it_is_verified(kept: Kept, inspect: Inspect) -> None:
    missing = kept.segment(1)
    missing.unlink()
    said = inspect(kept.data)
    assert said.code == 1
    assert said.places == [(missing.name, None)]
    assert said.timeline["holes"] == [{"first": missing.name, "last": missing.name, "count": 1}]
    assert said.timeline["wal"][-1]["end_lsn"] == format_lsn(kept.wal.lsn)


def test_segments_that_are_missing_at_the_end_are_a_problem(kept: Kept, inspect: Inspect) -> None:
    kept.segment(3).unlink()
    said = inspect(kept.data)
    assert said.code == 1
    assert said.places == [(segment_name(TLI, START // SEGMENT + 3, SEGMENT), None)]


def test_no_segment_at_all_is_a_problem_if_something_was_committed(kept: Kept, inspect: Inspect) -> None:
    for number in range(SEGMENTS):
        kept.segment(number).unlink()
    said = inspect(kept.data)
    assert said.code == 1
    assert said.places == [(CONTROL_FILE, None)]


@pytest.mark.parametrize("size", [0, 12345, SEGMENT - 1, SEGMENT + 1])
def test_a_segment_of_the_wrong_size_is_a_problem(size: int, kept: Kept, inspect: Inspect) -> None:
    os.truncate(kept.segment(1), size)
    said = inspect(kept.data)
    assert said.code == 1
    assert said.places[0] == (kept.segment(1).name, min(size, SEGMENT))


def test_the_last_segment_may_be_cut_behind_commit(kept: Kept, inspect: Inspect) -> None:
    path, commit_lsn = kept.segment(3), kept.control_file.commit_lsn
    os.truncate(path, commit_lsn % SEGMENT)
    said = inspect(kept.data)
    assert said.code == 0
    assert said.timeline["wal"][0]["end_lsn"] == format_lsn(commit_lsn)
    os.truncate(path, commit_lsn % SEGMENT - 1)
    assert inspect(kept.data).code == 1


def test_a_segment_of_garbage_is_one_problem(kept: Kept, inspect: Inspect) -> None:
    kept.segment(1).write_bytes(os.urandom(SEGMENT))
    said = inspect(kept.data)
    assert said.code == 1
    assert said.places == [(kept.segment(1).name, 0)]
    assert said.timeline["wal"][-1]["end_lsn"] == format_lsn(kept.wal.lsn)


def test_a_segment_of_zeroes_is_one_problem(kept: Kept, inspect: Inspect) -> None:
    kept.segment(1).write_bytes(bytes(SEGMENT))
    assert inspect(kept.data).places == [(kept.segment(1).name, 0)]


def test_wal_of_another_postgresql_timeline_is_a_problem(kept: Kept, inspect: Inspect) -> None:
    stray = kept.directory / segment_name(2, START // SEGMENT + 1, SEGMENT)
    stray.write_bytes(bytes(SEGMENT))
    assert inspect(kept.data).places == [(stray.name, None)]


def test_a_segment_far_ahead_is_behind_a_hole_and_found_at_once(kept: Kept, inspect: Inspect) -> None:
    far = kept.directory / "00000001FFFFFFFF000000FF"
    far.write_bytes(bytes(SEGMENT))
    said = inspect(kept.data)
    (hole,) = said.timeline["holes"]
    assert hole["first"] == segment_name(TLI, START // SEGMENT + SEGMENTS, SEGMENT)
    assert hole["count"] > 1 << 40


def test_a_name_that_a_keeper_would_not_find_is_a_problem(kept: Kept, inspect: Inspect) -> None:
    (kept.directory / "00000001000000000000000a").touch()
    assert inspect(kept.data).places == [("00000001000000000000000a", None)]


# -- names that are no files --------------------------------------------------------------------------------


def test_a_directory_named_like_a_segment_is_a_problem(kept: Kept, inspect: Inspect) -> None:
    path = kept.segment(2)
    path.unlink()
    path.mkdir()
    assert inspect(kept.data).places == [(path.name, None)]


def test_a_pipe_named_like_a_segment_is_a_problem_and_does_not_hang(kept: Kept, inspect: Inspect) -> None:
    path = kept.segment(2)
    path.unlink()
    os.mkfifo(path)
    assert inspect(kept.data).places == [(path.name, None)]


def test_symbolic_links_are_not_followed(kept: Kept, tmp_path: Path, inspect: Inspect) -> None:
    path = kept.segment(2)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    said = inspect(kept.data)
    assert said.places == [(path.name, None)]
    assert "symbolic link" in said.timeline["problems"][0]["what"]


def test_a_timeline_behind_a_symbolic_link_is_not_looked_at_and_not_called_well(
    kept: Kept, tmp_path: Path, inspect: Inspect
) -> None:
    kept.directory.rename(tmp_path / "elsewhere")
    kept.directory.symlink_to(tmp_path / "elsewhere")
    said = inspect(kept.data)
    assert said.code == 1
    assert said.document["timelines"] == []
    assert [problem["file"] for problem in said.document["problems"]] == [str(TTID)]


# -- control files ------------------------------------------------------------------------------------------


def flipped(content: bytes) -> bytes:
    return content[:100] + bytes([content[100] ^ 1]) + content[101:]


BAD_CONTROL_FILES: dict[str, tuple[Callable[[bytes], bytes], bool | None]] = {
    "empty": (lambda content: b"", None),
    "truncated": (lambda content: content[:-20], False),
    "cut to a few bytes": (lambda content: content[:7], None),
    "wrong magic": (lambda content: b"\0" + content[1:], None),
    "a flipped byte": (flipped, False),
    "garbage": (lambda content: b"garbage" * 100, None),
}


@pytest.mark.parametrize("kind", BAD_CONTROL_FILES)
@pytest.mark.parametrize("start", [START, Lsn(5 * SEGMENT)])
def test_a_control_file_that_cannot_be_read_is_named_and_the_wal_verified_nevertheless(
    kind: str, start: Lsn, tmp_path: Path, inspect: Inspect
) -> None:
    kept = keep(tmp_path / "data", start=start)
    spoil, checksum_holds = BAD_CONTROL_FILES[kind]
    path = kept.directory / CONTROL_FILE
    path.write_bytes(spoil(path.read_bytes()))
    said = inspect(kept.data)
    assert said.code == 1
    assert said.places == [(CONTROL_FILE, None)]
    assert said.timeline["control_file"]["checksum_holds"] is checksum_holds
    assert said.timeline["control_file"]["content"] is None
    assert said.timeline["segment_bytes"] == SEGMENT
    (stretch,) = said.timeline["wal"]
    assert (stretch["records"], stretch["end_lsn"]) == (len(kept.wal.records), format_lsn(kept.wal.lsn))
    assert "cannot be read" in inspect(kept.data, text=True).out


def test_a_control_file_that_is_missing_or_a_directory_is_named(kept: Kept, inspect: Inspect) -> None:
    path = kept.directory / CONTROL_FILE
    path.unlink()
    assert inspect(kept.data).places == [(CONTROL_FILE, None)]
    path.mkdir()
    assert inspect(kept.data).places == [(CONTROL_FILE, None)]


def test_without_control_file_and_segments_a_timeline_is_no_traceback(kept: Kept, inspect: Inspect) -> None:
    shutil.rmtree(kept.directory)
    kept.directory.mkdir()
    (kept.directory / "000000010000000000000001").write_bytes(b"short")
    said = inspect(kept.data)
    assert said.places == [(CONTROL_FILE, None), ("000000010000000000000001", None)]


def test_a_control_file_of_another_timeline_is_a_problem(kept: Kept, inspect: Inspect) -> None:
    kept.save(ttid=OTHER)
    assert inspect(kept.data).places == [(CONTROL_FILE, None)]


def test_wal_of_a_server_that_nobody_knows_is_a_problem(kept: Kept, inspect: Inspect) -> None:
    kept.save(server=replace(SERVER, pg_version=90600))
    assert inspect(kept.data).places == [(CONTROL_FILE, None)]


def test_a_start_where_no_record_can_begin_is_a_problem(kept: Kept, inspect: Inspect) -> None:
    kept.save(local_start_lsn=Lsn(START + 1))
    assert inspect(kept.data).places == [(CONTROL_FILE, None)]


def test_wal_in_remote_storage_is_a_problem(kept: Kept, inspect: Inspect) -> None:
    kept.save(evicted_at=kept.wal.lsn)
    for number in range(SEGMENTS):
        kept.segment(number).unlink()
    assert inspect(kept.data).places == [(CONTROL_FILE, None)]


def test_a_commit_that_no_record_reaches_is_a_problem(kept: Kept, inspect: Inspect) -> None:
    kept.save(commit_lsn=Lsn(kept.wal.lsn + 8))
    assert inspect(kept.data).code == 1


# -- which timelines ----------------------------------------------------------------------------------------


def test_damage_in_one_timeline_does_not_hide_the_other(kept: Kept, inspect: Inspect) -> None:
    other = keep(kept.data, OTHER)
    (kept.directory / CONTROL_FILE).write_bytes(b"")
    said = inspect(kept.data)
    assert said.code == 1
    verdicts = {found["timeline_id"]: found["ok"] for found in said.document["timelines"]}
    assert verdicts == {str(TTID.timeline_id): False, str(OTHER.timeline_id): True}
    assert inspect(kept.data, "--timeline", str(OTHER.timeline_id)).code == 0
    assert inspect(kept.data, "--tenant", str(TTID.tenant_id)).code == 1
    assert other.directory != kept.directory


def test_a_timeline_that_was_copied_elsewhere_can_be_looked_at(
    kept: Kept, tmp_path: Path, inspect: Inspect
) -> None:
    copy = shutil.copytree(kept.directory, tmp_path / "copy")
    said = inspect(copy)
    assert said.code == 0
    assert said.timeline["timeline_id"] == str(TTID.timeline_id)
    assert said.document["node_id"] is None
    assert inspect(copy, "--timeline", str(TTID.timeline_id)).code == 0


def one_line(said: Said) -> bool:
    return said.code == 2 and said.out == "" and said.err.startswith("walkeeper: ") and said.err.count("\n") == 1


def test_timelines_that_are_not_there_are_a_wrong_option(kept: Kept, inspect: Inspect) -> None:
    for flags in (["--timeline", "0" * 32], ["--tenant", "0" * 32], ["--timeline", "x"]):
        assert one_line(inspect(kept.data, *flags))
        assert one_line(inspect(kept.directory, *flags))
    (kept.directory / CONTROL_FILE).unlink()
    assert one_line(inspect(kept.directory, "--timeline", str(TTID.timeline_id)))


def no_directory(path: Path) -> None:
    """Nothing is there."""


@pytest.mark.parametrize(
    "make",
    [
        no_directory,
        lambda path: path.touch(),
        lambda path: path.mkdir(),
        lambda path: (path / "holiday").mkdir(parents=True),
    ],
)
def test_what_is_no_data_directory_is_one_line(
    make: Callable[[Path], None], tmp_path: Path, inspect: Inspect
) -> None:
    make(tmp_path / "data")
    assert one_line(inspect(tmp_path / "data"))


def test_an_id_file_that_says_nothing_is_a_problem(kept: Kept, inspect: Inspect) -> None:
    (kept.data / "safekeeper.id").write_text("three\n")
    said = inspect(kept.data)
    assert (said.code, said.timeline["ok"]) == (1, True)
    assert [problem["file"] for problem in said.document["problems"]] == ["safekeeper.id"]


# -- a daemon at work ---------------------------------------------------------------------------------------


def test_a_daemon_at_work_is_told_of_and_keeps_its_lock(kept: Kept, inspect: Inspect) -> None:
    with closing(claim(OsDisk(sync=False), kept.data, None)):
        said = inspect(kept.data)
        assert (said.code, said.document["in_use_by_pid"]) == (0, os.getpid())
        assert f"in use by process {os.getpid()}" in inspect(kept.data, text=True).out


def test_the_owner_is_found_where_the_kernel_knows_another_device(tmp_path: Path) -> None:
    (tmp_path / "safekeeper.pid").write_text("4711")
    inode = (tmp_path / "safekeeper.pid").stat().st_ino
    locks = tmp_path / "locks"
    for pid, where, owner in (
        (4711, f"00:99:{inode}", 4711),
        (4712, f"00:99:{inode}", None),
        (4711, f"00:99:{inode + 1}", None),
    ):
        locks.write_text(
            f"1: POSIX  ADVISORY  READ 1 08:01:2 0 EOF\n2: FLOCK  ADVISORY  WRITE {pid} {where} 0 EOF\n"
        )
        assert lock_owner(LookingDisk(), tmp_path, locks) == owner


class Renaming(LookingDisk):
    """A daemon completes a segment right after its names were listed."""

    def __init__(self, partial: Path) -> None:
        self.partial = partial

    def names(self, path: Path) -> Sequence[str]:
        names = super().names(path)
        if self.partial.exists():
            self.partial.rename(self.partial.with_suffix(""))
        return names


def test_a_segment_that_is_renamed_meanwhile_is_no_hole(kept: Kept) -> None:
    evidence = look(Renaming(kept.segment(3)), kept.directory, TTID, lambda _done, _total: None)
    assert len(evidence.segments) == 4
    assert not [problem for problem in judge(evidence).problems if problem.offset is None]


# -- progress -----------------------------------------------------------------------------------------------


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_how_far_it_is_and_an_empty_line_in_the_end() -> None:
    terminal, times = Terminal(), iter([0.0, 0.1, 1.0, 1.0])
    progress = ProgressLine(terminal, lambda: next(times))
    progress(1 << 20, 9 << 20)
    assert terminal.getvalue() == ""
    progress(2 << 20, 9 << 20)
    assert terminal.getvalue() == "\rverifying: 2 of 9 MiB\r"
    progress.clear()
    assert terminal.getvalue().endswith("\r" + " " * 21 + "\r")


def test_a_file_sees_no_progress() -> None:
    file, times = StringIO(), iter([0.0, 1.0, 2.0])
    progress = ProgressLine(file, lambda: next(times))
    progress(1, 2)
    progress.clear()
    assert file.getvalue() == ""
