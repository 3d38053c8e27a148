"""Tokens on the HTTP port: which routes need one, and that one of a tenant never reaches another.

The keeper has loaded no timelines: whoever is let in hears something else.
"""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import structlog

from managed import REQUEST, TENANT, TIMELINE, client_of
from minted import Mint
from walkeeper.auth.tokens import TokenVerifier
from walkeeper.control.api import ManagementApi
from walkeeper.control.app import create_app
from walkeeper.control.dump import KeeperConfig
from walkeeper.control.endpoints import Endpoint
from walkeeper.ids import TenantId

MINT = Mint.ed25519()
API = ManagementApi(KeeperConfig(id=7), TokenVerifier([MINT.key]).verify)
OWN, OTHER = TenantId.parse(TENANT), TenantId(b"x" * 16)

CONFIGURATION = {"generation": 4, "members": REQUEST["mconf"]["members"]}
BODIES: dict[str, Any] = {
    "CreateTimelineJson": REQUEST,
    "ConfigurationJson": CONFIGURATION,
    "TermBumpJson": {},
    "PatchJson": {"updates": {}, "apply_fields": []},
    "PeerJson": {},
}

NOBODY = {"/v1/status"}
WHOLE_KEEPER = {
    "GET /v1/utilization",
    "GET /v1/tenant/timeline",
    "GET /v1/debug/tasks",
    "POST /v1/pull_timeline",
    "POST /v1/tenant/{tenant_id}/timeline/{timeline_id}/copy",
    "PATCH /v1/tenant/{tenant_id}/timeline/{timeline_id}/control_file",
    "POST /v1/tenant/{tenant_id}/timeline/{timeline_id}/checkpoint",
    "GET /v1/debug_dump",
    "GET /v1/walkeeper/overview",
    "GET /v1/walkeeper/positions",
}
"""As at Neon.  A token of a tenant is enough for that tenant's part of the others."""

ENDPOINTS = pytest.mark.parametrize("endpoint", API.endpoints(), ids=lambda each: f"{each.method} {each.path}")


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with client_of(create_app(API.routes())) as client:
        yield client


async def status(client: httpx2.AsyncClient, endpoint: Endpoint, authorization: str | None) -> int:
    path = endpoint.path.format(tenant_id=TENANT, timeline_id=TIMELINE, destination_id=9)
    body = None if endpoint.body is None else BODIES[endpoint.body.__name__]
    headers = {} if authorization is None else {"authorization": authorization}
    answer = await client.request(endpoint.method, path, json=body, headers=headers)
    return int(answer.status_code)


def bearer(token: bytes) -> str:
    return f"Bearer {token.decode()}"


@ENDPOINTS
async def test_every_route_asks_for_a_token_except_the_one_that_tells_who_this_is(
    client: httpx2.AsyncClient, endpoint: Endpoint
) -> None:
    is_open = endpoint.path in NOBODY
    assert (await status(client, endpoint, None) != 401) == is_open
    assert (await status(client, endpoint, bearer(Mint.ed25519().for_everything())) != 403) == is_open


@ENDPOINTS
async def test_a_token_opens_what_its_scope_says_and_no_more(
    client: httpx2.AsyncClient, endpoint: Endpoint
) -> None:
    is_open = endpoint.path in NOBODY
    for_tenants = is_open or f"{endpoint.method} {endpoint.path}" not in WHOLE_KEEPER
    opened = {
        name: await status(client, endpoint, bearer(token)) not in (401, 403)
        for name, token in (
            ("everything", MINT.for_everything()),
            ("own", MINT.for_tenant(OWN)),
            ("other", MINT.for_tenant(OTHER)),
            ("pageserver", MINT.token(scope="pageserverapi")),
        )
    }
    assert opened == {"everything": True, "own": for_tenants, "other": is_open, "pageserver": is_open}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, "Unauthorized: missing authorization header"),
        ("", "Unauthorized: malformed authorization header"),
        ("Bearer", "Unauthorized: malformed authorization header"),
        ("bearer x", "Unauthorized: malformed authorization header"),
        ("Basic dXNlcg==", "Unauthorized: malformed authorization header"),
        ("Bearer a b", "Unauthorized: malformed authorization header"),
        ("Bearer a", "Forbidden: JWT authentication error"),
        ("Bearer \xe4\xff", "Forbidden: JWT authentication error"),
    ],
)
async def test_whoever_is_not_let_in_hears_what_neons_clients_know(
    client: httpx2.AsyncClient, header: str | None, message: str
) -> None:
    headers = {} if header is None else {b"authorization": header.encode("latin-1")}
    answer = await client.get("/v1/utilization", headers=headers)
    assert answer.json() == {"msg": message}
    is_asked = message.startswith("Unauthorized")
    assert answer.status_code == (401 if is_asked else 403)
    assert (answer.headers.get("www-authenticate") == "Bearer") == is_asked


async def test_only_the_log_says_why(client: httpx2.AsyncClient) -> None:
    with structlog.testing.capture_logs() as logs:
        await client.get("/v1/utilization", headers={"authorization": bearer(MINT.for_tenant(OWN))})
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("access denied", "warning")
    assert str(OWN) in line["why"]
