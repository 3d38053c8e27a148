"""The image: what is in it, what its configuration says, and that it runs where nothing can be written, as anybody."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import postgres
import walkeeper
from container import ROOT, Container, Image
from fix_image import NewContainer
from keeper_client import Client
from programs import ANSWER_SECONDS, LOOK_SECONDS, READY_SECONDS, ProgramFailed
from walkeeper.daemon.config import ListenConfig
from walkeeper.formats.frames import encode_frame
from walkeeper.formats.proposer import encode_proposer_message
from walkeeper.ids import TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import Lsn
from walkeeper.membership import NO_GENERATION
from walkeeper.messages import VoteRequest
from walkeeper.terms import Term
from writer import Writer

SIZE_MAX_BYTES = 200_000_000
GRACE_SECONDS = 10.0
"""What engines wait before they kill, if nobody says more."""

TTID = TenantTimelineId(TenantId(b"\x0a" * 16), TimelineId(b"\x0b" * 16))
DEAF_BYTES = 4096  # of answers that the kernel keeps for whoever does not read them

NOBODY_THERE = "127.0.0.1:1"
GAINS_PRIVILEGES = 0o6000

INSTALLERS = re.compile(
    r"/(pip|pip3|ensurepip|uv|gcc|cc|c\+\+|g\+\+|clang|ld|make)$|/site-packages/(pip|setuptools|hatchling)/"
)
LEFT_BEHIND = re.compile(
    r"^/var/lib/apt/lists/.|^/var/cache/apt/.|\.deb$|pip\.conf$|authorities\.pem$|^/build|/\.cache/|/\.git/|/\.nox/|/etc/apt/apt\.conf\.d/.*proxy"
)

TRY_TO_WRITE = """
import errno, os
kinds = {}
for place, directories, _ in os.walk("/"):
    directories[:] = [] if place in ("/proc", os.getcwd()) else directories
    if place in ("/proc", os.getcwd()):
        continue
    try:
        os.close(os.open(place + "/written", os.O_CREAT | os.O_WRONLY))
    except OSError as error:
        kinds.setdefault(errno.errorcode[error.errno], []).append(place)
    else:
        kinds.setdefault("written", []).append(place)
print({kind: len(places) for kind, places in kinds.items()})
open("mine", "w").close()
"""


class Keeper:
    """A keeper in a container, and what its port for probes says."""

    def __init__(self, new_container: NewContainer, **more: str) -> None:
        self.pg_port, http_port, self.metrics_port = postgres.free_ports(3)
        variables = {
            "WALKEEPER_ID": "1",
            "WALKEEPER_LISTEN_PG": f"127.0.0.1:{self.pg_port}",
            "WALKEEPER_LISTEN_HTTP": f"127.0.0.1:{http_port}",
            "WALKEEPER_LISTEN_METRICS": f"127.0.0.1:{self.metrics_port}",
        }
        self.container: Container = new_container("serve", **variables, **more)
        self.container.start()
        self._wait_ready()

    def ask(self, path: str) -> str:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.metrics_port}{path}", timeout=ANSWER_SECONDS
        ) as answer:
            return bytes(answer.read()).decode()

    def _wait_ready(self) -> None:
        for _ in range(int(READY_SECONDS / LOOK_SECONDS)):
            try:
                self.ask("/readyz")
                return
            except OSError:
                self.container.pause()
        raise ProgramFailed(f"not ready after {READY_SECONDS} s\n{self.container.log}")


def wait_for_log(container: Container, words: str) -> None:
    for _ in range(int(READY_SECONDS / LOOK_SECONDS)):
        if words in container.log:
            return
        container.pause()
    raise ProgramFailed(f"{words!r} never came\n{container.log}")


def wait_until_it_handles(container: Container, number: signal.Signals) -> None:
    for _ in range(int(READY_SECONDS / LOOK_SECONDS)):
        status = Path(f"/proc/{container.first_pid}/status").read_text()
        handled = re.search(r"^SigCgt:\t([0-9a-f]+)$", status, re.MULTILINE)
        if handled is not None and int(handled[1], 16) & 1 << (number - 1):
            return
        container.pause()
    raise ProgramFailed(f"{number.name} is not handled\n{container.log}")


def ask_and_do_not_listen(client: Client) -> None:
    """Something that a drain has to wait for: answers that nobody takes."""
    writer = Writer(TTID, start_lsn=Lsn(0x0200_0000), seed=11)
    vote = writer.win(client)
    writer.lead(client, vote, vote.flush_lsn or Lsn(0x0200_0000))
    client.flood(encode_frame(b"d", encode_proposer_message(VoteRequest(NO_GENERATION, Term(0)), 3)) * 500_000)


def output_of(container: Container, code: int = 0) -> str:
    container.start()
    assert container.wait(READY_SECONDS) == code, container.log
    return container.log


# ------------------------------------------------------------------------------------------------ what it is


def test_it_is_small(image: Image) -> None:
    print(f"{image.size_bytes / 1e6:.0f} MB unpacked")
    assert 50_000_000 < image.size_bytes < SIZE_MAX_BYTES


def test_nothing_in_it_gains_privileges(image: Image) -> None:
    files = image.files()
    assert "/usr/bin/su" in files
    assert [path for path in files if os.lstat(f"{image.root}{path}").st_mode & GAINS_PRIVILEGES] == []


def test_nothing_in_it_installs_or_compiles(image: Image) -> None:
    assert [path for path in image.files() if INSTALLERS.search(path)] == []


def test_nothing_is_left_of_the_build_and_of_the_machine_it_was_built_on(image: Image) -> None:
    assert [path for path in image.files() if LEFT_BEHIND.search(path)] == []


def test_every_module_has_its_byte_code_which_no_time_makes_stale(image: Image) -> None:
    packages = image.root / "opt/walkeeper/lib"
    compiled = {path.parent.parent / f"{path.name.split('.')[0]}.py": path for path in packages.rglob("*.pyc")}
    assert set(packages.rglob("*.py")) - set(compiled) == set()
    flags = {int.from_bytes(path.read_bytes()[4:8], "little") for path in compiled.values()}
    assert flags == {0b01}  # by hash, unchecked (PEP 552)


def test_its_configuration_is_what_the_code_says(image: Image) -> None:
    listen = ListenConfig()
    ports = {f"{port}/tcp" for port in (listen.pg.port, listen.http.port, 7677, 7678, 7679)}
    assert set(image.config["ExposedPorts"]) == ports
    assert image.config["User"] == "10001:10001"
    assert image.config["StopSignal"] == "SIGTERM"
    assert "Volumes" not in image.config
    data = image.root / image.config["WorkingDir"].lstrip("/")
    assert (data.stat().st_uid, data.stat().st_gid, list(data.iterdir())) == (10001, 10001, [])
    labels = {name.rpartition(".")[2]: text for name, text in image.config["Labels"].items()}
    assert (labels["title"], labels["licenses"], labels["version"]) == (
        "walkeeper",
        "Apache-2.0",
        walkeeper.__version__,
    )


# ----------------------------------------------------------------------------------------------- how it runs


def test_a_keeper_of_any_user_answers_its_probes_on_a_read_only_root_and_stops_in_time(
    new_container: NewContainer,
) -> None:
    keeper = Keeper(new_container)
    assert "ok" in keeper.ask("/livez")
    metrics = keeper.ask("/metrics")
    assert "safekeeper_" in metrics
    assert "\nprocess_start_time_seconds " in metrics
    assert "\nprocess_open_fds " in metrics
    status = Path(f"/proc/{keeper.container.first_pid}/status").read_text()
    assert re.search(r"^NSpid:\t\d+\t1$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
    assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
    assert not re.search(r"^Uid:\t0\t", status, re.MULTILINE)
    keeper.container.signal(signal.SIGTERM)
    assert keeper.container.wait(GRACE_SECONDS) == 0
    log = keeper.container.log
    assert "stopped" in log
    assert not re.search(r"warning|error|Traceback|__pycache__", log)


def test_nobody_can_write_anything_but_the_data_directory(new_container: NewContainer) -> None:
    for user in (0, 10001, 54321):
        container = new_container("-c", TRY_TO_WRITE, entry=["/opt/walkeeper/bin/python"], user=user)
        written = output_of(container)
        assert "'EROFS': " in written, written
        assert "written" not in written, written


def test_a_keeper_on_a_data_directory_that_it_may_not_write_says_so(new_container: NewContainer) -> None:
    container = new_container("serve", "-D", "/opt", WALKEEPER_ID="1")
    assert "/opt" in output_of(container, code=2)


def test_a_second_signal_ends_number_1_at_once(new_container: NewContainer) -> None:
    keeper = Keeper(new_container, WALKEEPER_SHUTDOWN_TIMEOUT="60s")
    with Client(keeper.pg_port, room_bytes=DEAF_BYTES) as client:
        ask_and_do_not_listen(client)
        keeper.container.signal(signal.SIGTERM)
        wait_for_log(keeper.container, "stopping")
        keeper.container.signal(signal.SIGTERM)
        assert keeper.container.wait(GRACE_SECONDS) == 128 + signal.SIGTERM


def test_every_kind_of_command_starts(new_container: NewContainer) -> None:
    assert output_of(new_container("--version")).strip() == f"walkeeper {walkeeper.__version__}"
    assert "propose" in output_of(new_container("--help"))
    assert "fsync" in output_of(new_container("check", "-D", "."))
    fetch = new_container(
        "fetch",
        "000000010000000000000001",
        "there",
        "--keepers",
        NOBODY_THERE,
        "--system-id",
        "7",
        "--timeout",
        "1s",
    )
    assert NOBODY_THERE in output_of(fetch, code=126)


def test_a_sidecar_starts_and_stops(new_container: NewContainer) -> None:
    variables = {"WALKEEPER_KEEPERS": NOBODY_THERE, "WALKEEPER_PRIMARY": "host=127.0.0.1 port=1 user=keeper"}
    sidecar = new_container("propose", **variables)
    sidecar.start()
    wait_for_log(sidecar, "127.0.0.1")
    sidecar.signal(signal.SIGTERM)
    assert sidecar.wait(GRACE_SECONDS) == 0


def test_a_command_that_looks_ends_at_the_first_signal(new_container: NewContainer) -> None:
    sync = new_container("sync", "--keepers", NOBODY_THERE, "--system-id", "7", "--timeout", "300s")
    sync.start()
    wait_until_it_handles(sync, signal.SIGTERM)
    sync.signal(signal.SIGTERM)
    assert sync.wait(GRACE_SECONDS) == 128 + signal.SIGTERM


def test_what_is_missing_for_all_this_is_said(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "tests" / "container.py")]
    done = subprocess.run(
        script, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 1
    assert "apt-get install buildah" in done.stderr
