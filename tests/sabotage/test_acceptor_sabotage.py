"""The acceptor's machine notices when a promise is not kept: each of these is broken in one place."""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from acceptor_machine import AcceptorMachine
from sabotage.defect import defect
from walkeeper.acceptor.acceptor import Intent, Kept
from walkeeper.acceptor.effects import Effect, KeepControlFile, SyncWal, WriteWal
from walkeeper.errors import StorageError
from walkeeper.testing.memory_disk import MemoryDisk, MemoryFile

SEARCH = settings(
    max_examples=3000,  # which come first depends on the constants in all modules that are loaded; it stops at a find
    stateful_step_count=20,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],  # that it fails is the point, not how shortly
    suppress_health_check=list(HealthCheck),
)


@defect
class WithoutFsync(AcceptorMachine):
    """Syncs of WAL do nothing."""

    class File(MemoryFile):
        def fdatasync(self) -> None:
            pass

    def new_disk(self) -> MemoryDisk:
        disk = MemoryDisk()
        disk.file_class = self.File
        return disk


@defect
class WithoutDirectorySync(AcceptorMachine):
    """New names are not made durable."""

    class Disk(MemoryDisk):
        def fsync_dir(self, path: object) -> None:
            pass

    def new_disk(self) -> MemoryDisk:
        return self.Disk()


@defect
class ReportsBeforeItWrites(AcceptorMachine):
    """Speaks first, and writes when it is spoken to again."""

    def __init__(self) -> None:
        self.late: list[Effect] = []
        super().__init__()

    def keep(self, intent: Intent) -> Kept:
        for effect in self.late:
            self.store.perform(effect)
        self.late = [effect for effect in intent.effects if isinstance(effect, WriteWal | SyncWal)]
        now = [effect for effect in intent.effects if effect not in self.late]
        return Intent(now, intent._kept).keep(self.store)


@defect
class ForgetsItsVote(AcceptorMachine):
    """A vote is given without being kept."""

    def keep(self, intent: Intent) -> Kept:
        kept_term = self.acceptor.state.term
        effects = [
            effect
            for effect in intent.effects
            if not (isinstance(effect, KeepControlFile) and effect.control_file.term > kept_term)
        ]
        return Intent(effects, intent._kept).keep(self.store)


@defect
class CommitsBeyondWhatIsHere(AcceptorMachine):
    """The leader's commit_lsn is kept as it is."""

    def keep(self, intent: Intent) -> Kept:
        kept = intent.keep(self.store)
        ahead = kept.acceptor.state.ahead
        object.__setattr__(ahead, "commit_lsn", ahead.commit_lsn + 8 if ahead.commit_lsn else 0)
        return kept


@pytest.mark.parametrize(
    "broken",
    [
        WithoutFsync,
        WithoutDirectorySync,
        ReportsBeforeItWrites,
        ForgetsItsVote,
        CommitsBeyondWhatIsHere,
    ],
)
def test_a_broken_keeper_is_caught(broken: type[AcceptorMachine]) -> None:
    with pytest.raises((AssertionError, StorageError)):
        run_state_machine_as_test(broken, settings=SEARCH)
