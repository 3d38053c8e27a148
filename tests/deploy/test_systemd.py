"""The units in deploy/systemd: what they say agrees with the code and the documents, and a quorum works under their rules."""

import re
import shlex
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import programs
import units
from certified import Pki
from fix_postgres import NewCluster
from replicated import LOOKS_MAX, Replicated
from units import Unit
from walkeeper.daemon.cli import COMMANDS, read_command
from walkeeper.daemon.config import TimingConfig
from walkeeper.daemon.exits import exit_code
from walkeeper.daemon.notify import STATUS_SECONDS
from walkeeper.daemon.options import options_of
from walkeeper.errors import ConfigError, Fenced
from walkeeper.terms import Term

ROOT = Path(__file__).resolve().parent.parent.parent
PLACE = ROOT / "deploy" / "systemd"
ACCOUNT = PLACE / "walkeeper.sysusers.conf"

LEAVE_SECONDS = 60.0
"""The longest --leave-timeout that the units and their documents speak of."""

EXPOSURE_MAX = 20
"""In tenths, as systemd-analyze counts: less than two of ten."""

OF_ONE_ONLY = {
    "RequiresMountsFor",
    "StateDirectory",
    "StateDirectoryMode",
    "ExecReload",
    "WatchdogSec",
    "TimeoutStartSec",
    "Description",
    "Type",
    "ExecStart",
    "Before",
    "TimeoutStopSec",
    "RestartPreventExitStatus",
}
"""Settings in which the two units differ; all others are the same."""


@dataclass(frozen=True, slots=True)
class Files:
    """The texts of what is installed."""

    keeper: str = (PLACE / "walkeeper.service").read_text()
    sidecar: str = (PLACE / "walkeeper-propose.service").read_text()
    account: str = ACCOUNT.read_text()
    operations: str = (ROOT / "docs" / "operations.md").read_text()
    readme: str = (ROOT / "deploy" / "README.md").read_text()


WRONG = exit_code(ConfigError("wrong"))
FENCED = exit_code(Fenced("keeper", Term(2), Term(1)))


def problems(files: Files) -> list[str]:
    """What does not agree."""
    keeper, sidecar = Unit.parse(files.keeper), Unit.parse(files.sidecar)
    account = next(line.split() for line in files.account.splitlines() if line.startswith("u "))[1]
    found = [*command_problems("serve", keeper, files), *command_problems("propose", sidecar, files)]
    timing = TimingConfig()
    conditions = {
        "told when it is ready": keeper["Type"] == "notify",
        "the sidecar tells nobody that it is ready": sidecar["Type"] == "exec" and not sidecar["WatchdogSec"],
        "the account": {unit[name] for unit in (keeper, sidecar) for name in ("User", "Group")} == {account},
        "the data directory": f"/var/lib/{keeper['StateDirectory']}" in shlex.split(keeper["ExecStart"]),
        "the data directory's disk": keeper["RequiresMountsFor"] == f"/var/lib/{keeper['StateDirectory']}",
        "nobody else reads WAL": (keeper["StateDirectoryMode"], keeper["UMask"]) == ("0700", "0077"),
        "the drain": keeper.seconds("TimeoutStopSec")
        > LEAVE_SECONDS + timing.drain_seconds + programs.END_SECONDS,
        "a start of any length": keeper.seconds("TimeoutStartSec") == float("inf"),
        "signs of life": 2 * STATUS_SECONDS <= keeper.seconds("WatchdogSec") <= timing.disk_hangs_seconds,
        "what no restart changes": keeper["RestartPreventExitStatus"].split() == [str(WRONG)],
        "who was fenced": sidecar["RestartPreventExitStatus"].split() == [str(WRONG), str(FENCED)],
        "tried again": {unit["Restart"] for unit in (keeper, sidecar)} == {"on-failure"},
        "tried for ever": {unit["StartLimitIntervalSec"] for unit in (keeper, sidecar)} == {"0"},
        "what it shows of itself": {unit["ProcSubset"] or "all" for unit in (keeper, sidecar)} == {"all"},
        "a reload": keeper["ExecReload"].split()[1:] == ["-HUP", "$MAINPID"],
        "the same rules": rules(keeper) == rules(sidecar),
        "the documents": all(
            f"systemd/{name}" in text
            for name in ("walkeeper.service", "walkeeper-propose.service", ACCOUNT.name)
            for text in (files.operations, files.readme)
        ),
    }
    return [*found, *(name for name, holds in conditions.items() if not holds)]


def command_problems(name: str, unit: Unit, files: Files) -> list[str]:
    """The program where the documents install it, a command that there is, flags that it has, and a file that they name."""
    program, command, *words = shlex.split(unit["ExecStart"])
    shape = next((each.shape for each in COMMANDS if each.name == command), None)
    if command != name or shape is None:
        return [f"the command of {name}"]
    known = {each.flag for each in options_of(shape)} | {"--config"}
    config = words[words.index("--config") + 1] if "--config" in words else "none"
    found = [f"{word} of {name}" for word in words if word.startswith("-") and word not in known]
    found += [
        f"{path} of {name}"
        for path in (str(Path(program).parent), config)
        if not all(path in t for t in (files.operations, files.readme))
    ]
    return found


def rules(unit: Unit) -> list[tuple[str, str]]:
    return [each for each in unit.settings if each[0] not in OF_ONE_ONLY]


def test_the_units_agree_with_the_code_and_the_documents() -> None:
    assert problems(Files()) == []


@pytest.mark.parametrize(
    ("unit", "right", "wrong"),
    [
        ("keeper", "Type=notify", "Type=exec"),
        ("keeper", "TimeoutStopSec=90s", "TimeoutStopSec=60s"),
        ("keeper", "TimeoutStartSec=infinity", "TimeoutStartSec=90s"),
        ("keeper", "WatchdogSec=60s", "WatchdogSec=10s"),
        ("keeper", "RestartPreventExitStatus=2", "RestartPreventExitStatus=2 4"),
        ("keeper", "Restart=on-failure", "Restart=no"),
        ("keeper", "--datadir /var/lib/walkeeper", "--datadir /var/lib/keeper"),
        ("keeper", "--datadir", "--data-dir"),
        ("keeper", "StateDirectoryMode=0700", "StateDirectoryMode=0755"),
        ("keeper", "User=walkeeper", "User=postgres"),
        ("keeper", "ProtectSystem=strict", "ProtectSystem=full"),
        ("keeper", "ProtectProc=invisible", "ProtectProc=invisible\nProcSubset=pid"),
        ("keeper", "/etc/walkeeper/keeper.toml", "/etc/keeper.toml"),
        ("keeper", "/opt/walkeeper/bin", "/usr/local/bin"),
        ("sidecar", "RestartPreventExitStatus=2 3", "RestartPreventExitStatus=2"),
        ("sidecar", "propose", "serve"),
        ("sidecar", "Type=exec", "Type=notify"),
        ("sidecar", "SystemCallFilter=~@privileged", "SystemCallFilter=@privileged"),
        ("account", "u walkeeper", "u keeper"),
        ("readme", "systemd/walkeeper-propose.service", "systemd/propose.service"),
        ("operations", "systemd/walkeeper.service", "systemd/keeper.service"),
    ],
)
def test_a_unit_that_says_something_else_is_caught(unit: str, right: str, wrong: str) -> None:
    files = Files()
    text = getattr(files, unit)
    assert right in text
    assert problems(replace(files, **{unit: text.replace(right, wrong)})) != []


def test_the_configuration_that_is_shown_is_one(tmp_path: Path) -> None:
    shown = re.findall(r"```toml\n(.*?)```", Files().readme, re.DOTALL)
    keeper, sidecar = (tmp_path / "keeper.toml", tmp_path / "sidecar.toml")
    for path, text in zip((keeper, sidecar), shown, strict=True):
        path.write_text(text)
    _, served = read_command(["serve", "--config", str(keeper)], {}, COMMANDS)
    assert served.place.node_id == 1
    _, proposed = read_command(["propose", "--config", str(sidecar)], {}, COMMANDS)
    assert [str(each) for each in proposed.quorum.keepers] == ["k1:5454", "k2:5454", "k3:5454"]


def test_an_upgrade_as_it_is_told_starts_the_new_version_and_a_way_back_the_old_one(tmp_path: Path) -> None:
    versions = ["0.1.0", "0.2.0"]
    for version in versions:
        program = tmp_path / f"walkeeper-{version}" / "bin" / "walkeeper"
        program.parent.mkdir(parents=True)
        program.write_text(f"#!{program.parent}/sh\necho {version}\n")  # as pip has it: by its own absolute name
        program.chmod(0o755)
        (program.parent / "sh").symlink_to("/bin/sh")
    exchanges = re.findall(r"^ln -s .*mv -T .*$", Files().readme, re.MULTILINE)
    started = []
    for exchange in exchanges:
        subprocess.run(["sh", "-euc", exchange.replace("/opt", str(tmp_path))], check=True)
        started.append(
            subprocess.run(["walkeeper"], executable=tmp_path / "walkeeper/bin/walkeeper", check=True,
                           stdout=subprocess.PIPE, text=True).stdout.strip()
        )  # fmt: skip
    assert started == [versions[0], versions[1], versions[0]]


# --------------------------------------------------------------------------------- what systemd thinks of them


@pytest.fixture(params=["walkeeper.service", "walkeeper-propose.service"])
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A unit whose program is there."""
    unit = tmp_path / str(request.param)
    unit.write_text((PLACE / unit.name).read_text().replace("/opt/walkeeper/bin/walkeeper", programs.PROGRAM))
    return unit


def systemd(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_systemd_has_nothing_to_say_against_a_unit(installed: Path) -> None:
    assert systemd("systemd-analyze", "verify", "--man=no", str(installed)) == ""


def test_systemd_finds_a_unit_hardly_exposed(installed: Path) -> None:
    systemd(
        "systemd-analyze", "--no-pager", "security", "--offline=yes", f"--threshold={EXPOSURE_MAX}", str(installed)
    )


def test_systemd_makes_the_account(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    systemd("systemd-sysusers", f"--root={tmp_path}", str(ACCOUNT))
    account = (tmp_path / "etc" / "passwd").read_text()
    assert re.search(r"^walkeeper:[^:]*:\d+:\d+:walkeeper:/:.*nologin$", account, re.MULTILINE)


# ----------------------------------------------------------------------------------------- under their rules


@pytest.fixture
def restricted(work_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keepers and sidecars that are started from here on may call what their units allow; anything else kills them."""
    wrapper = work_directory / "walkeeper"
    unit = f'{PLACE}/walkeeper$(test "$1" = serve || echo -propose).service'
    words = f'{sys.executable} {units.__file__} "{unit}" {programs.PROGRAM}'
    wrapper.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setattr(programs, "PROGRAM", str(wrapper))


def wait_log(program: programs.Program, words: str) -> None:
    for _ in range(LOOKS_MAX):
        if words in program.log:
            return
        program.pause()
    raise programs.ProgramFailed(f"{words} was never logged\n{program.log}")


@pytest.mark.usefixtures("restricted")
def test_a_quorum_works_under_the_rules_of_its_units(work_directory: Path, new_cluster: NewCluster) -> None:
    pki = Pki.begin(work_directory)
    primary = new_cluster("primary")
    primary.initdb(segment_mib=1)
    primary.configure(max_slot_wal_keep_size="1GB")
    primary.start()
    tls = [
        "--enable-tls-wal-service-api",
        "--ssl-cert-file",
        str(pki.files.certificate),
        "--ssl-key-file",
        str(pki.files.key),
    ]
    verify = ["--keeper-sslmode", "verify-full", "--keeper-sslrootcert", str(pki.root)]
    with ExitStack() as stack:
        scene = Replicated.begin(
            work_directory,
            primary,
            stack,
            keeper_flags=[*tls, "--listen-https", "127.0.0.1:0"],
            sidecar_flags=verify,
        )
        everybody = [*scene.keepers, scene.sidecar]
        for program in everybody:
            assert re.search(r"^Seccomp:\t2$", Path(f"/proc/{program.pid}/status").read_text(), re.MULTILINE)
        scene.pgbench("-i", "-s", "1")
        scene.pgbench("-c", "2", "-t", "30")
        scene.keepers[0].kill()
        scene.pgbench("-c", "2", "-t", "10")
        scene.keepers[0].start()
        scene.wait_everywhere()
        for program in everybody:
            program.signal(signal.SIGUSR1)
            wait_log(program, "tasks")
            program.signal(signal.SIGHUP)
            wait_log(program, "reloaded")
        assert scene.keepers[0].status("/metrics") == 200
        primary.stop()
        assert [program.stop() for program in (scene.sidecar, *scene.keepers)] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("attempt", "error"),
    [
        ("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", "Errno 97"),
        ("mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)", "Errno 1"),
        ("os.chown('.', os.getuid(), os.getgid())", ""),
        ("socket.getaddrinfo('localhost', 1, flags=socket.AI_ADDRCONFIG)", None),
    ],
)
def test_the_rules_are_in_force(attempt: str, error: str | None) -> None:
    script = f"import mmap, os, socket; {attempt}"
    command = [sys.executable, units.__file__, str(PLACE / "walkeeper.service"), sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    match error:
        case None:
            assert done.returncode == 0
        case "":
            assert done.returncode == -signal.SIGSYS
        case _:
            assert done.returncode == 1
            assert error in done.stderr
