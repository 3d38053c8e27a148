"""Alive, and ready."""

import httpx2
import pytest
from starlette.applications import Starlette

from walkeeper.control.health import Check, Readiness, health_routes


async def get(path: str, readiness: Readiness, *alive: Check) -> httpx2.Response:
    app = Starlette(routes=health_routes(lambda: alive, readiness))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://keeper") as client:
        return await client.get(path)


async def test_a_keeper_is_ready_when_everything_it_waits_for_has_happened() -> None:
    readiness = Readiness("timelines", "listener")
    readiness.reached("timelines")
    assert (await get("/readyz", readiness)).status_code == 503
    readiness.reached("listener")
    assert (await get("/readyz", readiness)).status_code == 200


async def test_it_says_what_it_waits_for_and_verbosely_what_it_has() -> None:
    readiness = Readiness("timelines", "listener")
    readiness.reached("timelines")
    assert (await get("/readyz", readiness)).text == "[-] listener: not yet\nfailed\n"
    assert (await get("/readyz?verbose", readiness)).text == "[+] timelines: ok\n[-] listener: not yet\nfailed\n"


async def test_a_draining_keeper_is_alive_and_not_ready() -> None:
    readiness = Readiness("listener")
    readiness.reached("listener")
    readiness.drain("listener")
    ready, alive = await get("/readyz", readiness), await get("/livez", readiness)
    assert (ready.status_code, ready.text) == (503, "[-] listener: draining\nfailed\n")
    assert (alive.status_code, alive.text) == (200, "draining\n")


@pytest.mark.parametrize(("problem", "status"), [("", 200), ("no answer for 90 s", 503)])
async def test_a_disk_that_does_not_answer_is_a_reason_to_start_again(problem: str, status: int) -> None:
    answer = await get("/livez?verbose", Readiness(), Check("disk", problem))
    assert answer.status_code == status
    assert problem in answer.text
    assert "[+] event loop: ok" in answer.text
