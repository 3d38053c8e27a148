"""The image of deploy/Containerfile, and containers of it, on a machine without a container engine.

Purpose: build the image with buildah on a Debian made by mmdebstrap, look into it, and run it as an engine would: its own
mount and process namespaces, its root file system read-only, any user, no privileges, process number 1.
Rules: standard library only: noxfile.py runs this file before anything is installed; everything blocks and nothing waits
without a limit.  buildah has a storage of its own, which goes when the tests have ended; the Debian is kept in .nox.
What this machine needs to reach packages goes into the build as secrets, and is not in the image.

Not here: assertions.

Run as a script it says what is missing here for all that, and exits 1 if anything is:
    python3 tests/container.py
"""

import configparser
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from programs import Program, ProgramFailed, plain_environment

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / ".nox" / "image-base" / "bookworm.tar"
CONTAINERFILE = ROOT / "deploy" / "Containerfile"

PACKAGES = {"buildah": "buildah", "mmdebstrap": "mmdebstrap", "unshare": "util-linux", "chroot": "coreutils"}
"""Programs, and the Debian packages that they are in."""

SLIM = (
    "--variant=minbase", "--include=usr-is-merged", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
    "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/info/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright", "--dpkgopt=force-unsafe-io",
    '--customize-hook=rm -f "$1/etc/resolv.conf" "$1/etc/hostname"',
)  # fmt: skip
"""What makes a Debian as small as the one that the Containerfile names, and as silent about the machine it was made on."""

BUILD_SECONDS = 900.0  # packages have to be fetched, and the machine may be busy
LOOK_SECONDS = 60.0
MOMENT_SECONDS = 0.01

DRIVERS = ("overlay", "vfs")
"""How buildah keeps layers: the first is quicker, the second copies files and works everywhere."""

AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
AUTHORITIES_THERE = "/run/authorities.pem"
PIP_FILES = ("/etc/pip.conf", "~/.config/pip/pip.conf", "~/.pip/pip.conf")
PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries", "cert")
"""Those that say how packages are reached, in whatever way."""


def missing() -> list[str]:
    """What has to be done before this can be used here."""
    wanted = sorted({package for name, package in PACKAGES.items() if shutil.which(name) is None})
    needed = [f"install {', '.join(wanted)} (apt-get install {' '.join(wanted)})"] if wanted else []
    if os.geteuid() != 0:
        needed.insert(0, "be root: mounting, and entering a root file system, takes that")
    return needed


def run(*command: str, seconds: float = LOOK_SECONDS) -> str:
    """What it printed.  Raises CalledProcessError, after its last words."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=seconds, stdin=subprocess.DEVNULL,
        env=plain_environment() | {"BUILDAH_ISOLATION": "chroot"},
    )  # fmt: skip
    if done.returncode != 0:
        print(done.stdout[-4000:], done.stderr[-4000:], file=sys.stderr)
    done.check_returncode()
    return done.stdout


def make_base() -> Path:
    """The root file system of a small Debian, as an archive; made once."""
    if not BASE.exists():
        BASE.parent.mkdir(parents=True, exist_ok=True)
        new = BASE.with_name("new.tar")
        run("mmdebstrap", "--quiet", *SLIM, "bookworm", str(new), seconds=BUILD_SECONDS)
        new.rename(BASE)
    return BASE


@dataclass(frozen=True, slots=True)
class Image:
    """What was built: its configuration as the Open Container Initiative has it, and its root file system."""

    config: Mapping[str, Any]
    root: Path

    @property
    def size_bytes(self) -> int:
        """Of everything in it, unpacked; a file that has several names counts once."""
        found = {(s.st_dev, s.st_ino): s.st_size for each in self.root.rglob("*") for s in [each.lstat()]}
        return sum(found.values())

    def files(self) -> list[str]:
        """Their paths in the image."""
        inside = (each for each in self.root.rglob("*") if each.is_file() and not each.is_symlink())
        return [f"/{each.relative_to(self.root)}" for each in inside]


@dataclass(frozen=True, slots=True)
class Builder:
    """buildah, with a storage in ``directory``."""

    directory: Path
    driver: str

    @classmethod
    def at(cls, directory: Path) -> Self:
        """With the quickest driver that works there."""
        for driver in DRIVERS[:-1]:
            try:
                cls(directory / driver, driver).buildah("info")
            except subprocess.CalledProcessError:
                continue
            return cls(directory, driver)
        return cls(directory, DRIVERS[-1])

    def buildah(self, *words: str, seconds: float = LOOK_SECONDS) -> str:
        """Run one of its commands."""
        places = ["--root", str(self.directory / "storage"), "--runroot", str(self.directory / "run")]
        return run("buildah", *places, "--storage-driver", self.driver, *words, seconds=seconds).strip()

    def build(self, **arguments: str) -> Image:
        """``arguments``: of the Containerfile, besides BASE."""
        base = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", base, str(make_base()), "/", seconds=BUILD_SECONDS)
        self.buildah("commit", "--quiet", "--rm", base, "localhost/base", seconds=BUILD_SECONDS)
        given = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        secrets = [f"--secret=id={name},src={path}" for name, path in self.ways_to_packages().items()]
        self.buildah(
            "bud", "--isolation=chroot", "--build-arg=BASE=localhost/base", *given, *secrets,
            f"--file={CONTAINERFILE}", "--tag=localhost/walkeeper", str(ROOT), seconds=BUILD_SECONDS,
        )  # fmt: skip
        described = json.loads(self.buildah("inspect", "--type=image", "localhost/walkeeper"))
        made = self.buildah("from", "--pull=never", "localhost/walkeeper")
        return Image(described["OCIv1"]["config"], Path(self.buildah("mount", made)))

    def ways_to_packages(self) -> dict[str, Path]:
        """The secrets of the Containerfile, from what pip is told on this machine."""
        settings = pip_settings(os.environ)
        found = {}
        if "cert" in settings or AUTHORITIES.exists():
            found["authorities.pem"] = Path(settings.get("cert", AUTHORITIES))
            settings["cert"] = AUTHORITIES_THERE
        found["pip.conf"] = self.directory / "pip.conf"
        lines = [f"{name} = {value}\n" for name, value in settings.items()]
        found["pip.conf"].write_text("[global]\n" + "".join(lines))
        return found

    def remove(self) -> None:
        """Everything that was built, and whatever is mounted."""
        self.buildah("rm", "--all")
        shutil.rmtree(self.directory)


def pip_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Files first, the environment counts more, as pip has it."""
    parser = configparser.RawConfigParser()
    parser.read(
        [os.path.expanduser(each) for each in (*PIP_FILES, environment.get("PIP_CONFIG_FILE", os.devnull))]
    )
    found = dict(parser.items("global")) if parser.has_section("global") else {}
    found |= {
        name[4:].lower().replace("_", "-"): text for name, text in environment.items() if name.startswith("PIP_")
    }
    return {name: found[name] for name in PIP_SETTINGS if name in found}


ENTER = """
set -eu
root=$1 data=$2 there=$3 user=$4; shift 4
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount --bind "$data" "$root$there"
mount -t proc -o hidepid=invisible proc "$root/proc"
exec chroot "$root" setpriv --reuid="$user" --regid="$user" --clear-groups \\
    --no-new-privs --inh-caps=-all --bounding-set=-all -- "$@"
"""
"""What an engine does, and of /proc no more than a systemd with ProtectProc=invisible leaves.  setpriv and env are those of the image; each replaces the one before, so number 1 is the last."""


@dataclass(slots=True)
class Container(Program):
    """A program of the image, as number 1 of its own processes, on a root file system that nobody can write."""

    def start(self) -> None:
        """And wait until there is a number 1."""
        Program.start(self)
        for _ in range(int(LOOK_SECONDS / MOMENT_SECONDS)):
            if self._children():
                return
            self.pause(MOMENT_SECONDS)
        raise ProgramFailed(f"{self.name} has not begun")

    def _children(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    @property
    def first_pid(self) -> int:
        """The number that its number 1 has outside."""
        return self._children()[0]

    def signal(self, number: signal.Signals) -> None:
        """As an engine sends it: from outside."""
        os.kill(self.first_pid, number)

    def kill(self) -> None:
        """Number 1 first: since it became another user, nothing else ends it when we go."""
        if self.is_running:
            self.signal(signal.SIGKILL)
        Program.kill(self)


def entering(
    image: Image, data: Path, user: int, words: Sequence[str], variables: Mapping[str, str], entry: Sequence[str]
) -> list[str]:
    """The command that runs ``entry`` with ``words`` in a container: all else is as the image's configuration says."""
    place = image.config["WorkingDir"]
    environment = [*image.config["Env"], *(f"{name}={value}" for name, value in variables.items())]
    return [
        "unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child",
        "sh", "-c", ENTER, "enter", str(image.root), str(data), place, str(user),
        "env", "--ignore-environment", f"--chdir={place}", *environment, *entry, *words,
    ]  # fmt: skip


if __name__ == "__main__":
    if needed := missing():
        sys.exit("the image cannot be built and tried here; first: " + "; ".join(needed))
