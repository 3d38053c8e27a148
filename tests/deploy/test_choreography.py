"""What a cluster does to keepers, done to real ones: updates, drains, deaths, slow starts, lost zones, under load.

No cluster runs here: a kubelet and two controllers are played (nodes.py, controllers.py), with the manifests as rendered.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

import postgres
from demo.ledger import TABLE
from deploy.controllers import EvictionRefused
from deploy.manifests import Manifests, load
from deploy.nodes import Pod, Wrong, until
from deploy.podspec import read_quorum
from deploy.stage import PRIMARY, SEGMENT_MIB, Stage, on_stage
from fix_postgres import NewCluster

STALL_SECONDS_MAX = 5.0
"""The longest pause of commits while a majority is there, beyond that of a plain fsync meanwhile.  Nobody waits for the third
keeper, so it is a few fsyncs of the others and as many changes of process: well below a second, and four were seen where
seven others wanted each processor.  Whoever waits for a keeper that is gone waits longer: for its `SLOW_SECONDS`, or for the
10 s after which a silent one is given up."""

ABSENT_SECONDS = 12.0  # longer than those 10 s
SLOW_SECONDS = 8.0


@pytest.fixture
def primary(new_cluster: NewCluster) -> postgres.Cluster:
    cluster = new_cluster("primary")
    cluster.initdb(segment_mib=SEGMENT_MIB)
    cluster.configure(**PRIMARY)
    cluster.start()
    cluster.sql(TABLE)
    return cluster


@pytest.fixture
def manifests() -> Manifests:
    return load("base")


@pytest.fixture
async def stage(work_directory: Path, primary: postgres.Cluster, manifests: Manifests) -> AsyncIterator[Stage]:
    async with on_stage(work_directory, primary, read_quorum(manifests)) as stage:
        yield stage


async def finish(stage: Stage) -> None:
    """Nothing went wrong, commits never stalled, and nothing that was acknowledged is lost.

    Cancellation: at any time, but for what blocks.
    """
    stall = stage.stall()
    print(
        f"{stage.ledger.count} commits stalled {stall:.2f} s, a plain fsync {stage.yardstick.longest_pause:.2f} s"
    )
    await stage.lose_database()
    assert stage.findings == []
    assert stall < STALL_SECONDS_MAX


def turns(stage: Stage, what: str) -> list[str]:
    """Whom something has happened to, in order."""
    return [turn.pod for turn in stage.kubelet.turns if turn.what == what]


# -- what clusters do ----------------------------------------------------------------------------------------


async def test_a_rolling_update_with_encryption_and_tokens_goes_from_the_last_to_the_first_and_stalls_no_commit(
    work_directory: Path, primary: postgres.Cluster
) -> None:
    async with on_stage(work_directory, primary, read_quorum(load("production"))) as stage:
        replaced = await stage.controllers.rolling_update()
        assert [pod.name for pod in replaced] == ["walkeeper-3", "walkeeper-2", "walkeeper-1"]
        await finish(stage)


async def test_while_a_node_is_drained_no_other_keeper_is_evicted(stage: Stage) -> None:
    for index in stage.quorum.pods:
        others = [each for each in stage.quorum.pods if each != index]
        evicted = stage.controllers.evict(index)
        refuse_all(stage, others)
        await evicted.gone.wait()
        refuse_all(stage, others)
        await stage.controllers.wait_ready(index)
        assert stage.controllers.pod(index).place.address != evicted.place.address
    await finish(stage)


def refuse_all(stage: Stage, indices: list[int]) -> None:
    """None of these may go."""
    for index in indices:
        with pytest.raises(EvictionRefused):
            stage.controllers.evict(index)


async def test_keepers_that_are_killed_come_back_by_themselves(stage: Stage) -> None:
    for index in stage.quorum.pods:
        pod = stage.controllers.pod(index)
        pod.kill()
        await wait_restarted(pod)
    await finish(stage)


async def wait_restarted(pod: Pod) -> None:
    """Return when its container is another one, and ready.

    Cancellation: at any time.
    """
    await until(lambda: pod.restarts > 0 and pod.is_healthy)


async def test_a_slow_start_is_waited_for(stage: Stage) -> None:
    stage.kubelet.slow_seconds[2] = SLOW_SECONDS
    began = trio.current_time()
    await stage.controllers.replace(2)
    pod = stage.controllers.pod(2)
    assert pod.restarts == 0
    probes = [probe for probe in stage.kubelet.probes if probe.pod == pod.name and probe.at > began]
    failed = [probe for probe in probes if probe.kind == "startup" and not probe.ok]
    assert len(failed) >= SLOW_SECONDS / stage.quorum.startup.period_seconds - 1
    await finish(stage)


async def test_a_zone_that_is_lost_and_comes_back_is_not_missed(stage: Stage) -> None:
    pod = stage.controllers.pod(3)
    stage.controllers.lost_nodes.add(3)
    pod.lose_node()
    await trio.sleep(ABSENT_SECONDS)
    refuse_all(stage, [1, 2])
    stage.controllers.lost_nodes.discard(3)
    await pod.gone.wait()
    await stage.controllers.wait_ready(3)
    await finish(stage)


async def test_a_keeper_that_lost_its_disk_is_not_ready_before_it_is_filled_and_in_an_update_the_next_one_stays_until_then(
    stage: Stage,
) -> None:
    empty, leaving = await stage.lose_disk(2), stage.controllers.pod(3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.controllers.rolling_update)
        await until(lambda: unready(stage, empty) != [])
        await trio.sleep(stage.quorum.min_ready_seconds)
        assert turns(stage, "SIGTERM") == ["walkeeper-3"]  # the controller does not look at keeper 2
        assert not leaving.gone.is_set()
        refuse_all(stage, [1])
        empty.place.join()
        await leaving.gone.wait()
        filled = await stage.timeline(empty)
        assert filled["is_whole"]
        nursery.cancel_scope.cancel()
    await stage.controllers.wait_ready(2, 3)
    await finish(stage)


def unready(stage: Stage, pod: Pod) -> list[Any]:
    """When a pod said that it was not."""
    return [
        each for each in stage.kubelet.probes if (each.pod, each.kind, each.ok) == (pod.name, "readiness", False)
    ]


async def test_two_keepers_that_are_deleted_at_once_leave_one_after_the_other(stage: Stage) -> None:
    leaving = [stage.controllers.pod(index) for index in (2, 3)]
    for pod in leaving:
        pod.delete()
    for pod in leaving:
        await pod.gone.wait()
    await stage.controllers.wait_ready(2, 3)
    goings = [(turn.pod, turn.what) for turn in stage.kubelet.turns if turn.what in ("gone", "started")]
    first, second = turns(stage, "gone")
    assert goings[-4:] == [(first, "gone"), (first, "started"), (second, "gone"), (second, "started")]
    await finish(stage)


# -- manifests that are wrong are caught ---------------------------------------------------------------------


async def test_a_grace_period_that_is_shorter_than_the_leaving_is_caught(
    stage: Stage, manifests: Manifests
) -> None:
    pod_of(manifests)["terminationGracePeriodSeconds"] = 4
    stage.kubelet.quorum = read_quorum(manifests)
    for index in (2, 3):
        stage.controllers.pod(index).delete()
    await wait_found(stage, Wrong.KILLED)


async def test_keepers_that_do_not_wait_for_each_other_are_caught(
    work_directory: Path, primary: postgres.Cluster, manifests: Manifests
) -> None:
    for variable in keeper_of(manifests)["env"]:
        if variable["name"] == "WALKEEPER_LEAVE_TIMEOUT":
            variable["value"] = "0s"
    async with on_stage(work_directory, primary, read_quorum(manifests)) as stage:
        for index in (2, 3):
            stage.kubelet.slow_seconds[index] = SLOW_SECONDS
            stage.controllers.pod(index).delete()
        await until(lambda: stage.stall() > STALL_SECONDS_MAX)


async def test_probes_that_are_mixed_up_are_caught(stage: Stage, manifests: Manifests) -> None:
    keeper = keeper_of(manifests)
    keeper["readinessProbe"]["httpGet"]["path"] = "/livez"
    keeper["livenessProbe"] |= {"httpGet": {"path": "/readyz", "port": "metrics"}, "periodSeconds": 1}
    stage.kubelet.quorum = read_quorum(manifests)
    await stage.lose_disk(2)
    await wait_found(stage, Wrong.TOO_SOON)
    await wait_found(stage, Wrong.CONDEMNED)


async def wait_found(stage: Stage, wrong: Wrong) -> None:
    """Return when a finding of that kind has been made.

    Cancellation: at any time.
    """
    await until(lambda: wrong in {finding.wrong for finding in stage.findings})


def keeper_of(manifests: Manifests) -> Any:
    (container,) = pod_of(manifests)["containers"]
    return container


def pod_of(manifests: Manifests) -> Any:
    (stateful_set,) = manifests.of("StatefulSet")
    return stateful_set["spec"]["template"]["spec"]
