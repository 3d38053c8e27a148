"""The load: writers that commit through psql, and the ledger of what PostgreSQL acknowledged to them.

The ledger is a file outside the database.  A line is written to it only after psql has printed the result of a
statement that was its own transaction, which is after PostgreSQL reported the COMMIT: what stands in the ledger was
acknowledged, and what does not stand in it was not.
"""

import subprocess
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

import postgres
from demo.narrator import Narrator

TABLE = """
    CREATE TABLE ledger (writer int, n int, amount bigint, note text, PRIMARY KEY (writer, n));
"""
NOTE_REPEATS = 40  # 1.3 kB a row: the load crosses a segment boundary or two
LINE_BYTES_MAX = 1000

Entry = tuple[int, int]  # writer, n


def amount_of(writer: int, n: int) -> int:
    """What the row has to hold: a number that neither key shows."""
    return zlib.crc32(f"{writer}/{n}".encode())


@dataclass(slots=True)
class Ledger:
    """The record of acknowledged commits, and when each came."""

    path: Path
    count: int = 0
    last_at: float = 0.0
    longest_pause: float = 0.0
    sent: dict[int, int] = field(default_factory=dict)
    """The last number that each writer has tried."""

    def watch_from_now(self) -> None:
        """Forget how long the pauses between acknowledgements were."""
        self.last_at = trio.current_time()
        self.longest_pause = 0.0

    def next_n(self, writer: int) -> int:
        """A number that this writer has never tried: nobody knows what became of one that was not acknowledged."""
        n = self.sent.get(writer, 0) + 1
        self.sent[writer] = n
        return n

    def acknowledge(self, writer: int, n: int) -> None:
        """Put one commit on record."""
        with self.path.open("a") as file:
            file.write(f"{writer} {n} {amount_of(writer, n)}\n")
        now = trio.current_time()
        self.longest_pause = max(self.longest_pause, now - self.last_at)
        self.last_at = now
        self.count += 1

    def read(self) -> dict[Entry, int]:
        """What the file says, and only the file."""
        entries = (tuple(map(int, line.split())) for line in self.path.read_text().splitlines())
        return {(writer, n): amount for writer, n, amount in entries}


async def write(cluster: postgres.Cluster, writer: int, ledger: Ledger, *, rest_seconds: float = 0.0) -> None:
    """Commit rows, one transaction each, until the server is gone.

    Cancellation: at any time; psql is killed.
    """
    command = [
        cluster.binaries.program("psql"),
        "-XqAtw",
        "-v",
        "ON_ERROR_STOP=1",
        cluster.conninfo(dbname="postgres"),
    ]
    with ledger.path.with_name("psql.log").open("ab") as log:
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            env=postgres.clean_environment(), process_group=0,
        )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        while await commit(process.stdin, process.stdout, writer, ledger.next_n(writer), ledger):  # noqa: ASYNC110  another program
            await trio.sleep(rest_seconds)
    finally:
        process.kill()
        with trio.move_on_after(5, shield=True):
            await process.wait()
            await process.stdin.aclose()
            await process.stdout.aclose()


async def commit(
    to_psql: trio.abc.SendStream, from_psql: trio.abc.ReceiveStream, writer: int, n: int, ledger: Ledger
) -> bool:
    """One transaction; False when the server or psql is gone, and nobody knows whether it was committed."""
    note = f"repeat(md5('{writer}/{n}'), {NOTE_REPEATS})"
    statement = f"INSERT INTO ledger VALUES ({writer}, {n}, {amount_of(writer, n)}, {note}) RETURNING n;\n"
    answer = b""
    try:
        await to_psql.send_all(statement.encode())
        while not answer.endswith(b"\n"):
            part = await from_psql.receive_some(LINE_BYTES_MAX)
            if not part:
                return False
            answer += part
    except trio.BrokenResourceError:
        return False
    assert answer == f"{n}\n".encode(), answer
    ledger.acknowledge(writer, n)
    return True


def count_lost(acknowledged: dict[Entry, int], rows: Sequence[Sequence[str]]) -> tuple[int, int, int]:
    """How many acknowledged commits the rows hold, lack, and hold wrongly."""
    recovered = {(int(writer), int(n)): int(amount) for writer, n, amount in rows}
    right = sum(1 for entry, amount in acknowledged.items() if recovered.get(entry) == amount)
    missing = sum(1 for entry in acknowledged if entry not in recovered)
    return right, missing, len(acknowledged) - right - missing


def tell_lost(
    say: Narrator,
    acknowledged: dict[Entry, int],
    rows: Sequence[Sequence[str]],
    standby_rows: Sequence[Sequence[str]],
) -> bool:
    """Say what the restored database and the standby hold of what was acknowledged; whether that is all of it."""
    right, missing, wrong = count_lost(acknowledged, rows)
    _, standby_missing, standby_wrong = count_lost(acknowledged, standby_rows)
    say.table([
        ("commits acknowledged", str(len(acknowledged))),
        ("of them recovered", str(right)),
        ("never acknowledged, yet recovered", str(len(rows) - right - wrong)),
        ("recovered with another content", str(wrong)),
        ("missing or wrong on the standby", str(standby_missing + standby_wrong)),
        ("LOST", str(missing + wrong)),
    ])  # fmt: skip
    return bool(acknowledged) and missing + wrong + standby_missing + standby_wrong == 0
