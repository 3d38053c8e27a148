"""Keepers with network namespaces of their own, joined by wires that can be cut and spoilt.

Purpose: partitions and delay for single keepers, without a trace on the machine's own network.
Rules: root only, and only inside the private namespace that the session has given itself (private.py); namespaces live as
long as the processes that hold them, which end with us, also when nobody can clean up.  Nothing waits without a limit.

```
session, PostgreSQL, sidecar            wire (no addresses)                 keeper 1
   10.77.0.1 ─ main ──────────── trunk ─┐            ┌─ port1 ───────────── eth0 ─ 10.77.0.11
                                        ├─ bridge ───┤
                        (spare1 ─ loop1)┘            └─ port2 …
```
A wire is cut by taking its port down: nobody hears of it.  It is spoilt by taking its port out of the bridge, one end of
the loop into it, and carrying frames between the port and the spare end (relay.py).
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import programs

SETUP_SECONDS = 10.0
MAIN_ADDRESS = "10.77.0.1"
RELAY = Path(__file__).with_name("relay.py")


@dataclass(slots=True)
class Namespace:
    """A network namespace, and the process that keeps it: `cat`, which ends when our end of its pipe is gone."""

    _holder: "subprocess.Popen[bytes]"

    @classmethod
    @contextmanager
    def new(cls) -> "Iterator[Namespace]":
        command = ["unshare", "--net", "sh", "-c", "echo; exec cat"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, process_group=0
        ) as holder:
            try:
                assert holder.stdout is not None
                if not holder.stdout.readline():
                    raise programs.ProgramFailed("unshare --net made no namespace")
                yield cls(holder)
            finally:
                holder.kill()

    @property
    def pid(self) -> int:
        """Whose namespace it is."""
        return self._holder.pid

    def inside(self, *command: str) -> list[str]:
        """The command that runs a command in it, as the same process."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", *command]

    def ip(self, *commands: str) -> None:
        """Let `ip` do these."""
        run_ip(commands, self.inside())


def run_ip(commands: Sequence[str], inside: Sequence[str] = ()) -> None:
    """All of them, in one run of `ip`; raises ProgramFailed at the first that fails."""
    done = subprocess.run(
        [*inside, "ip", "-batch", "-"], input="\n".join(commands) + "\n", capture_output=True, text=True,
        timeout=SETUP_SECONDS, check=False, env=programs.plain_environment(),
    )  # fmt: skip
    if done.returncode != 0:
        raise programs.ProgramFailed(f"ip failed: {done.stderr.strip()}")


@dataclass(slots=True)
class Wire:
    """One keeper's connection to everybody else."""

    number: int
    bench: Namespace  # where the wires are
    place: Namespace  # where the keeper is
    log_path: Path
    _relay: "programs.Program | None" = field(default=None, init=False)

    @property
    def host(self) -> str:
        """The keeper's address."""
        return f"10.77.0.{10 + self.number}"

    def lay(self) -> None:
        """Make it, whole."""
        n = self.number
        self.bench.ip(
            f"link add port{n} type veth peer name eth0 netns {self.place.pid}",
            f"link add loop{n} type veth peer name spare{n}",
            f"link set port{n} master bridge up",
            f"link set loop{n} up",
            f"link set spare{n} up",
        )
        self.place.ip("link set lo up", f"addr add {self.host}/24 dev eth0", "link set eth0 up")

    def cut(self) -> None:
        """Nothing comes through, and nobody is told."""
        self.bench.ip(f"link set port{self.number} down")

    def spoil(self, *, seconds: float = 0.0, loss: float = 0.0, loss_back: float = 0.0, seed: int = 0) -> None:
        """Frames are late by ``seconds``, or lost, from the keeper and ``back`` to it."""
        n = self.number
        python = [sys.executable, "-I", "-S", str(RELAY), f"port{n}", f"spare{n}"]
        more = [f"--seconds={seconds}", f"--loss={loss}", f"--loss-back={loss_back}", f"--seed={seed}"]
        self._relay = programs.Program(f"relay {n}", self.bench.inside(*python, *more), self.log_path)
        self.bench.ip(f"link set port{n} nomaster", f"link set loop{n} master bridge")
        self._relay.start()

    def repair(self) -> None:
        """Everything comes through again."""
        if self._relay is not None and not self._relay.is_running:
            raise programs.ProgramFailed(f"{self._relay.name} ended\n{self._relay.log[-2000:]}")
        self.end_relay()
        # The loop leaves the bridge, or the bridge would send there what is for the keeper until that speaks.
        self.bench.ip(f"link set loop{self.number} nomaster", f"link set port{self.number} master bridge up")

    def end_relay(self) -> None:
        """Whatever was on its way is lost.  A wire without one does not mind."""
        if self._relay is not None:
            self._relay.kill()
            self._relay = None


@contextmanager
def wires(directory: Path, count: int) -> Iterator[list[Wire]]:
    """So many keepers' places and the wires to them; everything is gone at the end."""
    laid: list[Wire] = []
    with Namespace.new() as bench:
        bench.ip("link add bridge type bridge", "link set bridge up")
        run_ip([
            "link set lo up",
            f"link add main type veth peer name trunk netns {bench.pid}",
            f"addr add {MAIN_ADDRESS}/24 dev main",
            "link set main up",
        ])  # fmt: skip
        bench.ip("link set trunk master bridge up")
        with _places(count) as places:
            for number, place in enumerate(places, 1):
                laid.append(Wire(number, bench, place, directory / f"relay{number}.log"))
                laid[-1].lay()
            try:
                yield laid
            finally:
                for wire in laid:
                    wire.end_relay()


@contextmanager
def _places(count: int) -> Iterator[list[Namespace]]:
    if count == 0:
        yield []
        return
    with Namespace.new() as first, _places(count - 1) as others:
        yield [first, *others]
