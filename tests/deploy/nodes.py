"""The kubelet of every node: starts pods, probes, restarts and ends them as the manifests say, and writes down what comes of it.

Purpose: real keeper processes, with the rendered command lines, variables, probes and grace periods, in real time.
Rules: whoever wants to disturb a pod says so first; whatever else goes wrong is a `Finding`.  All processes end with the
kubelet's scope.

Played as Kubernetes 1.35 does it: the startup probe holds the others back, and only it; `failureThreshold` failures in a row
condemn a container, which has the probe's own grace period then; the first restart comes at once, the next after 10 s, 20 s …;
while a pod is ended, it is asked for its readiness only, and counts as unready.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM

import trio

import programs
from deploy import manifests
from deploy.pods_network import Place, PodsNetwork, new_socket
from deploy.podspec import Probe, Quorum

LOOK_SECONDS = 0.05
COMES_SECONDS = 120.0  # whatever is waited for has come by then: grace periods are 90 s
BACK_OFF_SECONDS = (0.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0)
ANSWER_BYTES_MAX = 1 << 20
SUCCESSES = range(200, 400)


class Wrong(Enum):
    """What must not happen by itself."""

    LIVENESS = "a liveness probe failed"
    UNREADY = "it was ready and is not any more"
    CONDEMNED = "a probe had it restarted"
    ENDED = "it ended by itself"
    KILLED = "it did not end within its grace period"
    EXIT_CODE = "asked to end, it did so with another code than 0"
    TOO_SOON = "it was ready, and lacked what others knew to be committed"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that went wrong."""

    at: float
    pod: str
    wrong: Wrong
    detail: str


@dataclass(frozen=True, slots=True)
class Probed:
    """The result of one probe."""

    at: float
    pod: str
    kind: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Turn:
    """A change in a pod's life."""

    at: float
    pod: str
    what: str


@dataclass(slots=True)
class Pod:
    """One pod, from its birth to its end; the next of its name is another one."""

    made: manifests.Pod
    place: Place
    volume: Path
    program: programs.Program
    slow_start_seconds: float = 0.0
    ready_at: float | None = None
    started: bool = False
    restarts: int = 0
    ended_within: float | None = None
    """How long it took to end, once it was asked to."""
    excused: bool = False
    condemned_by: Probe | None = None
    deletion: trio.Event = field(default_factory=trio.Event)
    gone: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def name(self) -> str:
        """As it is told of."""
        return self.made.name

    @property
    def is_healthy(self) -> bool:
        """As budgets and controllers count it."""
        return self.ready_at is not None and not self.deletion.is_set()

    def delete(self) -> None:
        """As `kubectl delete pod` does."""
        self.deletion.set()

    def kill(self) -> None:
        """The process is gone without a warning; the kubelet shall not wonder."""
        self.excused = True
        self.program.signal(SIGKILL)

    def lose_node(self) -> None:
        """Its node is gone, kernel and all: no packet tells of it, and nobody probes any more."""
        self.place.wire.cut()
        self.excused = True
        self.scope.cancel()


@dataclass(slots=True)
class Kubelet:
    """Every node's."""

    quorum: Quorum
    network: PodsNetwork
    node: Place
    directory: Path
    nursery: trio.Nursery
    on_ready: Callable[[Pod], Awaitable[None]]
    slow_seconds: dict[int, float] = field(default_factory=dict)
    """How long the next process of a pod's number stands still at first."""
    pods: dict[int, Pod] = field(default_factory=dict)
    probes: list[Probed] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def volume(self, index: int) -> Path:
        """The disk of a pod's name, which outlives it; made new where there is none."""
        path = self.directory / f"data-{self.quorum.pods[index].name}"
        (path / "lost+found").mkdir(parents=True, exist_ok=True)  # as on a fresh ext4
        return path

    def secret(self, name: str) -> Path:
        """The files of a Secret, which is the same for all pods."""
        return self.directory / name

    def start(self, index: int) -> Pod:
        """A new pod, with an address that no pod has had."""
        made, volume, place = self.quorum.pods[index], self.volume(index), self.network.new_place()
        command = self.network.inside(
            place,
            *self.quorum.command(),
            mounts={
                self.quorum.data: volume,
                **{at: self.secret(name) for name, at in self.quorum.secrets.items()},
            },
            environment=made.environment(self.quorum.container),
        )
        program = programs.Program(made.name, command, self.directory / f"{made.name}.log")
        slow_seconds = self.slow_seconds.pop(index, 0.0)
        pod = self.pods[index] = Pod(made, place, volume, program, slow_seconds)
        self.network.name(self.quorum.host_names(index), place.address)
        self.nursery.start_soon(self._live, pod)
        return pod

    # ---- the life of a pod

    async def _live(self, pod: Pod) -> None:
        try:
            with pod.scope:
                while not pod.deletion.is_set():
                    await self._run_container(pod)
                    if not pod.deletion.is_set():
                        await trio.sleep(BACK_OFF_SECONDS[pod.restarts])
                        pod.restarts += 1
        finally:
            pod.program.kill()
            self._turn_unready(pod, "gone")
            self._note(pod, "gone")
            if self.pods.get(pod.made.ordinal) is pod:
                self.network.name(self.quorum.host_names(pod.made.ordinal), None)
            pod.place.close()
            pod.gone.set()

    async def _run_container(self, pod: Pod) -> None:
        pod.condemned_by, pod.started = None, False
        pod.program.start()
        self._note(pod, "started")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._probe, pod)
            if pod.slow_start_seconds:
                nursery.start_soon(stand_still, pod)
            while not self._has_to_end(pod):  # noqa: ASYNC110  processes tell nobody
                await trio.sleep(LOOK_SECONDS)
            await self._end_container(pod)
            nursery.cancel_scope.cancel()
        self._turn_unready(pod, "its container ended")
        pod.excused = False

    def _has_to_end(self, pod: Pod) -> bool:
        return not pod.program.is_running or pod.deletion.is_set() or pod.condemned_by is not None

    async def _end_container(self, pod: Pod) -> None:
        if not pod.program.is_running:
            self._find(pod, Wrong.ENDED, f"code {pod.program.wait()}\n{pod.program.log[-1000:]}")
        elif pod.condemned_by is not None:
            self._find(pod, Wrong.CONDEMNED, pod.condemned_by.path)
            await self._terminate(pod, pod.condemned_by.grace_seconds)
        else:
            code = await self._terminate(pod, self.quorum.grace_seconds)
            if code != 0:
                self._find(pod, Wrong.KILLED if code is None else Wrong.EXIT_CODE, f"code {code}")

    async def _terminate(self, pod: Pod, grace_seconds: float) -> int | None:
        """The exit code; None if it had to be killed."""
        self._note(pod, "SIGTERM")
        begin = trio.current_time()
        pod.program.signal(SIGTERM)
        with trio.move_on_after(grace_seconds):
            await until(lambda: not pod.program.is_running)
        if pod.program.is_running:
            pod.program.kill()
            return None
        pod.ended_within = trio.current_time() - begin
        return pod.program.wait()

    # ---- probes

    async def _probe(self, pod: Pod) -> None:
        """All of a container's."""
        if await self._probe_until_turn(pod, "startup", self.quorum.startup, wanted=True):
            pod.started = True
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._probe_liveness, pod)
                nursery.start_soon(self._probe_readiness, pod)
        else:
            pod.condemned_by = self.quorum.startup

    async def _probe_liveness(self, pod: Pod) -> None:
        if not await self._probe_until_turn(pod, "liveness", self.quorum.liveness, wanted=False):
            pod.condemned_by = self.quorum.liveness

    async def _probe_readiness(self, pod: Pod) -> None:
        ready = False
        while True:
            ready = await self._probe_until_turn(pod, "readiness", self.quorum.readiness, wanted=not ready)
            if not ready:
                self._turn_unready(pod, "readiness")
            elif not pod.deletion.is_set():
                pod.ready_at = trio.current_time()
                self._note(pod, "ready")
                self.nursery.start_soon(self.on_ready, pod)

    async def _probe_until_turn(self, pod: Pod, kind: str, probe: Probe, *, wanted: bool) -> bool:
        """Ask until it is as wanted, or for the startup probe until it has failed for good; which of both."""
        await trio.sleep(probe.initial_delay_seconds)
        successes = failures = 0
        while True:
            begin = trio.current_time()
            ok = await self._ask(pod, kind, probe)
            successes, failures = (successes + 1, 0) if ok else (0, failures + 1)
            if wanted and successes >= probe.success_threshold:
                return True
            if failures >= probe.failure_threshold and (kind != "readiness" or not wanted):
                return False
            await trio.sleep_until(begin + probe.period_seconds)

    async def _ask(self, pod: Pod, kind: str, probe: Probe) -> bool:
        """One probe, written down."""
        if kind == "liveness" and pod.deletion.is_set():
            await trio.sleep_forever()
        status, detail = 0, f"no answer within {probe.timeout_seconds:g} s"
        with trio.move_on_after(probe.timeout_seconds):
            try:
                status, body = await ask(self.node, pod.place.address, probe.port, probe.path)
                detail = f"{status} {body[:200].decode(errors='replace')}"
            except OSError as error:
                detail = str(error)
            except trio.BrokenResourceError as error:
                detail = str(error.__cause__)
        self.probes.append(Probed(trio.current_time(), pod.name, kind, status in SUCCESSES, detail))
        if kind == "liveness" and status not in SUCCESSES:
            self._find(pod, Wrong.LIVENESS, detail)
        return status in SUCCESSES

    # ---- writing down

    def _turn_unready(self, pod: Pod, why: str) -> None:
        if pod.ready_at is not None:
            pod.ready_at = None
            self._note(pod, f"unready: {why}")
            if not pod.deletion.is_set() and why == "readiness":
                self._find(pod, Wrong.UNREADY, self.probes[-1].detail)

    def _note(self, pod: Pod, what: str) -> None:
        self.turns.append(Turn(trio.current_time(), pod.name, what))

    def _find(self, pod: Pod, wrong: Wrong, detail: str) -> None:
        if not pod.excused:
            self.findings.append(Finding(trio.current_time(), pod.name, wrong, detail))


async def until(holds: Callable[[], bool]) -> None:
    """Return when something has become so; it has a limit.

    Cancellation: at any time.
    """
    with trio.fail_after(COMES_SECONDS):
        while not holds():  # noqa: ASYNC110  processes tell nobody
            await trio.sleep(LOOK_SECONDS)


async def stand_still(pod: Pod) -> None:
    """As a process whose first page comes from a disk that does not answer yet."""
    pod.program.signal(SIGSTOP)
    await trio.sleep(pod.slow_start_seconds)
    pod.slow_start_seconds = 0.0
    pod.program.signal(SIGCONT)


async def ask(place: Place, address: str, port: int, path: str, token: str = "") -> tuple[int, bytes]:
    """GET from a place, as the kubelet asks, over a connection of its own: status and body.

    Raises OSError, BrokenResourceError.

    Cancellation: at any time.
    """
    lines = [f"GET {path} HTTP/1.1", f"Host: {address}:{port}", "User-Agent: kube-probe/1.35", "Connection: close"]
    request = "\r\n".join([*lines, *([f"Authorization: Bearer {token}"] if token else []), "", ""])
    with trio.socket.from_stdlib_socket(new_socket(place)) as sock:
        await sock.connect((address, port))
        stream = trio.SocketStream(sock)
        await stream.send_all(request.encode())
        answer = b""
        while len(answer) < ANSWER_BYTES_MAX and (part := await stream.receive_some()):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    return (int(words[1]) if len(words) > 2 else 0), body
