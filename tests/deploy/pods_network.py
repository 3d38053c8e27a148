"""A network for pods: each has an address of its own, for the time of its life, and a name that others find it by.

Purpose: what a cluster gives to pods, with nothing but namespaces of this machine; nobody else sees them, and they end with the
processes that hold them, also when nobody can clean up.
Rules: root only, and what cannot be had is an error.  Nothing reaches the machine's own network.

```
kubelet, which probes ── 10.77.0.10 ─┐
sidecar ──────────────── 10.77.0.11 ─┼─ bridge
pods ─────────────────── 10.77.0.12… ┘   a new address each time, as a pod that comes back has
```
"""

import ctypes
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import programs
from torture.network import Namespace, Wire

CLONE_NEWNET = 0x40000000
HALVES = ("10.77.0.0/25", "10.77.0.128/25")  # which win over the /24 that all are in
PLACES_MAX = 200  # addresses end with one byte

FILES_FIRST = "hosts: files\n"
"""A name that nobody has is unknown at once, as cluster DNS says it, and not after asking servers that are not there."""

ENTER = """
set -e
scratch=$1 hosts=$2 sources=$3
shift 3
mount -t tmpfs none "$scratch"
for top in etc var; do
    mkdir "$scratch/$top" "$scratch/$top.work"
    mount -t overlay none -o "lowerdir=/$top,upperdir=$scratch/$top,workdir=$scratch/$top.work" "/$top"
done
mount --bind "$hosts" /etc/hosts
mount --bind "$sources" /etc/nsswitch.conf
while [ "$1" != -- ]; do
    mkdir -p "$2"
    mount --bind "$1" "$2"
    shift 2
done
shift
exec "$@"
"""
"""Mounts are made on layers of the process's own: a directory that is missing appears for it only."""

NOTHING: Mapping[str, Any] = {}

libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Place:
    """Where one pod is: a network namespace behind a wire."""

    wire: Wire
    _life: ExitStack

    @property
    def address(self) -> str:
        """Its IP address."""
        return self.wire.host

    def part_from_all_but(self, node: "Place") -> None:
        """Nobody else hears anything from here."""
        self.wire.place.ip(f"route add {node.address} dev eth0", *(f"route add blackhole {net}" for net in HALVES))

    def join(self) -> None:
        """After `part_from_all_but`: everybody does."""
        self.wire.place.ip(*(f"route del blackhole {net}" for net in HALVES))

    def close(self) -> None:
        """Its address answers nobody any more.  The processes in it have ended."""
        self._life.close()


@dataclass(slots=True)
class PodsNetwork:
    """The bridge, the node from which everybody is probed, and the names."""

    bench: Namespace
    directory: Path
    stack: ExitStack
    _names: dict[str, str] = field(default_factory=dict)
    _count: int = 0

    @classmethod
    @contextmanager
    def new(cls, directory: Path) -> "Iterator[PodsNetwork]":
        """Lay it; raises ProgramFailed where this machine allows no such thing."""
        if os.geteuid() != 0:
            raise programs.ProgramFailed(
                "pods need network and mount namespaces, and those take root: run this as root"
            )
        (directory / "nsswitch.conf").write_text(FILES_FIRST)
        (directory / "hosts").touch()
        (directory / "scratch").mkdir()
        with ExitStack() as stack:
            bench = stack.enter_context(Namespace.new())
            bench.ip("link add bridge type bridge", "link set bridge up")
            yield cls(bench, directory, stack)

    def new_place(self) -> Place:
        """A namespace and a wire to it; it is closed with the network at the latest."""
        assert self._count < PLACES_MAX
        life = self.stack.enter_context(ExitStack())
        namespace = life.enter_context(Namespace.new())
        wire = Wire(self._count, self.bench, namespace, self.directory / "relay.log")
        wire.lay()
        self._count += 1
        return Place(wire, life)

    def inside(
        self,
        place: Place,
        *command: str,
        mounts: Mapping[str, Path] = NOTHING,
        environment: Mapping[str, str] = NOTHING,
    ) -> list[str]:
        """The command that runs a command there, as the same process, with the names and what is mounted where."""
        own = [str(self.directory / name) for name in ("scratch", "hosts", "nsswitch.conf")]
        pairs = [part for target, source in mounts.items() for part in (str(source), target)]
        variables = [f"{name}={value}" for name, value in environment.items()]
        own_mounts = [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            ENTER,
            "sh",
            *own,
            *pairs,
            "--",
        ]
        with_us = ["setpriv", "--pdeathsig", "KILL"]  # also when we are killed ourselves
        return [*with_us, *place.wire.place.inside(*own_mounts, "env", *variables, *command)]

    def name(self, names: Sequence[str], address: str | None) -> None:
        """Let names stand for an address from now on, or for nothing."""
        for each in names:
            if address is None:
                self._names.pop(each, None)
            else:
                self._names[each] = address
        lines = ["127.0.0.1 localhost\n", *(f"{address} {name}\n" for name, address in self._names.items())]
        text = "".join(lines).encode()
        handle = os.open(self.directory / "hosts", os.O_WRONLY)  # in place: pods have this very file
        try:
            os.pwrite(handle, text, 0)
            os.ftruncate(handle, len(text))
        finally:
            os.close(handle)


@contextmanager
def in_network_of(place: Place) -> Iterator[None]:
    """What this thread opens meanwhile belongs to that network.  Nothing may wait in the block."""
    with (
        open("/proc/thread-self/ns/net", "rb") as ours,
        open(f"/proc/{place.wire.place.pid}/ns/net", "rb") as theirs,
    ):
        enter_network(theirs.fileno())
        try:
            yield
        finally:
            enter_network(ours.fileno())


def enter_network(handle: int) -> None:
    """setns(2), which Python has from 3.12 on."""
    if libc.setns(handle, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def new_socket(place: Place) -> socket.socket:
    """A TCP socket in the network of a place."""
    with in_network_of(place):
        return socket.socket()
