"""A database whose commits wait for keepers in pods, writers that never stop, and the proof that nothing was lost.

Purpose: everything around the pods.  The sidecar is where a client pod would be, and finds keepers by the names of the Service.
Rules: whatever runs ends with the stack and the nursery.
"""

import json
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio
import trustme

import postgres
import programs
from certified import chain_of
from compared_wal import compare_wal
from demo.ledger import Ledger, count_lost, write
from deploy.controllers import Controllers
from deploy.kubelet import MountedSecret
from deploy.manifests import load
from deploy.nodes import Finding, Kubelet, Pod, Wrong, ask
from deploy.pods_network import Place, PodsNetwork
from deploy.podspec import Quorum
from minted import Mint
from replicated import NAME
from threaded import blocking
from walkeeper.formats.segments import PARTIAL_SUFFIX
from walkeeper.ids import TenantTimelineId

WRITERS = 4
REST_SECONDS = 0.02  # between two commits of one writer
SEGMENT_MIB = 4
PRIMARY: dict[str, str | int] = {
    "max_slot_wal_keep_size": "2GB",
    "wal_keep_size": "1GB",
}  # what keepers have is compared with it

START_SECONDS = 90.0  # also on a machine with many other things to do
SETTLE_SECONDS = 60.0
LOOK_SECONDS = 0.05
YARDSTICK_BYTES = 8192  # what a small commit writes
CAUGHT_UP_SECONDS = 2.0  # a keeper that is ready has what was committed a moment ago, on a busy machine, too


@dataclass(slots=True)
class Yardstick:
    """How long this machine keeps somebody waiting who only wakes up, writes a page and has it fsynced."""

    path: Path
    longest_pause: float = 0.0

    async def keep_measuring(self) -> None:
        """Write again and again.

        Cancellation: waits for the fsync.
        """
        while True:
            began = trio.current_time()
            await trio.sleep(LOOK_SECONDS)
            await blocking(self._write)
            self.longest_pause = max(self.longest_pause, trio.current_time() - began - LOOK_SECONDS)

    def _write(self) -> None:
        with self.path.open("wb") as file:
            file.write(bytes(YARDSTICK_BYTES))
            file.flush()
            os.fsync(file.fileno())


@dataclass(slots=True)
class Stage:
    """Everyone."""

    work: Path
    quorum: Quorum
    network: PodsNetwork
    node: Place
    client: Place
    primary: postgres.Cluster
    kubelet: Kubelet
    controllers: Controllers
    ttid: TenantTimelineId
    ledger: Ledger
    sidecar: programs.Program
    backup: Path
    access: "Access"
    yardstick: Yardstick
    is_over: bool = False

    def stall(self) -> float:
        """Seconds of the longest pause of commits, without what the machine makes of it."""
        pause = max(self.ledger.longest_pause, trio.current_time() - self.ledger.last_at)
        return pause - self.yardstick.longest_pause

    @property
    def findings(self) -> list[Finding]:
        """What went wrong."""
        return self.kubelet.findings

    def story(self) -> str:
        """What happened to pods, for people."""
        begin = self.kubelet.turns[0].at
        lines = [f"{turn.at - begin:7.2f} {turn.pod} {turn.what}" for turn in self.kubelet.turns]
        return "\n".join([*lines, *(f"{each.at - begin:7.2f} {each}" for each in self.findings)])

    # ---- the keepers

    async def lose_disk(self, index: int) -> Pod:
        """A node is lost with its disk; the pod that comes back is empty, and is reached by probes only, until it may `join`.

        Cancellation: at any time.
        """
        self.controllers.lost_nodes.add(index)
        lost = self.controllers.pod(index)
        lost.lose_node()
        await lost.gone.wait()
        shutil.rmtree(lost.volume)
        pod = self.kubelet.start(index)
        pod.place.part_from_all_but(self.node)
        self.controllers.lost_nodes.discard(index)
        return pod

    async def ask(self, pod: Pod, path: str) -> Any:
        """JSON from the management API, or None.

        Cancellation: at any time.
        """
        with trio.move_on_after(CAUGHT_UP_SECONDS):
            try:
                status, body = await ask(
                    pod.place, "127.0.0.1", self.quorum.management_port, path, self.access.token
                )
            except (OSError, trio.BrokenResourceError):
                return None
            return json.loads(body) if status == 200 else None
        return None

    async def timeline(self, pod: Pod) -> Any:
        """What a keeper says of the timeline, or None."""
        return await self.ask(pod, f"/v1/tenant/{self.ttid.tenant_id}/timeline/{self.ttid.timeline_id}")

    async def look_at_ready(self, pod: Pod) -> None:
        """A pod that says that it is ready has what the others know to be committed, or a finding is made of it.

        Cancellation: at any time.
        """
        others = [await self.timeline(each) for each in self.kubelet.pods.values() if each is not pod]
        committed = max((programs.parse_lsn(each["commit_lsn"]) for each in others if each), default=0)
        own: Any = None
        with trio.move_on_after(CAUGHT_UP_SECONDS):
            while committed and not pod.gone.is_set():
                own = await self.timeline(pod)
                if own and own["is_whole"] and programs.parse_lsn(own["flush_lsn"]) >= committed:
                    return
                await trio.sleep(LOOK_SECONDS)
        if committed and not pod.deletion.is_set():
            told = f"{own and (own['flush_lsn'], own['is_whole'])} of {programs.format_lsn(committed)}"
            self.findings.append(Finding(trio.current_time(), pod.name, Wrong.TOO_SOON, told))

    # ---- the end

    def run_tool(self, command: str, *arguments: str) -> str:
        """One of walkeeper's tools, where a client is; what it printed."""
        line = self.network.inside(self.client, programs.PROGRAM, command, *arguments)
        program = programs.Program(command, line, self.work / f"{command}.txt")
        with program:
            program.start()
            code = program.wait(SETTLE_SECONDS)
        assert code == 0, program.log
        return program.log

    async def lose_database(self) -> None:
        """Under load the database is lost, and nothing of what it had acknowledged is: keepers have it, and give it back.

        Cancellation: at any time, but for what blocks.
        """
        await self.controllers.wait_ready(*self.quorum.pods)
        self.is_over = True
        await blocking(self.primary.kill)
        self.sidecar.kill()
        keepers = keepers_flag()
        names = ["--tenant", str(self.ttid.tenant_id), "--timeline", str(self.ttid.timeline_id)]
        printed = await blocking(lambda: self.run_tool("sync", *keepers, *names, *self.access.flags))
        end_lsn = programs.parse_lsn(printed.strip().splitlines()[-1])
        ends = await self._wait_everywhere(end_lsn)
        for index, pod in sorted(self.kubelet.pods.items()):
            segments = self.segments(pod)
            compared = await blocking(compare_wal, self.primary, segments, ends[index], SEGMENT_MIB << 20)
            assert compared.equal_bytes > 0
        rows = await self._restore(self.segments(self.kubelet.pods[min(self.quorum.pods)]))
        acknowledged = self.ledger.read()
        right, missing, wrong = count_lost(acknowledged, rows)
        assert (right, missing, wrong) == (len(acknowledged), 0, 0)
        assert acknowledged

    async def _wait_everywhere(self, lsn: int) -> dict[int, int]:
        """Where each keeper's WAL ends, once all have it up to there."""
        with trio.fail_after(SETTLE_SECONDS):
            while True:
                said = {index: await self.timeline(pod) for index, pod in self.kubelet.pods.items()}
                ends = {index: programs.parse_lsn(each["flush_lsn"]) for index, each in said.items() if each}
                if len(ends) == len(said) and min(ends.values()) >= lsn:
                    return ends
                await trio.sleep(LOOK_SECONDS)

    def segments(self, pod: Pod) -> list[Path]:
        """A keeper's WAL files, on its disk."""
        names = (pod.volume / str(self.ttid.tenant_id) / str(self.ttid.timeline_id)).glob("[0-9A-F]" * 24 + "*")
        return sorted(path for path in names if path.suffix in ("", PARTIAL_SUFFIX))

    async def _restore(self, segments: list[Path]) -> list[list[str]]:
        """The rows of a new database, from the first backup and one keeper's disk.

        Cancellation: at any time, but for what blocks.
        """
        archive = self.work / "archive"
        archive.mkdir()
        for segment in segments:
            shutil.copyfile(segment, archive / segment.name.removesuffix(PARTIAL_SUFFIX))
        with postgres.Cluster.prepare(self.work / "restored", self.primary.binaries) as restored:
            restored.adopt_backup(self.backup)
            restored.recover_from(archive)
            restored.configure(synchronous_standby_names="")
            await blocking(restored.start)
            with trio.fail_after(SETTLE_SECONDS):
                while await blocking(restored.sql, "SELECT pg_is_in_recovery()") != "f":  # noqa: ASYNC110  another program
                    await trio.sleep(LOOK_SECONDS)
            return await blocking(restored.rows, "SELECT writer, n, amount FROM ledger")


@dataclass(frozen=True, slots=True)
class Access:
    """What keepers let a client in with, if they ask."""

    flags: Sequence[str] = ()
    token: str = ""


def keep_secrets(directory: Path, quorum: Quorum) -> Access:
    """Make the Secrets that the manifests name, as deploy/README.md tells, and what clients have of them."""
    if not quorum.secrets:
        return Access()
    authority, mint = trustme.CA(), Mint.ed25519()
    leaf = authority.issue_cert(*(name for index in quorum.pods for name in quorum.host_names(index)))
    files = {
        "walkeeper-tls": {
            "ca.crt": authority.cert_pem.bytes(), "tls.crt": chain_of(leaf), "tls.key": leaf.private_key_pem.bytes(),
        },
        "walkeeper-auth-keys": {"key.pem": mint.pem},
        "walkeeper-peer-token": {"token": mint.for_everything()},
    }  # fmt: skip
    for name in quorum.secrets:
        MountedSecret(directory / name, os.getgid(), files[name])
    root, token = directory / "walkeeper-tls" / "ca.crt", directory / "walkeeper-peer-token" / "token"
    flags = ["--keeper-sslmode", "verify-full", "--keeper-sslrootcert", str(root), "--auth-token-path", str(token)]
    return Access(flags, token.read_text())


def keepers_flag() -> list[str]:
    """All of them, by the names that the example's sidecar is given."""
    for pod, container in load("sidecar-example").ours():
        return ["--keepers", pod.environment(container)["WALKEEPER_KEEPERS"]]
    raise AssertionError("the example has no sidecar")


@asynccontextmanager
async def on_stage(work: Path, primary: postgres.Cluster, quorum: Quorum) -> AsyncIterator[Stage]:
    """A primary that runs, keepers in pods, all of them ready, and writers at work."""
    with ExitStack() as stack:
        network = stack.enter_context(PodsNetwork.new(work))
        node, client = network.new_place(), network.new_place()
        ledger = Ledger(work / "acknowledged.txt")
        ledger.path.touch()
        conninfo = f"{primary.conninfo()} host={primary.directory}"  # its socket: no network lies between
        access = keep_secrets(work, quorum)
        command = [programs.PROGRAM, "propose", "--primary", conninfo, *keepers_flag(), *access.flags]
        sidecar = programs.Program("sidecar", network.inside(client, *command), work / "sidecar.log")
        stack.enter_context(sidecar)
        async with trio.open_nursery() as nursery:
            stage: Stage

            async def look(pod: Pod) -> None:
                await stage.look_at_ready(pod)

            kubelet = Kubelet(quorum, network, node, work, nursery, look)
            stage = Stage(
                work, quorum, network, node, client, primary, kubelet, Controllers(kubelet),
                TenantTimelineId.of_system(primary.system_identifier()), ledger, sidecar, work / "backup",
                access, Yardstick(work / "yardstick"),
            )  # fmt: skip
            for index in quorum.pods:
                kubelet.start(index)
            nursery.start_soon(stage.controllers.keep_replicas)
            try:
                await begin_load(stage, nursery)
                yield stage
            finally:
                print(stage.story())  # for those who look into what failed
                nursery.cancel_scope.cancel()


async def begin_load(stage: Stage, nursery: trio.Nursery) -> None:
    """All keepers ready, commits wait for them, a backup is taken, and writers write.

    Cancellation: at any time, but for what blocks.
    """
    primary = stage.primary
    with trio.fail_after(START_SECONDS):
        while not all(pod.is_healthy for pod in stage.kubelet.pods.values()):
            assert stage.findings == []
            await trio.sleep(LOOK_SECONDS)
        stage.sidecar.start()
        await blocking(partial(primary.configure, synchronous_standby_names=NAME))
        await blocking(primary.reload)
        query = f"SELECT sync_state FROM pg_stat_replication WHERE application_name = '{NAME}'"
        while await blocking(primary.sql, query) != "sync":
            stage.sidecar.pause()
        await blocking(partial(primary.base_backup, stage.backup, with_wal=False))
    for writer in range(WRITERS):
        nursery.start_soon(keep_writing, stage, writer)
    nursery.start_soon(stage.yardstick.keep_measuring)
    stage.ledger.watch_from_now()


async def keep_writing(stage: Stage, writer: int) -> None:
    """Commit until that is over; a writer whose server is gone before has no excuse.

    Cancellation: at any time.
    """
    await write(stage.primary, writer, stage.ledger, rest_seconds=REST_SECONDS)
    if not stage.is_over:
        raise programs.ProgramFailed("the database is gone")
