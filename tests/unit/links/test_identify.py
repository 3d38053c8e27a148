"""What keepers say of themselves, and what is made of it."""

from contextlib import AbstractAsyncContextManager

import pytest
import trio

from fake_servers import Client, Server
from walkeeper.errors import Malformed, ServerError
from walkeeper.formats.backend import CommandComplete, DataRow, ReadyForQuery
from walkeeper.ids import TenantId, TenantTimelineId, TimelineId
from walkeeper.links.address import Address
from walkeeper.links.keeper import KeptTimeline, ask_server, connect_keeper, identify
from walkeeper.links.postgres import Connection
from walkeeper.lsn import Lsn
from walkeeper.messages import ServerInfo

TTID = TenantTimelineId(TenantId(b"t" * 16), TimelineId(b"l" * 16))


class ScriptedServer(Server):
    """Answers each question with the row, or the SQLSTATE and the text, that it was given for it."""

    answers: dict[str, tuple[str | None, ...]]
    refusal: tuple[str, str] | None = None

    async def answer(self, client: Client, text: str) -> None:
        if self.refusal is not None:
            await client.fail(*self.refusal)
        else:
            await client.answer(*self.answers[text])

    def asked(self) -> "AbstractAsyncContextManager[Connection]":
        return connect_keeper(Address("127.0.0.1", self.port), TTID, "test")


@pytest.fixture
async def server(nursery: trio.Nursery) -> ScriptedServer:
    server = ScriptedServer()
    await nursery.start(server.serve)
    return server


@pytest.mark.parametrize(
    "refusal",
    [
        ("42704", "there is no such timeline"),
        ("XX000", "Timeline 1234/5678 was not found in global map"),
    ],
    ids=["ours", "Neon's"],
)
async def test_a_keeper_that_never_heard_of_the_timeline_says_so(
    server: ScriptedServer, refusal: tuple[str, str]
) -> None:
    server.refusal = refusal
    async with server.asked() as connection:
        assert await identify(connection) is None


async def test_another_refusal_is_not_taken_for_that(server: ScriptedServer) -> None:
    server.refusal = ("58030", "its disk does not answer")
    async with server.asked() as connection:
        with pytest.raises(ServerError):
            await identify(connection)


async def test_a_keeper_says_what_it_has_and_of_which_server(server: ScriptedServer) -> None:
    server.answers = {
        "IDENTIFY_SYSTEM": ("7", "2", "1/10", None),
        "SHOW server_version_num": ("150005",),
        "SHOW wal_segment_size": ("16MB",),
    }
    async with server.asked() as connection:
        assert await identify(connection) == KeptTimeline(7, 2, Lsn((1 << 32) + 16))  # type: ignore[arg-type]
        assert await ask_server(connection) == ServerInfo(150005, 0, 16 << 20)


@pytest.mark.parametrize("version", [("devel",), (), ("150005", "x"), ("4294967296",), ("-1",), (None,)], ids=str)
async def test_a_keeper_whose_version_is_no_number_is_malformed(
    server: ScriptedServer, version: tuple[str, ...]
) -> None:
    server.answers = {"SHOW server_version_num": version, "SHOW wal_segment_size": ("16MB",)}
    async with server.asked() as connection:
        with pytest.raises(Malformed):
            await ask_server(connection)


@pytest.mark.parametrize("segment", ["", "sixteen", "16XB", "3MB", "4096MB", "0"])
async def test_a_keeper_whose_segment_size_is_no_size_is_malformed(server: ScriptedServer, segment: str) -> None:
    server.answers = {"SHOW server_version_num": ("150005",), "SHOW wal_segment_size": (segment,)}
    async with server.asked() as connection:
        with pytest.raises(Malformed):
            await ask_server(connection)


NONSENSE = [
    ("x",),
    ("many", "1", "0/0", None),
    ("1", "1", "far", None),
    ("-1", "1", "0/0", None),
    (str(1 << 64), "1", "0/0", None),
    ("1", str(1 << 32), "0/0", None),
]


@pytest.mark.parametrize("row", NONSENSE, ids=str)
async def test_a_keeper_that_says_nonsense_about_itself_is_malformed(
    server: ScriptedServer, row: tuple[str | None, ...]
) -> None:
    server.answers = {"IDENTIFY_SYSTEM": row}
    async with server.asked() as connection:
        with pytest.raises(Malformed):
            await identify(connection)


async def test_a_value_that_is_no_text_is_malformed(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def babble(client: Client, _text: str) -> None:
        await client.send(DataRow((b"\xff\xfe",)), CommandComplete("SHOW"), ReadyForQuery())

    monkeypatch.setattr(server, "answer", babble)
    async with server.asked() as connection:
        with pytest.raises(Malformed):
            await connection.query("SHOW server_version_num")
