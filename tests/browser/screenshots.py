"""The pictures of the status page in docs/: three keepers, a PostgreSQL, a standby's reader, and one keeper that dies.

Run as `python3 noxfile.py -s browser -- screenshots`, and look at them.
"""

import sys
from contextlib import ExitStack
from pathlib import Path

import postgres
import programs
from chromium import Browser
from replicated import Replicated

WARM_UP_SECONDS = 40.0
RATE = "60"  # transactions a second


def main(directory: Path) -> None:
    """Make them in ``directory``."""
    with ExitStack() as stack:
        work = stack.enter_context(postgres.workspace())
        scene = begin(work, stack)
        scene.pgbench("-i", "-s", "1")
        load = ["-c", "4", "-T", "300", "-R", RATE, "postgres"]
        scene.primary.spawn("pgbench", *scene.primary.client_arguments(), *load, output=work / "pgbench.log")
        command = ["-D", str(work / "received"), "--no-loop", "-d", scene.keepers_conninfo(scene.keepers[0])]
        (work / "received").mkdir(mode=0o777)
        (work / "received").chmod(0o777)
        scene.primary.spawn("pg_receivewal", *command, output=work / "receivewal.log")
        (work / "profile").mkdir()
        browser = stack.enter_context(Browser(work / "profile"))
        url = f"http://127.0.0.1:{scene.keepers[0].http_port}/"
        light = browser.open(url, width=1600, height=1000)
        light.watch(WARM_UP_SECONDS)
        light.screenshot(directory / "status-page.png")
        narrow = browser.open(url, width=380, height=800)  # what is behind another page draws nothing
        narrow.watch(WARM_UP_SECONDS / 2)
        narrow.screenshot(directory / "status-page-narrow.png")
        dark = browser.open(url, width=1600, height=1000, dark=True)
        dark.watch(WARM_UP_SECONDS / 3)
        scene.keepers[2].kill()
        dark.watch(4)
        dark.screenshot(directory / "status-page-dark.png")


def begin(work: Path, stack: ExitStack) -> Replicated:
    """Everything runs."""
    primary = stack.enter_context(postgres.Cluster.prepare(work / "primary", postgres.find_binaries()))
    primary.initdb(segment_mib=1)
    primary.configure(max_slot_wal_keep_size="1GB", max_wal_size="2GB", autovacuum="off")
    primary.start()
    ports = postgres.free_ports(6)
    keepers = []
    for number, (pg_port, http_port) in enumerate(zip(ports[:3], ports[3:], strict=True), 1):
        others = ",".join(f"127.0.0.1:{port}" for port in ports[3:] if port != http_port)
        prepared = programs.Keeper.prepare(work, number, pg_port, http_port, "--peer-http", others)
        keepers.append(stack.enter_context(prepared))
    return Replicated.begin_with(work, primary, keepers, stack)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
