"""The management API, over real timelines in a directory."""

import uuid
from collections.abc import AsyncIterator, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message

from walkeeper.control.api import ManagementApi
from walkeeper.control.app import create_app
from walkeeper.control.dump import KeeperConfig
from walkeeper.control.endpoints import BODY_BYTES_MAX, read_body
from walkeeper.errors import DurabilityLost
from walkeeper.ids import NodeId
from walkeeper.membership import KEEPERS_MAX
from walkeeper.storage.data_directory import claim
from walkeeper.storage.disk import OsDisk
from walkeeper.testing.offload import InlineOffload
from walkeeper.timeline.timelines import open_timelines

TENANT, TIMELINE = "7" * 32, "ab" * 16
PATH = f"/v1/tenant/{TENANT}/timeline/{TIMELINE}"
MEMBERS = [{"id": 1, "host": "a", "pg_port": 5454}, {"id": 7, "host": "b", "pg_port": 5454}]
CROWD = [MEMBERS[0] | {"id": number} for number in range(1, KEEPERS_MAX + 2)]
REQUEST = {
    "tenant_id": TENANT,
    "timeline_id": TIMELINE.upper(),
    "mconf": {"generation": 3, "members": MEMBERS, "new_members": None, "unknown": 1},
    "pg_version": 160_002,
    "system_id": 2**63 + 1,
    "wal_seg_size": 16 * 1024 * 1024,
    "start_lsn": "0/16B3748",
    "commit_lsn": "0/16b3748",
}


async def fail(request: Request) -> Response:
    raise {"ours": DurabilityLost("disk"), "theirs": ZeroDivisionError("surprise")}[request.path_params["how"]]


def app_with(api: ManagementApi) -> Starlette:
    return create_app([*api.routes(), Route("/fail/{how}", fail)])


def client_of(app: Starlette) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://keeper")


@pytest.fixture(autouse=True)
def lines() -> Iterator[list[MutableMapping[str, Any]]]:
    """The log lines of the test."""
    with structlog.testing.capture_logs() as captured:
        yield captured


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    directory = claim(OsDisk(sync=False), tmp_path, NodeId(7))
    async with open_timelines(directory, InlineOffload(), save_seconds=300) as timelines:
        api = ManagementApi(KeeperConfig(id=7))
        api.begin(timelines)
        async with client_of(app_with(api)) as client:
            yield client
    directory.close()


async def test_the_node_says_who_it_is(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/v1/status")
    assert (answer.status_code, answer.json()) == (200, {"id": 7})
    assert answer.headers["content-type"] == "application/json"


async def test_everything_waits_for_the_timelines_to_be_loaded() -> None:
    async with client_of(app_with(ManagementApi(KeeperConfig(id=7)))) as client:
        for path in ("/v1/status", "/v1/tenant/timeline", PATH):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()) == (503, {"msg": "timelines are being loaded"})


async def test_a_created_timeline_is_listed_and_shown(client: httpx2.AsyncClient) -> None:
    created = await client.post("/v1/tenant/timeline", json=REQUEST)
    assert (created.status_code, created.content) == (200, b"null")
    listed = await client.get("/v1/tenant/timeline")
    assert listed.json() == [{"tenant_id": TENANT, "timeline_id": TIMELINE}]
    shown = await client.get(PATH)
    assert shown.status_code == 200
    assert shown.json() == {
        "tenant_id": TENANT,
        "timeline_id": TIMELINE,
        "mconf": {"generation": 3, "members": MEMBERS, "new_members": None},
        "acceptor_state": {"term": 0, "epoch": 0, "term_history": [{"term": 0, "lsn": "0/16B3748"}]},
        "pg_info": {"pg_version": 160_002, "system_id": 2**63 + 1, "wal_seg_size": 16 * 1024 * 1024},
        "flush_lsn": "0/16B3748",
        "timeline_start_lsn": "0/16B3748",
        "local_start_lsn": "0/16B3748",
        "commit_lsn": "0/16B3748",
        "backup_lsn": "0/16B3748",
        "peer_horizon_lsn": "0/16B3748",
        "remote_consistent_lsn": "0/0",
        "walreceivers": [],
        "is_whole": False,
        "peers": [],
        "walsenders": [],
    }


async def test_what_is_not_said_has_neons_defaults(client: httpx2.AsyncClient) -> None:
    wanted = {key: REQUEST[key] for key in ("tenant_id", "timeline_id", "pg_version", "start_lsn")}
    wanted["mconf"] = {"generation": 0, "members": []}
    assert (await client.post("/v1/tenant/timeline", json=wanted)).status_code == 200
    shown = (await client.get(PATH)).json()
    assert shown["pg_info"] == {"pg_version": 160_002, "system_id": 0, "wal_seg_size": 16 * 1024 * 1024}
    assert shown["commit_lsn"] == "0/16B3748"
    assert shown["mconf"]["new_members"] is None


async def test_creating_again_changes_nothing(client: httpx2.AsyncClient) -> None:
    await client.post("/v1/tenant/timeline", json=REQUEST)
    again = await client.post("/v1/tenant/timeline", json=REQUEST | {"start_lsn": "1/0", "commit_lsn": "1/0"})
    assert (again.status_code, again.content) == (200, b"null")
    assert (await client.get(PATH)).json()["timeline_start_lsn"] == "0/16B3748"


@pytest.mark.parametrize(
    "change",
    [
        {"tenant_id": "7"},
        {"tenant_id": None},
        {"timeline_id": "x" * 32},
        {"start_lsn": 23_803_720},
        {"tenant_id": TENANT + "\n"},
        {"timeline_id": TIMELINE + "\n"},
        {"start_lsn": "0/1/2"},
        {"start_lsn": "0/123456789"},
        {"commit_lsn": "0/1"},
        {"pg_version": 0},
        {"pg_version": 90_600},
        {"wal_seg_size": 0},
        {"wal_seg_size": 16_000_000},
        {"system_id": -1},
        {"system_id": 2**64},
        {"mconf": None},
        {"mconf": {"generation": -1, "members": MEMBERS}},
        {"mconf": {"generation": 2**32, "members": MEMBERS}},
        {"mconf": {"generation": 1, "members": []}},
        {"mconf": {"generation": 1, "members": [MEMBERS[0], MEMBERS[0]]}},
        pytest.param({"mconf": {"generation": 1, "members": CROWD}}, id="a crowd"),
        {"mconf": {"generation": 1, "members": [{"id": 7, "host": "a\0b", "pg_port": 1}]}},
        {"start_lsn": "FFFFFFFF/FFF00028", "commit_lsn": "FFFFFFFF/FFF00028"},
        {"mconf": {"generation": 1, "members": [{"id": 1, "host": "a", "pg_port": 65_536}]}},
        {"mconf": {"generation": 1, "members": [{"id": 2**64, "host": "a", "pg_port": 1}]}},
    ],
    ids=str,
)
async def test_a_timeline_that_cannot_be_is_refused(client: httpx2.AsyncClient, change: dict[str, Any]) -> None:
    answer = await client.post("/v1/tenant/timeline", json=REQUEST | change)
    assert answer.status_code == 400
    assert set(answer.json()) == {"msg"}
    assert (await client.get("/v1/tenant/timeline")).json() == []


async def test_a_timeline_whose_members_are_others_is_refused(client: httpx2.AsyncClient) -> None:
    answer = await client.post(
        "/v1/tenant/timeline", json=REQUEST | {"mconf": {"generation": 1, "members": MEMBERS[:1]}}
    )
    assert answer.status_code == 403
    assert "node 7 is not a member" in answer.json()["msg"]
    assert (await client.get("/v1/tenant/timeline")).json() == []


@pytest.mark.parametrize("body", [b"", b"null", b"{", b"[]", b"\xff"])
async def test_a_body_that_is_no_request_is_refused(client: httpx2.AsyncClient, body: bytes) -> None:
    answer = await client.post("/v1/tenant/timeline", content=body)
    assert answer.status_code == 400
    assert set(answer.json()) == {"msg"}


async def test_a_body_above_the_limit_is_not_read_to_its_end() -> None:
    piece, received = bytes(BODY_BYTES_MAX // 4), 0

    async def receive() -> Message:
        nonlocal received
        received += 1
        return {"type": "http.request", "body": piece, "more_body": True}

    with pytest.raises(HTTPException) as caught:
        await read_body(Request({"type": "http"}, receive))
    assert caught.value.status_code == 413
    assert received == 5


@pytest.mark.parametrize("body", [b"null", b"{}", b"whatever"])
async def test_a_body_that_is_not_needed_is_ignored(client: httpx2.AsyncClient, body: bytes) -> None:
    assert (await client.request("GET", "/v1/status", content=body)).status_code == 200


async def test_an_unknown_timeline_is_not_found(client: httpx2.AsyncClient) -> None:
    answer = await client.get(PATH)
    assert answer.status_code == 404
    assert answer.json() == {"msg": f"NotFound: timeline {TENANT}/{TIMELINE} not found"}


@pytest.mark.parametrize(("tenant", "name"), [("x", "tenant_id"), (TENANT, "timeline_id")])
async def test_an_id_that_is_none_is_named(client: httpx2.AsyncClient, tenant: str, name: str) -> None:
    answer = await client.get(f"/v1/tenant/{tenant}/timeline/{TIMELINE}-")
    assert answer.status_code == 400
    assert answer.json()["msg"].startswith(f"failed to parse {name}: ")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v1/nothing"),
        ("GET", "/v1/status/"),
        ("PUT", "/v1/status"),
        ("PUT", "/v1/tenant/timeline"),
    ],
)
async def test_a_wrong_path_and_a_wrong_method_are_the_same(
    client: httpx2.AsyncClient, method: str, path: str
) -> None:
    answer = await client.request(method, path)
    assert (answer.status_code, answer.text) == (404, "Not Found")
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("path", ["/v1/status", "/nowhere"])
async def test_options_are_answered_with_nothing(client: httpx2.AsyncClient, path: str) -> None:
    answer = await client.options(path)
    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("path", ["/v1/status", "/nowhere", PATH, "/fail/theirs"])
async def test_every_answer_carries_a_request_id(client: httpx2.AsyncClient, path: str) -> None:
    assert (await client.get(path, headers={"x-request-id": "mine"})).headers["x-request-id"] == "mine"
    assert uuid.UUID((await client.get(path)).headers["x-request-id"]).version == 4


async def test_an_unexpected_error_is_answered_and_logged_and_ends_nothing(
    client: httpx2.AsyncClient, lines: list[MutableMapping[str, Any]]
) -> None:
    answer = await client.get("/fail/theirs")
    assert (answer.status_code, answer.json()) == (500, {"msg": "internal error"})
    assert [line["log_level"] for line in lines] == ["error"]
    assert (await client.get("/v1/status")).status_code == 200


async def test_what_changes_something_is_logged_and_what_looks_is_not(
    client: httpx2.AsyncClient, lines: list[MutableMapping[str, Any]]
) -> None:
    await client.get("/v1/status")
    assert lines == []
    await client.post("/v1/tenant/timeline", json=REQUEST)
    assert [lines[0]["event"], lines[-1]["event"], lines[-1]["status"]] == ["request begins", "request ends", 200]


async def test_a_failed_fsync_is_answered() -> None:
    async with client_of(app_with(ManagementApi(KeeperConfig(id=7)))) as client:
        assert (await client.get("/fail/ours")).status_code == 500
