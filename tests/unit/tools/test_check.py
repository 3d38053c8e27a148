"""`walkeeper check`: what is measured, what is thought of it, and what is printed."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
import trio

from fake_servers import SEGMENT_BYTES, SYSTEM_ID, Client, FakeKeeper
from walkeeper.daemon.cli import run_command
from walkeeper.errors import DurabilityLost
from walkeeper.formats.authentication import AuthenticationCleartextPassword
from walkeeper.ids import NodeId, TenantTimelineId
from walkeeper.links.address import Address
from walkeeper.lsn import Lsn
from walkeeper.storage.data_directory import ID_FILE, TRIAL_FILE, require_own
from walkeeper.storage.disk import OsDisk
from walkeeper.testing.memory_disk import Fault, MemoryDisk
from walkeeper.testing.wal import WalGenerator
from walkeeper.tools.check_disk import (
    SLOW_SECONDS_MAX,
    SYNCS_MAX,
    SYNCS_SECONDS_MAX,
    USUAL_SECONDS_MAX,
    Mount,
    check_disk,
    find_mount,
    measure_syncs,
)
from walkeeper.tools.check_keepers import CLOCK_SECONDS_MAX, check_keepers
from walkeeper.tools.check_primary import RULES, judge
from walkeeper.tools.verdicts import Grade, Verdict, as_json, as_text

OK, WARN, FAIL = Grade
TTID = TenantTimelineId.of_system(SYSTEM_ID)

MOUNTS = """\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 21 0:40 / /srv/nfs\\040share rw - nfs4 server:/x rw
31 21 0:41 / /srv/hidden rw - tmpfs tmpfs rw
32 21 8:2 / /srv/hidden ro,noatime master:3 - xfs /dev/sdb1 rw
nonsense
"""


def found(verdicts: list[Verdict], grade: Grade) -> list[str]:
    return [f"{each.subject}: {each.what}" for each in verdicts if each.grade is grade]


# -- the disk ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "mount"),
    [
        ("/var/lib", Mount("/", "ext4", ("rw", "relatime"))),
        ("/srv/nfs share/k1", Mount("/srv/nfs share", "nfs4", ("rw",))),
        ("/srv/nfs shared", Mount("/", "ext4", ("rw", "relatime"))),
        ("/srv/hidden", Mount("/srv/hidden", "xfs", ("ro", "noatime"))),
    ],
)
def test_the_file_system_of_a_path_is_that_of_the_nearest_mount_that_nothing_hides(
    path: str, mount: Mount
) -> None:
    assert find_mount(MOUNTS, Path(path)) == mount


def mounted(directory: Path, kind: str, options: str = "rw") -> Path:
    mounts = directory.parent / "mountinfo"
    mounts.write_text(f"21 1 8:1 / / rw - ext4 /dev/sda1 rw\n22 21 0:9 / {directory} {options} - {kind} x rw\n")
    return mounts


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir()
    return made


@pytest.mark.parametrize(
    ("kind", "options", "grade"),
    [
        ("ext4", "rw", OK), ("xfs", "rw", OK), ("btrfs", "rw", OK), ("nfs", "rw", WARN), ("nfs4", "rw", WARN),
        ("fuse.sshfs", "rw", WARN), ("cifs", "rw", WARN), ("overlay", "rw", WARN), ("tmpfs", "rw", FAIL),
        ("ext4", "noatime,ro", FAIL),
    ],
)  # fmt: skip
def test_a_file_system_that_is_not_a_local_disk_is_warned_of_and_memory_fails(
    directory: Path, kind: str, options: str, grade: Grade
) -> None:
    verdicts = check_disk(OsDisk(), directory, mounted(directory, kind, options), instant())
    (verdict,) = (each for each in verdicts if each.subject.startswith("file system"))
    assert (verdict.grade, bool(verdict.remedy)) == (grade, grade is not OK)


class instant:  # noqa: N801
    """A clock that moves by so much at each look."""

    def __init__(self, seconds: float = 0.0001) -> None:
        self._ticks: Iterator[int] = count()
        self._seconds = seconds

    def __call__(self) -> float:
        return next(self._ticks) * self._seconds


@pytest.mark.parametrize("seconds", [0.0001, 0.1, 10.0])
def test_the_measurement_ends_after_some_syncs_or_some_seconds_and_leaves_nothing(seconds: float) -> None:
    disk, path = MemoryDisk(), Path("/trial")
    took = measure_syncs(disk, path, instant(seconds))
    assert 0 < len(took) <= SYNCS_MAX
    assert sum(took) <= SYNCS_SECONDS_MAX + 2 * seconds
    assert took == pytest.approx([seconds] * len(took))
    assert disk.names(Path("/")) == []


def test_a_sync_that_fails_is_told_and_the_file_is_removed() -> None:
    disk = MemoryDisk()
    disk.faults[disk.operations + 5] = Fault.IO_ERROR  # after unlink, create, write, fsync and write
    with pytest.raises(DurabilityLost):
        measure_syncs(disk, Path("/trial"), instant())
    assert disk.names(Path("/")) == []


@pytest.mark.parametrize(
    ("seconds", "grade"),
    [(USUAL_SECONDS_MAX * 0.9, OK), (USUAL_SECONDS_MAX * 1.1, WARN), (SLOW_SECONDS_MAX, WARN)],
)
def test_a_slow_disk_is_warned_of_with_its_percentiles(directory: Path, seconds: float, grade: Grade) -> None:
    verdicts = check_disk(OsDisk(sync=False), directory, mounted(directory, "ext4"), instant(seconds))
    (verdict,) = (each for each in verdicts if each.subject == "fsync")
    assert verdict.grade is grade
    assert f"{seconds * 1000:.2f} ms p99" in verdict.what
    assert list(directory.iterdir()) == []


def test_a_directory_that_is_missing_or_somebody_elses_fails_and_nothing_is_written(directory: Path) -> None:
    (directory / "PG_VERSION").write_text("15")
    for path in (directory, directory / "missing"):
        (verdict,) = check_disk(OsDisk(), path)
        assert verdict.grade is FAIL
    assert [each.name for each in directory.iterdir()] == ["PG_VERSION"]


def test_a_directory_that_anybody_may_write_to_fails(directory: Path) -> None:
    directory.chmod(0o777)
    assert any("anybody may write" in line for line in found(check_disk(OsDisk(sync=False), directory), FAIL))


def test_a_keepers_directory_is_known_and_one_that_is_in_use_says_so(directory: Path) -> None:
    (directory / ID_FILE).write_text("7")
    with OsDisk().lock(directory / "safekeeper.pid") or pytest.fail("nobody else has it"):
        lines = found(check_disk(OsDisk(sync=False), directory), OK)
    assert any("that of keeper 7" in line for line in lines)
    assert any("a keeper uses it now" in line for line in lines)


def test_what_a_check_that_was_killed_has_left_keeps_no_keeper_from_its_directory(directory: Path) -> None:
    (directory / TRIAL_FILE).write_bytes(b"")
    require_own(OsDisk(), directory)
    check_disk(OsDisk(sync=False), directory)
    assert list(directory.iterdir()) == []


# -- the primary ---------------------------------------------------------------------------------------------

GOOD = {
    "wal_level": "replica", "max_wal_senders": "10", "max_replication_slots": "10", "max_slot_wal_keep_size": "10GB",
    "synchronous_standby_names": "walkeeper", "synchronous_commit": "on", "wal_sender_timeout": "1min", "fsync": "on",
    "full_page_writes": "on", "data_checksums": "on",
}  # fmt: skip


def judged(different: Mapping[str, str]) -> list[tuple[str, str]]:
    """What is not ok."""
    verdicts = judge(GOOD | dict(different), "primary", "walkeeper")
    return [(each.grade.value, each.what.split()[0]) for each in verdicts if each.grade is not OK]


def test_a_primary_as_it_should_be_is_ok_in_every_respect() -> None:
    assert GOOD.keys() == RULES.keys()
    assert judged({}) == []


@pytest.mark.parametrize(
    ("setting", "value", "grade"),
    [
        ("wal_level", "minimal", FAIL), ("wal_level", "logical", OK), ("max_wal_senders", "0", FAIL),
        ("max_replication_slots", "0", FAIL), ("max_slot_wal_keep_size", "-1", WARN),
        ("synchronous_standby_names", "", WARN), ("synchronous_standby_names", "other", WARN),
        ("synchronous_standby_names", "FIRST 1 (walkeeper)", OK), ("synchronous_commit", "local", WARN),
        ("synchronous_commit", "remote_write", OK), ("wal_sender_timeout", "0", WARN),
        ("wal_sender_timeout", "900ms", WARN), ("wal_sender_timeout", "1d", OK), ("fsync", "off", FAIL),
        ("full_page_writes", "off", WARN), ("data_checksums", "off", WARN),
    ],
)  # fmt: skip
def test_a_setting_that_harms_is_named(setting: str, value: str, grade: Grade) -> None:
    assert judged({setting: value}) == ([] if grade is OK else [(grade.value, setting)])


def test_commits_are_made_to_wait_for_a_sidecar_only_once_it_leads() -> None:
    (verdict,) = [each for each in judge(GOOD | {"synchronous_standby_names": ""}, "p", "s") if each.grade is WARN]
    assert verdict.remedy.startswith(
        "once the sidecar says leading: ALTER SYSTEM SET synchronous_standby_names = 's'"
    )


# -- the keepers ---------------------------------------------------------------------------------------------


@dataclass
class TellingKeeper(FakeKeeper):
    """One that answers SHOW walkeeper_about, with a clock that is `ahead`."""

    version: str = "1.0"
    ahead: timedelta = timedelta()

    async def answer(self, client: Client, text: str) -> None:
        if text == "SHOW walkeeper_about":
            now = (datetime.now(UTC) + self.ahead).isoformat()
            await client.answer(json.dumps({"node_id": self.node_id, "version": self.version, "now": now}))
        else:
            await super().answer(client, text)


@pytest.fixture
async def keepers(nursery: trio.Nursery) -> list[TellingKeeper]:
    made = [TellingKeeper(node_id=NodeId(number)) for number in (1, 2, 3)]
    for keeper in made:
        keeper.keep(WalGenerator(Lsn(0x1000000), wal_seg_size=SEGMENT_BYTES, system_id=SYSTEM_ID), Lsn(0x1000800))
        await nursery.start(keeper.serve)
    return made


async def check(keepers: list[TellingKeeper], ttid: TenantTimelineId | None = None) -> list[Verdict]:
    return await check_keepers(
        [each.address for each in keepers], ttid, None if ttid is None else SYSTEM_ID, "1.0"
    )


async def test_keepers_that_are_well_are_ok_with_and_without_a_timeline(keepers: list[TellingKeeper]) -> None:
    for ttid in (None, TTID):
        verdicts = await check(keepers, ttid)
        assert {each.grade for each in verdicts} == {OK}, as_text(verdicts)
        assert any("id 2, version 1.0" in each.what for each in verdicts)


async def test_what_is_different_about_a_keeper_is_said_of_it(keepers: list[TellingKeeper]) -> None:
    keepers[0].version = "0.9"
    keepers[1].ahead = timedelta(seconds=-2 * CLOCK_SECONDS_MAX)
    keepers[2].node_id = NodeId(1)
    verdicts = await check(keepers)
    assert [line.split(": ")[0] for line in found(verdicts, WARN)] == [
        f"keeper {keepers[index].address}" for index in (0, 1)
    ]
    assert any("behind ours" in line for line in found(verdicts, WARN))
    (same,) = found(verdicts, FAIL)
    assert same.startswith(f"keeper {keepers[2].address}: it has the same id as keeper {keepers[0].address}")


async def test_a_keeper_with_another_servers_wal_under_the_name_fails(keepers: list[TellingKeeper]) -> None:
    keepers[1].keep(
        WalGenerator(Lsn(0x1000000), wal_seg_size=SEGMENT_BYTES, system_id=SYSTEM_ID + 1), Lsn(0x1000800)
    )
    (line,) = found(await check(keepers, TTID), FAIL)
    assert line.startswith(f"keeper {keepers[1].address}: it has WAL of the server {SYSTEM_ID + 1}")


async def test_a_keeper_that_is_not_there_fails_and_a_pair_is_warned_of(keepers: list[TellingKeeper]) -> None:
    nobody = Address("127.0.0.1", 1)
    verdicts = await check_keepers([keepers[0].address, nobody], None, None, "1.0")
    (line,) = found(verdicts, FAIL)
    assert line.startswith(f"keeper {nobody}: ")
    assert [line.split(": ")[0] for line in found(verdicts, WARN)] == ["quorum"]


@dataclass
class Doorkeeper(FakeKeeper):
    """Asks for a token."""

    async def welcome(self, client: Client) -> None:
        await client.send(AuthenticationCleartextPassword())


async def test_what_can_be_done_depends_on_why_a_keeper_does_not_answer(nursery: trio.Nursery) -> None:
    closed, nobody = Doorkeeper(), Address("127.0.0.1", 1)
    await nursery.start(closed.serve)
    verdicts = await check_keepers([closed.address, nobody], None, None, "1.0")
    assert [(each.what, each.remedy) for each in verdicts if each.grade is FAIL] == [
        ("asks for a token: --auth-token-path", "give a token that is good there: --auth-token-path"),
        ("Connection refused", "start it, or look at its address, its network and its log"),
    ]


# -- what is printed -----------------------------------------------------------------------------------------

ALL = [
    Verdict(OK, "a", "fine"),
    Verdict(WARN, "b", "bad\x1bword", "do it"),
    Verdict(FAIL, "c", "worse", "do that"),
]


def test_there_is_a_printable_line_for_each_and_the_json_says_the_same() -> None:
    assert as_text(ALL).splitlines() == [
        "ok   a: fine",
        "warn b: bad?word; to do: do it",
        "fail c: worse; to do: do that",
    ]
    document = json.loads(as_json(ALL))
    assert (document["failed"], document["warned"]) == (1, 1)
    assert [each["grade"] for each in document["verdicts"]] == ["ok", "warn", "fail"]


@pytest.mark.parametrize(
    ("flags", "code"), [((), 2), (("-D", "MISSING"), 1), (("-D", "."), 0), (("-D", ".", "--json"), 0)]
)
def test_the_exit_code_is_for_scripts(directory: Path, flags: tuple[str, ...], code: int) -> None:
    (directory / ID_FILE).write_text("1")
    places = {".": str(directory), "MISSING": str(directory / "missing")}
    assert run_command(["check", *(places.get(flag, flag) for flag in flags)], {}) == code


def test_where_anybody_may_write_nothing_is_written_through_somebody_elses_link(directory: Path) -> None:
    precious = directory.parent / "precious"
    precious.write_text("kept")
    (directory / TRIAL_FILE).symlink_to(precious)
    directory.chmod(0o777)
    assert found(check_disk(OsDisk(sync=False), directory), FAIL)
    assert precious.read_text() == "kept"


def test_a_link_in_the_place_of_the_trial_file_is_removed_and_not_followed(directory: Path) -> None:
    precious = directory.parent / "precious"
    precious.write_text("kept")
    (directory / TRIAL_FILE).symlink_to(precious)
    assert not found(check_disk(OsDisk(sync=False), directory), FAIL)
    assert precious.read_text() == "kept"
    assert list(directory.iterdir()) == []
