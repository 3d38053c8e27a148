"""The parts of tests/torture that need no real processes: what goes wrong, what is noticed, what a bad wire does."""

import os
import socket
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

import programs
from demo.ledger import Ledger
from torture.relay import Direction
from torture.schedule import (
    KEEPERS,
    NEED_DISKS,
    NEED_NETWORKS,
    OF_MAJORITY,
    OF_WRITER,
    TOGETHER_SECONDS,
    Episode,
    Kind,
    disturbed,
    is_of_majority,
    possible_kinds,
    row_of,
    schedule,
)
from torture.watch import FILES_MAX, RESUME_SECONDS_MAX, Peak, Watch, complaints, excesses

SEEDS = range(50)
EPISODES = 200
ALL = tuple(Kind)


def episodes(seed: int, count: int = EPISODES) -> list[Episode]:
    return list(islice(schedule(seed, ALL), count))


# -- what goes wrong -----------------------------------------------------------------------------------------


def test_the_schedule_is_a_function_of_the_seed() -> None:
    assert episodes(7) == episodes(7)
    assert len({tuple(episodes(seed, 3)) for seed in SEEDS}) == len(SEEDS)


def test_every_kind_comes_before_any_comes_again() -> None:
    for seed in SEEDS:
        assert {episode[0].kind for episode in episodes(seed, len(ALL))} == set(ALL)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_majority_of_keepers_is_hit_rarely_and_briefly_and_loses_nothing(seed: int) -> None:
    drawn = episodes(seed)
    rare = [episode for episode in drawn if is_of_majority(episode)]
    assert 0 < len(rare) < EPISODES / 5
    for episode in rare:
        assert len(disturbed(episode)) == len(episode) == 2
        assert all(blow.kind in OF_MAJORITY and blow.seconds <= TOGETHER_SECONDS for blow in episode)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_keeper_loses_its_disk_while_the_others_are_left_alone(seed: int) -> None:
    wiped = [episode for episode in episodes(seed) if any(blow.kind is Kind.WIPE for blow in episode)]
    assert wiped
    assert all(len(disturbed(episode)) == 1 for episode in wiped)


def test_blows_against_keepers_name_one_and_those_against_the_writer_none() -> None:
    for seed in SEEDS:
        for blow in (blow for episode in episodes(seed) for blow in episode):
            assert blow.keeper in ([None] if blow.kind in OF_WRITER else range(KEEPERS))


def test_the_writers_side_is_hit_once_at_a_time() -> None:
    for seed in SEEDS:
        counts = Counter(sum(blow.keeper is None for blow in episode) for episode in episodes(seed))
        assert set(counts) == {0, 1}


def test_what_the_machine_does_not_allow_is_not_drawn() -> None:
    kinds = possible_kinds(disks=False, networks=False)
    assert set(kinds) == set(Kind) - NEED_DISKS - NEED_NETWORKS
    for seed in SEEDS:
        drawn = {blow.kind for episode in islice(schedule(seed, kinds), EPISODES) for blow in episode}
        assert drawn == set(kinds)


def test_an_episode_counts_under_what_makes_commits_wait() -> None:
    for episode in episodes(1):
        kinds = {blow.kind.value for blow in episode}
        writers = {kind.value for kind in OF_WRITER} & kinds
        expected = {"two keepers of three at once"} if is_of_majority(episode) else writers or kinds
        assert row_of(episode) in expected


# -- what is noticed -----------------------------------------------------------------------------------------


class Running(programs.Program):
    """One that runs as long as this process."""

    @property
    def is_running(self) -> bool:
        return True

    @property
    def pid(self) -> int:
        return os.getpid()


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    keepers = [Running(f"keeper {number}", [], tmp_path / "log") for number in range(1, KEEPERS + 1)]
    return Watch(Ledger(tmp_path / "ledger"), keepers, Running("sidecar", [], tmp_path / "log"))


async def test_commits_that_could_go_on_and_do_not_are_noticed(watch: Watch, autojump_clock: MockClock) -> None:
    watch.begin_episode()
    before = trio.current_time()
    with watch.disturbing(1), pytest.raises(programs.ProgramFailed):
        await watch.look_on()
    assert trio.current_time() - before == pytest.approx(RESUME_SECONDS_MAX, abs=0.1)


@pytest.mark.parametrize("disturbed_ones", [[None], [0, 1], [0, None]])
async def test_a_pause_is_excused_while_those_are_disturbed_whom_commits_need(
    disturbed_ones: list[int | None], watch: Watch, autojump_clock: MockClock
) -> None:
    first, *others = disturbed_ones
    watch.begin_episode()
    with watch.disturbing(first), watch.disturbing(others[0] if others else first):
        with trio.move_on_after(RESUME_SECONDS_MAX + 1) as scope:
            await watch.look_on()
        assert scope.cancelled_caught
    before = trio.current_time()
    with pytest.raises(programs.ProgramFailed):
        await watch.look_on()
    assert trio.current_time() - before == pytest.approx(RESUME_SECONDS_MAX, abs=0.1)


async def test_a_program_that_ends_by_itself_is_noticed(
    watch: Watch, tmp_path: Path, autojump_clock: MockClock
) -> None:
    watch.sidecar = programs.Program("sidecar", [], tmp_path / "log")
    watch.begin_episode()
    with watch.disturbing(None), trio.move_on_after(1) as scope:
        await watch.look_on()
    assert scope.cancelled_caught
    with pytest.raises(programs.ProgramFailed):
        await watch.look_on()


def test_what_is_used_beyond_the_lines_is_told(watch: Watch) -> None:
    watch.sample()
    assert len(watch.peaks) == KEEPERS + 1
    assert all(peak.memory_kib and peak.files for peak in watch.peaks.values())
    assert excesses({"keeper 1": Peak(50_000, 20), "sidecar": Peak(50_000, 20)}) == []
    assert len(excesses({"keeper 1": Peak(1 << 20, 20), "sidecar": Peak(50_000, FILES_MAX + 1)})) == 2


def test_errors_and_what_is_no_line_of_the_log_are_complaints() -> None:
    warning = "2026-01-01T10:00:00.000001Z [warning  ] keeper lost keeper=10.77.0.11:5454"
    error = "2026-01-01T10:00:00.000001Z [error    ] connection failed unexpectedly connection=10"
    trace = "  + Exception Group Traceback (most recent call last):"
    full = (
        "2026-01-01T10:00:00.000001Z [error    ] the disk is nearly full: WAL is refused, reads go on free_bytes=0"
    )
    assert complaints(f"{warning}\n{error}\n{full}\n{trace}\n{warning}") == [error, trace]


# -- what a bad wire does ------------------------------------------------------------------------------------


def carried(loss: float, seed: str, frames: int = 100) -> list[int]:
    """Which of so many frames come out of one direction."""
    pairs = [socket.socketpair(type=socket.SOCK_SEQPACKET) for _ in range(2)]
    (sender, source), (target, receiver) = pairs
    with sender, source, target, receiver:
        for each in (source, receiver):
            each.setblocking(False)
        direction = Direction(source, target, 0.0, loss, seed)
        came = []
        for number in range(frames):
            sender.send(bytes([number]))
            direction.receive()
            direction.send()
            try:
                came.append(receiver.recv(10)[0])
            except BlockingIOError:
                continue
        return came


def test_a_good_wire_carries_everything_in_order_and_a_dead_one_nothing() -> None:
    assert carried(0.0, "seed") == list(range(100))
    assert carried(1.0, "seed") == []


def test_the_same_seed_loses_the_same_frames() -> None:
    assert carried(0.3, "seed") == carried(0.3, "seed") != carried(0.3, "another")
    assert 40 < len(carried(0.3, "seed")) < 95


def test_what_is_late_is_not_carried_before_its_time() -> None:
    sender, source = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with sender, source:
        source.setblocking(False)
        direction = Direction(source, source, 1000.0, 0.0, "seed")
        sender.send(b"frame")
        direction.receive()
        assert 990 < direction.send() <= 1000
