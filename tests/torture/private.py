"""Namespaces for the whole session: what it mounts and connects, nobody else sees, and nothing of it can stay behind.

Purpose: become a process with its own network and mounts, where the machine allows that; know what it allows.
Rules: root only (PostgreSQL would not run as the root of a user namespace); what is not possible is said, not tried later.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import programs

INSIDE = "TORTURE_HAS_OWN"
TRY_SECONDS = 20.0
DISK_BYTES_MIN = 16 << 20
OWN_MOUNTS = ["unshare", "--mount", "--propagation", "private"]
OWN_NETWORK = ["unshare", "--net"]
WIRES = "ip link set lo up && ip link add name one type veth peer name two && ip link add name bridge type bridge"


@dataclass(frozen=True, slots=True)
class Means:
    """What this machine allows; the reason where it does not."""

    no_disks: str | None
    no_networks: str | None


def become_private() -> None:
    """Go on in namespaces of our own, as the same process; what the machine does not allow stays as it is."""
    if INSIDE in os.environ or os.geteuid() != 0:
        return
    own = [
        (name, flags)
        for name, flags, trial in (
            ("mounts", OWN_MOUNTS, ["true"]),
            ("network", OWN_NETWORK, ["nsenter", "--net=/proc/self/ns/net", "sh", "-c", WIRES]),
        )
        if succeeds([*flags, *trial])
    ]
    if not own:
        return
    os.environ[INSIDE] = " ".join(name for name, _ in own)
    flags = [flag for _, flags in own for flag in flags[1:]]
    os.execvp("unshare", ["unshare", *flags, sys.executable, "-m", "torture", *sys.argv[1:]])


def find_means() -> Means:
    """Which faults can be had."""
    why = None if os.geteuid() == 0 else "not root"
    own = os.environ.get(INSIDE, "").split()
    no_disks = trouble_with_disks() if "mounts" in own else why or "no mount namespace"
    return Means(no_disks, None if "network" in own else why or "no network namespaces with ip, nsenter and veth")


def trouble_with_disks() -> str | None:
    """Mount one, to see."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            with mounted(Path(scratch) / "disk", DISK_BYTES_MIN):
                return None
        except programs.ProgramFailed as error:
            return str(error)


@contextmanager
def mounted(place: Path, size_bytes: int) -> Iterator[None]:
    """An ext4 file system of that size in a (sparse) file; raises ProgramFailed where that is not to be had."""
    image = place.with_name(f"{place.name}.img")
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(size_bytes)
    run("mkfs.ext4", "-q", "-m", "0", str(image))
    run("mount", "-o", "loop", str(image), str(place))
    try:
        yield
    finally:
        run("umount", "--lazy", str(place))


def run(*command: str) -> None:
    """Raise ProgramFailed if it does not do well."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=TRY_SECONDS, stdin=subprocess.DEVNULL
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise programs.ProgramFailed(str(error)) from None
    if done.returncode != 0:
        raise programs.ProgramFailed(f"{command[0]}: {done.stderr.strip()}")


def succeeds(command: list[str]) -> bool:
    """Whether a command does well here."""
    try:
        run(*command)
    except programs.ProgramFailed:
        return False
    return True
