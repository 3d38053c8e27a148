"""The management API over real timelines in a directory, and what most of its tests ask."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx2
import msgspec
from starlette.applications import Starlette
from starlette.routing import Match

from walkeeper.control.api import ManagementApi
from walkeeper.control.app import create_app
from walkeeper.control.dump import KeeperConfig
from walkeeper.control.models import ErrorJson
from walkeeper.control.openapi import possible_statuses
from walkeeper.ids import NodeId
from walkeeper.storage.data_directory import claim
from walkeeper.storage.disk import OsDisk
from walkeeper.testing.offload import InlineOffload
from walkeeper.timeline.timelines import Timelines, open_timelines

NODE = NodeId(7)
TENANT, TIMELINE = "7" * 32, "ab" * 16
TENANT_PATH = f"/v1/tenant/{TENANT}"
PATH = f"{TENANT_PATH}/timeline/{TIMELINE}"
MEMBERS = [{"id": 1, "host": "a", "pg_port": 5454}, {"id": 7, "host": "b", "pg_port": 5454}]
OTHERS = MEMBERS[:1]
REQUEST: dict[str, Any] = {
    "tenant_id": TENANT,
    "timeline_id": TIMELINE,
    "mconf": {"generation": 3, "members": MEMBERS, "new_members": None},
    "pg_version": 160_002,
    "system_id": 77,
    "wal_seg_size": 1024 * 1024,
    "start_lsn": "0/302760",
}


DOCUMENTED = [(endpoint.route(None), endpoint) for endpoint in ManagementApi(KeeperConfig(id=NODE)).endpoints()]


class Managed:
    """A keeper's timelines, and a client of its API."""

    def __init__(self, timelines: Timelines, client: httpx2.AsyncClient) -> None:
        self.timelines = timelines
        self.client = client

    async def ask(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        """Status and JSON of an answer; ``body`` is sent as JSON unless it is None."""
        if body is not None:
            options["json"] = body
        answer = await self.client.request(method, path, **options)
        check_is_documented(method, path, answer)
        return answer.status_code, answer.json()

    async def create(self, **changes: Any) -> None:
        assert await self.ask("POST", "/v1/tenant/timeline", REQUEST | changes) == (200, None)


def check_is_documented(method: str, path: str, answer: httpx2.Response) -> None:
    """The answer is one that the OpenAPI document tells of."""
    scope = {"type": "http", "method": method, "path": path.partition("?")[0]}
    endpoint = next(endpoint for route, endpoint in DOCUMENTED if route.matches(scope)[0] is Match.FULL)
    assert answer.status_code in possible_statuses(endpoint)
    assert answer.headers["content-type"] == "application/json"
    shape = endpoint.answer if answer.status_code == HTTPStatus.OK else ErrorJson
    told = msgspec.json.decode(answer.content, type=shape)
    assert msgspec.json.decode(msgspec.json.encode(told)) == answer.json()


def client_of(app: Starlette) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://keeper")


@asynccontextmanager
async def managed_in(path: Path) -> AsyncIterator[Managed]:
    directory = claim(OsDisk(sync=False), path, NODE)
    async with open_timelines(directory, InlineOffload(), save_seconds=300) as timelines:
        api = ManagementApi(KeeperConfig(id=NODE))
        api.begin(timelines)
        async with client_of(create_app(api.routes())) as client:
            yield Managed(timelines, client)
    directory.close()
