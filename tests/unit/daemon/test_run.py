"""The life of the keeper."""

import json
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event

import httpx2
import pytest
import structlog
import trio

from walkeeper.acceptor.state import new_control_file
from walkeeper.control.metrics import Metrics
from walkeeper.daemon.cli import run_command
from walkeeper.daemon.config import TimingConfig
from walkeeper.daemon.run import serve
from walkeeper.errors import DurabilityLost
from walkeeper.formats.control_file import control_file_as_json, encode_control_file
from walkeeper.ids import NodeId, TenantId, TenantTimelineId, TimelineId
from walkeeper.membership import NO_CONFIGURATION
from walkeeper.messages import ServerInfo
from walkeeper.storage.data_directory import claim
from walkeeper.storage.disk import OsDisk
from walkeeper.timeline.timelines import Timelines

TTID = TenantTimelineId(TenantId(b"t" * 16), TimelineId(b"l" * 16))
SERVER = ServerInfo(pg_version=160_002, system_id=7, wal_seg_size=1024 * 1024)
REQUEST = {
    "tenant_id": str(TTID.tenant_id),
    "timeline_id": str(TTID.timeline_id),
    "mconf": {"generation": 0, "members": []},
    "pg_version": 160_002,
    "start_lsn": "0/1000000",
}


@pytest.fixture(autouse=True)
def _restored_process() -> Iterator[None]:
    """Signal handlers and loggers as they were."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
    handlers = {number: signal.getsignal(number) for number in numbers}
    root = logging.getLogger()
    loggers, level = root.handlers[:], root.level
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    root.handlers[:] = loggers
    root.setLevel(level)
    structlog.reset_defaults()


@dataclass
class Keeper:
    """A keeper that serves until the test stops it."""

    client: httpx2.AsyncClient
    ended: trio.Event
    probed_url: str

    async def status(self, path: str) -> int:
        return int((await self.client.get(path)).status_code)

    async def wait_status(self, path: str, status: int) -> None:
        """Ask until the answer is ``status``: there is nobody inside the keeper who would tell."""
        while await self.status(path) != status:
            pass

    def stop(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


@asynccontextmanager
async def nobody(_sock: socket.socket, _timelines: Timelines, _connections: trio.Nursery) -> AsyncIterator[None]:
    """Lets nobody in."""
    yield


def one_connection(serve_it: Callable[[], Awaitable[None]]) -> Callable[..., AbstractAsyncContextManager[None]]:
    """Lets one connection in at once."""

    @asynccontextmanager
    async def accepting(
        _sock: socket.socket, _timelines: Timelines, connections: trio.Nursery
    ) -> AsyncIterator[None]:
        connections.start_soon(serve_it)
        yield

    return accepting


@asynccontextmanager
async def running(
    path: Path,
    *,
    accepting: Callable[..., AbstractAsyncContextManager[None]] = nobody,
    disk: OsDisk | None = None,
    drain_seconds: float = 3.0,
    disk_hangs_seconds: float = 120.0,
) -> AsyncIterator[Keeper]:
    timing = TimingConfig(drain_seconds=drain_seconds, disk_hangs_seconds=disk_hangs_seconds)
    with (
        closing(claim(disk or OsDisk(sync=False), path, NodeId(7))) as directory,
        socket.create_server(("127.0.0.1", 0)) as pg,
        socket.create_server(("127.0.0.1", 0)) as http,
        socket.create_server(("127.0.0.1", 0)) as probed,
    ):
        url, probed_url = (f"http://127.0.0.1:{sock.getsockname()[1]}" for sock in (http, probed))
        async with httpx2.AsyncClient(base_url=url) as client, trio.open_nursery() as nursery:
            keeper = Keeper(client, trio.Event(), probed_url)

            async def run() -> None:
                await serve(directory, timing, Metrics("0"), pg, http, accepting, probed=probed)
                keeper.ended.set()

            nursery.start_soon(run)
            await keeper.wait_status("/readyz", 200)
            yield keeper
            if not keeper.ended.is_set():
                keeper.stop()


async def test_a_keeper_serves_until_a_signal_ends_it(tmp_path: Path) -> None:
    async with running(tmp_path) as keeper:
        assert await keeper.status("/v1/status") == 200
        assert await keeper.status("/livez") == 200
        keeper.stop()
        await keeper.ended.wait()


async def test_on_the_port_for_probes_there_are_health_and_metrics_and_nothing_else(tmp_path: Path) -> None:
    async with running(tmp_path) as keeper, httpx2.AsyncClient(base_url=keeper.probed_url) as prober:
        for path in ("/livez", "/readyz?verbose", "/metrics"):
            assert (await prober.get(path)).status_code == 200
        assert "walkeeper_ready 1.0\n" in (await prober.get("/metrics")).text
        for path in ("/", "/openapi.json", "/v1/status", "/v1/walkeeper/overview", "/v1/tenant/timeline"):
            assert await keeper.status(path) == 200
            assert (await prober.get(path)).status_code == 404
        assert (await prober.post("/v1/tenant/timeline", json=REQUEST)).status_code == 404
        assert (await keeper.client.get("/v1/tenant/timeline")).json() == []


async def test_after_the_first_signal_a_second_one_kills(tmp_path: Path) -> None:
    async with running(tmp_path) as keeper:
        keeper.stop()
        await keeper.ended.wait()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL


async def test_timelines_outlive_the_process(tmp_path: Path) -> None:
    path = f"/v1/tenant/{TTID.tenant_id}/timeline/{TTID.timeline_id}"
    async with running(tmp_path) as keeper:
        assert (await keeper.client.post("/v1/tenant/timeline", json=REQUEST)).status_code == 200
        before = (await keeper.client.get(path)).json()
    async with running(tmp_path) as keeper:
        assert (await keeper.client.get(path)).json() == before


async def test_deletions_outlive_the_process(tmp_path: Path) -> None:
    path = f"/v1/tenant/{TTID.tenant_id}/timeline/{TTID.timeline_id}"
    async with running(tmp_path) as keeper:
        await keeper.client.post("/v1/tenant/timeline", json=REQUEST)
        assert (await keeper.client.delete(path)).json() == {"dir_existed": True}
        assert (await keeper.client.post("/v1/tenant/timeline", json=REQUEST)).status_code == 409
    async with running(tmp_path) as keeper:
        assert (await keeper.client.get("/v1/tenant/timeline")).json() == []


async def test_the_dump_says_how_the_keeper_was_started(tmp_path: Path) -> None:
    async with running(tmp_path) as keeper:
        config = (await keeper.client.get("/v1/debug_dump")).json()["config"]
        assert (config["id"], config["workdir"], config["no_sync"]) == (7, str(tmp_path), False)
        assert config["listen_http_addr"] == keeper.client.base_url.netloc.decode()


async def test_while_it_drains_it_is_alive_but_not_ready(tmp_path: Path) -> None:
    leave = trio.Event()
    async with running(tmp_path, accepting=one_connection(leave.wait), drain_seconds=60) as keeper:
        keeper.stop()
        await keeper.wait_status("/readyz", 503)
        assert "draining" in (await keeper.client.get("/readyz")).text
        alive = await keeper.client.get("/livez")
        assert (alive.status_code, alive.text) == (200, "draining\n")
        assert not keeper.ended.is_set()
        leave.set()
        await keeper.ended.wait()


async def test_connections_that_do_not_end_are_cut_off_by_the_deadline(tmp_path: Path) -> None:
    async with running(tmp_path, accepting=one_connection(trio.sleep_forever), drain_seconds=0.01) as keeper:
        keeper.stop()
        await keeper.ended.wait()


async def test_a_timeline_that_cannot_be_read_stays_shut_and_the_keeper_up(tmp_path: Path) -> None:
    directory = tmp_path / str(TTID.tenant_id) / str(TTID.timeline_id)
    directory.mkdir(parents=True)
    (directory / "safekeeper.control").write_bytes(b"garbage")
    (tmp_path / "safekeeper.id").write_text("7")
    async with running(tmp_path) as keeper:
        shut = await keeper.client.get(f"/v1/tenant/{TTID.tenant_id}/timeline/{TTID.timeline_id}")
        assert shut.status_code == 409
        assert "walkeeper_shut_timelines 1.0" in (await keeper.client.get("/metrics")).text
    assert (directory / "safekeeper.control").read_bytes() == b"garbage"


class HangingDisk(OsDisk):
    """A disk whose syncs of directories do not return before they are let go, once it hangs."""

    def __init__(self) -> None:
        super().__init__(sync=False)
        self.goes_on = Event()
        self.goes_on.set()

    def fsync_dir(self, path: Path) -> None:
        self.goes_on.wait()
        super().fsync_dir(path)


async def test_a_disk_that_hangs_is_told_until_it_goes_on_and_everything_else_is_served(tmp_path: Path) -> None:
    disk = HangingDisk()
    async with running(tmp_path, disk=disk, disk_hangs_seconds=0.05) as keeper, trio.open_nursery() as nursery:
        disk.goes_on.clear()
        nursery.start_soon(partial(keeper.client.post, "/v1/tenant/timeline", json=REQUEST))
        try:
            await keeper.wait_status("/livez", 503)
            told = (await keeper.client.get("/livez")).text
            assert f"[-] disk: no answer to create of {TTID} for " in told
            assert await keeper.status("/readyz") == 200
            assert "walkeeper_disk_jobs 1.0" in (await keeper.client.get("/metrics")).text.splitlines()
        finally:
            disk.goes_on.set()
        await keeper.wait_status("/livez", 200)


class LosingDisk(OsDisk):
    """A disk whose syncs of directories fail once it is told to lose them."""

    is_lost = False

    def fsync_dir(self, path: Path) -> None:
        if self.is_lost:
            raise DurabilityLost("Input/output error", operation="fsync", path=str(path))
        super().fsync_dir(path)


async def test_a_failed_fsync_behind_a_request_ends_the_keeper(tmp_path: Path) -> None:
    disk = LosingDisk(sync=False)
    with pytest.RaisesGroup(DurabilityLost, flatten_subgroups=True):
        async with running(tmp_path, disk=disk) as keeper:
            disk.is_lost = True
            with suppress(httpx2.HTTPError):  # it may hear a 500, or nothing any more
                await keeper.client.post("/v1/tenant/timeline", json=REQUEST)
            await trio.sleep_forever()


async def test_a_failed_fsync_behind_a_connection_ends_the_keeper(tmp_path: Path) -> None:
    fail = trio.Event()

    async def connection() -> None:
        await fail.wait()
        raise DurabilityLost("Input/output error")

    with pytest.RaisesGroup(DurabilityLost, flatten_subgroups=True):
        async with running(tmp_path, accepting=one_connection(connection)):
            fail.set()
            await trio.sleep_forever()


# -- before anything is served ------------------------------------------------------------------------------

walkeeper = partial(run_command, environment={})


def test_init_makes_the_id_file_and_ends(tmp_path: Path) -> None:
    assert walkeeper(["serve", "-D", str(tmp_path), "--id", "7", "--init"]) == 0
    assert (tmp_path / "safekeeper.id").read_text() == "7"
    assert walkeeper(["serve", "-D", str(tmp_path), "--init"]) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["-D", "{}/absent", "--id", "7"],
        ["-D", "{}"],
        ["-D", "{}", "--id", "8", "--init"],
        ["-D", "{}/file", "--id", "7"],
        ["-D", "{}/foreign", "--id", "7"],
        ["-D", "{}/ours", "--id", "7"],
        ["-D", "{}/ours", "--listen-http", "{busy}"],
        ["-D", "{}/ours", "--listen-pg", "{busy}", "--listen-http", "127.0.0.1:0"],
        [
            "-D",
            "{}/ours",
            "--listen-pg",
            "127.0.0.1:0",
            "--listen-http",
            "127.0.0.1:0",
            "--listen-metrics",
            "{busy}",
        ],
        ["-D", "{}/ours", "--listen-pg", "no-such-host.invalid:1"],
        ["--dump-control-file", "{}/absent"],
        ["--dump-control-file", "{}/file"],
    ],
    ids=" ".join,
)
def test_a_wrong_environment_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "PG_VERSION").write_text("16")
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "safekeeper.id").write_text("9")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = f"127.0.0.1:{taken.getsockname()[1]}"
        assert walkeeper(["serve", *(each.format(tmp_path, busy=busy) for each in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("walkeeper: ")
    assert error.count("\n") == 1


def test_a_second_keeper_in_one_directory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(claim(OsDisk(), tmp_path, NodeId(7))):
        assert walkeeper(["serve", "-D", str(tmp_path), "--id", "7"]) == 2
    assert str(os.getpid()) in capsys.readouterr().err


def test_a_control_file_is_dumped_as_one_line_of_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    control_file = new_control_file(TTID, SERVER, (0, 0), configuration=NO_CONFIGURATION)
    (tmp_path / "safekeeper.control").write_bytes(encode_control_file(control_file))
    assert walkeeper(["serve", "--dump-control-file", str(tmp_path / "safekeeper.control")]) == 0
    printed = capsys.readouterr().out
    assert "\n" not in printed
    assert json.loads(printed) == control_file_as_json(control_file)


def test_a_reload_that_comes_while_a_keeper_starts_does_not_end_it(tmp_path: Path) -> None:
    assert walkeeper(["serve", "-D", str(tmp_path), "--id", "1", "--init"]) == 0
    assert {signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGUSR1)} == {signal.SIG_IGN}
