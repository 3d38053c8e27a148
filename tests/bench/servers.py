"""The servers that are measured, as processes: our keeper, perhaps under a profiler, and the blocking server.

Does not drive them.
"""

import io
import pstats
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import programs

READY_SECONDS = 10.0
PROFILE_LINES = 30
END_UNDER_PROFILER_SECONDS = 60.0


@dataclass(slots=True)
class BlockingServer(programs.Program):
    """`bench.blocking_server` with a directory of its own."""

    port: int

    @classmethod
    def prepare(cls, directory: Path, port: int) -> Self:
        """Make the directory; nothing runs yet."""
        data = directory / "blocking"
        data.mkdir()
        command = [sys.executable, "-m", "bench.blocking_server", str(port), str(data)]
        return cls("the blocking server", command, directory / "blocking.log", port)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def wait_ready(self) -> None:
        """Return when it takes connections."""
        for _ in range(int(READY_SECONDS / programs.LOOK_SECONDS)):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except ConnectionRefusedError:
                self.pause()
            else:
                return
        raise programs.ProgramFailed(f"{self.name} was not ready after {READY_SECONDS} s\n{self.log[-2000:]}")


@dataclass(slots=True)
class MeasuredKeeper(programs.Keeper):
    """Our keeper.  Under cProfile it is slower, above all where it calls many small functions."""

    @classmethod
    def prepare_profiled(cls, directory: Path, number: int, pg_port: int, http_port: int) -> Self:
        """As ``prepare``, with the event loop's thread under cProfile."""
        keeper = cls.prepare(directory, number, pg_port, http_port)
        keeper.command = [sys.executable, "-m", "cProfile", "-o", str(keeper.profile), *keeper.command]
        return keeper

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def profile(self) -> Path:
        """Where cProfile leaves what it found."""
        return self.data.with_suffix(".profile")

    def stop_and_explain(self) -> str:
        """SIGTERM, and where the event loop's thread has spent its time."""
        assert self._process is not None
        self._process.terminate()
        self.wait(END_UNDER_PROFILER_SECONDS)
        text = io.StringIO()
        pstats.Stats(str(self.profile), stream=text).strip_dirs().sort_stats("tottime").print_stats(PROFILE_LINES)
        return text.getvalue()
