"""What must hold all the time: commits go on when they can, and nobody ends, grows or complains who should not.

Purpose: know who is disturbed on purpose, and look at everybody else.
Rules: commits that *can* go on (PostgreSQL, the sidecar and a majority of keepers are undisturbed) must do so within a
limit.  A program that is not disturbed runs.  Memory and open files stay below lines that do not depend on how long it all
takes.

Not here: what is disturbed and when (schedule.py, faults.py); what must hold at the end (verdict.py).
"""

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

import programs
from demo.ledger import Ledger

RESUME_SECONDS_MAX = 25.0
"""From the moment when nobody who is needed is disturbed to the next commit: a silent keeper is dropped after 10 s, and
the sidecar's pauses between two attempts at a leadership grow to 5 s."""

LOOK_SECONDS = 0.05
SAMPLE_LOOKS = 10

MEMORY_MIB_MAX = {"keeper": 160, "sidecar": 160}
FILES_MAX = 100
"""Of one process.  In quiet times it is some 30."""

LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z \[(\w+) *\] ")
COMPLAINTS = {"error", "critical"}

BROUGHT_ABOUT = (
    "the disk is nearly full: WAL is refused",  # one that was filled
    "No space left on device",  # in the middle of an operation: the timeline is read again until there is
    "the disk does not answer",  # to a keeper that was stopped meanwhile
)
"""Errors that a person is to see, and that faults of ours make."""


@dataclass(slots=True)
class Peak:
    """The most that any process of one name has used."""

    memory_kib: int = 0
    files: int = 0


@dataclass(slots=True)
class Watch:
    """Looks at everything while the faults go on."""

    ledger: Ledger
    keepers: Sequence[programs.Program]
    sidecar: programs.Program
    peaks: dict[str, Peak] = field(default_factory=dict)
    able_pause: float = 0.0
    """The longest time without a commit in which there could have been one, since `begin_episode`."""
    _disturbed: Counter[int | None] = field(default_factory=Counter)
    _able_since: float = 0.0

    def begin_episode(self) -> None:
        """Forget how long pauses were."""
        self.ledger.watch_from_now()
        self._able_since = trio.current_time()
        self.able_pause = 0.0

    @contextmanager
    def disturbing(self, keeper: int | None) -> Iterator[None]:
        """A keeper, or whoever writes, is not itself meanwhile; it stays so if the end is not reached."""
        self._disturbed[keeper] += 1
        yield
        self._disturbed[keeper] -= 1
        self._able_since = trio.current_time()

    @property
    def is_able(self) -> bool:
        """Whether nobody is disturbed whom a commit needs."""
        disturbed = sum(1 for keeper, count in self._disturbed.items() if keeper is not None and count)
        return not self._disturbed[None] and disturbed <= (len(self.keepers) - 1) // 2

    async def look_on(self) -> None:
        """Look for ever; raise ProgramFailed when something is as it must not be.

        Cancellation: at any time.
        """
        for look in itertools.count():
            await trio.sleep(LOOK_SECONDS)
            self._look_at_commits()
            self._look_at_programs()
            if look % SAMPLE_LOOKS == 0:
                self.sample()

    def _look_at_commits(self) -> None:
        if not self.is_able:
            return
        pause = trio.current_time() - max(self._able_since, self.ledger.last_at)
        self.able_pause = max(self.able_pause, pause)
        if pause > RESUME_SECONDS_MAX:
            raise programs.ProgramFailed(
                f"no commit for {pause:.1f} s, though nobody is disturbed whom it needs\n{self.sidecar.log[-2000:]}"
            )

    def _look_at_programs(self) -> None:
        expected = [keeper for number, keeper in enumerate(self.keepers) if not self._disturbed[number]]
        if not self._disturbed[None]:
            expected.append(self.sidecar)
        for program in expected:
            if not program.is_running:
                raise programs.ProgramFailed(f"{program.name} ended by itself\n{program.log[-2000:]}")

    def sample(self) -> None:
        """How much memory and how many files everybody has."""
        for program in (*self.keepers, self.sidecar):
            if not program.is_running:
                continue
            peak = self.peaks.setdefault(program.name, Peak())
            try:
                status = Path(f"/proc/{program.pid}/status").read_text()
                files = len(os.listdir(f"/proc/{program.pid}/fd"))
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we looked
            found = re.search(r"VmHWM:\s+(\d+) kB", status)
            if found is not None:  # a process that is about to end has no memory any more
                peak.memory_kib = max(peak.memory_kib, int(found[1]))
            peak.files = max(peak.files, files)


def excesses(peaks: dict[str, Peak]) -> list[str]:
    """Who has used more than it may."""
    found = []
    for name, peak in peaks.items():
        limit = next(mib for start, mib in MEMORY_MIB_MAX.items() if name.startswith(start))
        if peak.memory_kib > limit * 1024:
            found.append(f"{name} used {peak.memory_kib / 1024:.0f} MiB")
        if peak.files > FILES_MAX:
            found.append(f"{name} had {peak.files} files open")
    return found


def complaints(log: str) -> list[str]:
    """The lines that a daemon's log should not have: errors that no fault brings about, and whatever is not a line of the
    log at all.
    """
    found = []
    for line in log.splitlines():
        level = LOG_LINE.match(line)
        if level is None or (level[1] in COMPLAINTS and not any(each in line for each in BROUGHT_ABOUT)):
            found.append(line)
    return found
