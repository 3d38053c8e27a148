"""The port of a sidecar: there from the beginning to the end, and no hindrance to it."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest
import trio

from fake_servers import until
from shown_metrics import everything_shown_of_a_sidecar
from sidecar_world import World
from walkeeper.control.http1 import GRACE_SECONDS
from walkeeper.control.sidecar_metrics import SidecarMetrics
from walkeeper.daemon.cli import COMMANDS, read_command
from walkeeper.daemon.config import ProposeOptions
from walkeeper.daemon.sidecar import propose_and_serve
from walkeeper.errors import Fenced
from walkeeper.links.address import Address
from walkeeper.terms import Term

WORDS = ["propose", "--keepers", "k1"]


@asynccontextmanager
async def serving(world: World) -> AsyncIterator[httpx2.AsyncClient]:
    """A sidecar that can be asked within the block.  Whatever ends it ends the block."""
    http = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{http.getsockname()[1]}"
    async with httpx2.AsyncClient(base_url=url) as client, trio.open_nursery() as nursery:
        nursery.start_soon(propose_and_serve, world.config(), http, SidecarMetrics("0"))
        yield client
        nursery.cancel_scope.cancel()


async def wait_status(client: httpx2.AsyncClient, path: str, status: int) -> str:
    """Ask until the answer is ``status``: there is nobody inside who would tell."""
    while (answer := await client.get(path)).status_code != status:
        pass
    return str(answer.text)


async def test_it_is_alive_at_once_and_ready_when_a_majority_acknowledges(world: World) -> None:
    with world.primary.hold():
        async with serving(world) as client:
            assert (await client.get("/livez")).status_code == 200
            told = await wait_status(client, "/readyz", 503)
            assert told.startswith("[-] primary reached: not yet\n[-] leading: not yet\n")
            world.primary.held = False
            await world.commit()
            assert await wait_status(client, "/readyz", 200) == "ok\n"
            assert "[+] acknowledged by a majority: ok" in (await client.get("/readyz?verbose")).text


async def test_a_scrape_shows_how_it_stands(world: World) -> None:
    async with serving(world) as client:
        end = await world.commit()
        await wait_status(client, "/readyz", 200)
        lines = (await client.get("/metrics")).text.splitlines()
    assert "walkeeper_sidecar_leading 1.0" in lines
    assert f"walkeeper_sidecar_commit_lsn {float(end)!r}" in lines
    assert 'walkeeper_sidecar_keepers{state="incomplete"} 0.0' in lines
    assert "walkeeper_sidecar_commits_wait 1.0" in lines
    assert "walkeeper_sidecar_ack_seconds_count 1.0" in lines


async def test_there_is_nothing_else_on_that_port_and_nothing_can_be_changed_there(world: World) -> None:
    async with serving(world) as client:
        for path in ("/", "/v1/status", "/v1/debug/tasks", "/openapi.json"):
            assert (await client.get(path)).status_code == 404, path
        for path in ("/livez", "/readyz", "/metrics"):
            assert (await client.post(path)).status_code == 404, path


async def test_what_is_not_known_is_not_shown(world: World) -> None:
    with world.primary.hold():
        async with serving(world) as client:
            shown = (await client.get("/metrics")).text
    missing = {each.name for each in everything_shown_of_a_sidecar() if f"{each.name}" not in shown}
    assert missing == {
        "walkeeper_sidecar_commits_wait",
        "walkeeper_sidecar_slot_retained_bytes",
        "walkeeper_sidecar_slot_limit_bytes",
    }


async def test_what_ends_the_sidecar_ends_its_port_even_if_somebody_does_not_read(world: World) -> None:
    with pytest.RaisesGroup(Fenced, flatten_subgroups=True, allow_unwrapped=True):
        async with serving(world) as client:
            await wait_status(client, "/readyz", 200)
            async with await trio.open_tcp_stream("127.0.0.1", client.base_url.port or 0) as deaf:
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                with trio.move_on_after(GRACE_SECONDS):
                    await deaf.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 2000)
                for keeper in world.keepers:
                    keeper.term = Term(9)
                world.primary.wal.logical_message("test", b"x")
                with trio.fail_after(10):
                    await until(lambda: False)


async def test_the_port_is_told_by_the_same_name_as_a_keepers_and_is_none_unless_told() -> None:
    def options(*more: str, **environment: str) -> ProposeOptions:
        _, config = read_command([*WORDS, *more], environment, COMMANDS)
        assert isinstance(config, ProposeOptions)
        return config

    assert options().http is None
    assert options("--listen-http", "h:1").http == Address("h", 1)
    assert options(WALKEEPER_LISTEN_HTTP="h:2").http == Address("h", 2)
