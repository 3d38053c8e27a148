"""SQL connections to a primary, for the tools that ask it."""

from dataclasses import dataclass

import pytest
import trio

from fake_servers import Client, FakePrimary
from walkeeper.errors import ConfigError
from walkeeper.formats.backend import ErrorResponse
from walkeeper.links.conninfo import parse_conninfo
from walkeeper.tools.ask_primary import connect_sql


@dataclass
class OnlyPostgres(FakePrimary):
    """A primary with one database, that of the name `postgres`."""

    async def welcome(self, client: Client) -> None:
        if self.parameters["database"] == "postgres":
            await super().welcome(client)
        else:
            await client.send(ErrorResponse("database does not exist", "3D000"))


@pytest.fixture
async def primary(nursery: trio.Nursery) -> OnlyPostgres:
    made = OnlyPostgres()
    await nursery.start(made.serve)
    return made


async def test_a_role_without_a_database_of_its_own_gets_the_usual_one(primary: OnlyPostgres) -> None:
    info = parse_conninfo(f"host=127.0.0.1 port={primary.port} user=watcher", {}, login="me")
    async with connect_sql(info, "test") as connection:
        assert await connection.show("synchronous_commit", str) == "on"


async def test_a_database_that_was_asked_for_is_the_only_one_that_will_do(primary: OnlyPostgres) -> None:
    info = parse_conninfo(f"host=127.0.0.1 port={primary.port} user=watcher dbname=sales", {}, login="me")
    with pytest.raises(ConfigError, match="check dbname"):
        async with connect_sql(info, "test"):
            raise AssertionError("it was let in")
