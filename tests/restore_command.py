"""`walkeeper fetch` as PostgreSQL's restore_command, where PostgreSQL runs as an account that cannot reach our programs.

Purpose: PostgreSQL runs a shell script, which asks us through a pipe; we run the command in its place, in its
directory, give it the file, and the script ends with the command's exit code.
Rules: standard library only; every call is remembered.  A script whose pipes fail ends with a code that stops PostgreSQL.

Not here: what is asked and answered (walkeeper), assertions.
"""

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import postgres
import programs

FETCH_SECONDS = 60.0
END_SECONDS = 90.0  # longer than a fetch: the thread ends between two
RECOVERY_SECONDS = 300.0  # a segment takes a second on a busy machine
LOOK_SECONDS = 0.1

SCRIPT = """
exec 2>&1
mkfifo "{directory}/reply.$$" || exit 127
exec 3<>"{directory}/reply.$$" || exit 127
echo "$$ $1 $2" >"{directory}/requests" || exit 127
read -r code <&3 || exit 127
rm "{directory}/reply.$$"
exit "$code"
"""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the command: what PostgreSQL wanted and how it ended."""

    file: str
    code: int
    said: str


@dataclass(slots=True)
class RestoreCommand:
    """Answers a cluster's calls while it is entered.  `after_call` hears of each before PostgreSQL does."""

    cluster: postgres.Cluster
    arguments: Sequence[str]
    after_call: Callable[[Call], None] = lambda _: None
    calls: list[Call] = field(default_factory=list)
    _thread: "threading.Thread | None" = None
    _pause: threading.Event = field(default_factory=threading.Event)

    @property
    def directory(self) -> Path:
        return self.cluster.directory / "restore_command"

    def recover(self) -> None:
        """Start the cluster into an archive recovery and wait for its promotion; raise PostgresFailed if it stops."""
        signal = self.cluster.data / "recovery.signal"
        signal.touch()
        self.cluster.account.own(signal)
        setting = f'sh "{self.directory}/script" "%f" "%p"'
        self.cluster.configure(restore_command=setting, synchronous_standby_names="", hot_standby="off")
        self.cluster.start()
        for _ in range(int(RECOVERY_SECONDS / LOOK_SECONDS)):
            if self._is_promoted():
                return
            if not self.cluster.is_running:
                break
            self._pause.wait(LOOK_SECONDS)
        raise postgres.PostgresFailed(f"recovery has not ended well\n{self.cluster.log[-3000:]}")

    def _is_promoted(self) -> bool:
        """Before it is, nobody can connect."""
        query = ["-w", "-X", "-A", "-t", "-c", "SELECT pg_is_in_recovery()", "postgres"]
        return (
            self.cluster.run("psql", *self.cluster.client_arguments(), *query, check=False).stdout.strip() == "f"
        )

    def __enter__(self) -> Self:
        self.directory.mkdir()
        (self.directory / "script").write_text(SCRIPT.format(directory=self.directory))
        os.mkfifo(self.directory / "requests")
        self.cluster.account.own(self.directory)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._thread is not None
        with (self.directory / "requests").open("wb") as requests:
            requests.write(b"\n")
        self._thread.join(END_SECONDS)

    def _serve(self) -> None:
        with os.fdopen(os.open(self.directory / "requests", os.O_RDWR), "rb") as requests:  # so that it never ends
            while request := requests.readline().decode().split():
                process, file, path = request
                call = self._fetch(file, self.cluster.data / path)
                self.calls.append(call)
                self.after_call(call)
                with (self.directory / f"reply.{process}").open("wb") as reply:
                    reply.write(b"%d\n" % call.code)

    def _fetch(self, file: str, path: Path) -> Call:
        done = programs.run_command("fetch", file, str(path), *self.arguments, seconds=FETCH_SECONDS)
        if path.exists():
            self.cluster.account.own(path)
        return Call(file, done.returncode, done.stderr)
