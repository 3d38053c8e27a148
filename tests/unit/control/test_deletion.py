"""Deleting over HTTP, as Neon's clients do it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from managed import PATH, REQUEST, TENANT, TENANT_PATH, TIMELINE, Managed, managed_in
from walkeeper.control.metrics import Metrics
from walkeeper.control.scrape import render

OTHER_TIMELINE = "cd" * 16


@pytest.fixture
async def keeper(tmp_path: Path) -> AsyncIterator[Managed]:
    async with managed_in(tmp_path) as keeper:
        yield keeper


async def test_a_timeline_is_deleted_once_and_stays_so(keeper: Managed, tmp_path: Path) -> None:
    await keeper.create()
    assert await keeper.ask("DELETE", PATH) == (200, {"dir_existed": True})
    assert await keeper.ask("DELETE", PATH) == (200, {"dir_existed": False})
    assert await keeper.ask("GET", PATH) == (404, {"msg": f"NotFound: timeline {TENANT}/{TIMELINE} deleted"})
    assert await keeper.ask("GET", "/v1/tenant/timeline") == (200, [])
    again = await keeper.ask("POST", "/v1/tenant/timeline", REQUEST)
    assert again == (409, {"msg": f"Conflict: Timeline {TENANT}/{TIMELINE} has been deleted"})
    assert not (tmp_path / TENANT / TIMELINE).exists()


async def test_a_timeline_that_never_existed_is_deleted_all_the_same(keeper: Managed) -> None:
    assert await keeper.ask("DELETE", PATH) == (200, {"dir_existed": False})
    assert (await keeper.ask("POST", "/v1/tenant/timeline", REQUEST))[0] == 409


async def test_a_tenant_is_deleted_with_its_timelines(keeper: Managed, tmp_path: Path) -> None:
    await keeper.create()
    await keeper.create(timeline_id=OTHER_TIMELINE)
    assert await keeper.ask("DELETE", TENANT_PATH) == (
        200,
        {TIMELINE: {"dir_existed": True}, OTHER_TIMELINE: {"dir_existed": True}},
    )
    assert await keeper.ask("DELETE", TENANT_PATH) == (200, {})
    assert not (tmp_path / TENANT).exists()
    assert (await keeper.ask("POST", "/v1/tenant/timeline", REQUEST | {"timeline_id": "0" * 32}))[0] == 409


@pytest.mark.parametrize("path", [PATH, TENANT_PATH])
async def test_a_deletion_takes_no_body_and_a_flag_that_is_one(keeper: Managed, path: str) -> None:
    await keeper.create()
    assert await keeper.ask("DELETE", path, {}) == (400, {"msg": "unexpected request body"})
    for query in ("?only_local=yes", "?only_local", "?only_local=true&only_local=false"):
        status, answer = await keeper.ask("DELETE", path + query)
        assert (status, answer["msg"][:26]) == (400, "failed to parse only_local")
    assert (await keeper.ask("GET", PATH))[0] == 200
    assert (await keeper.ask("DELETE", f"{path}?only_local=true&only_local=true"))[0] == 200


@pytest.mark.parametrize("path", ["/v1/tenant/x", f"{TENANT_PATH}/timeline/x"])
async def test_an_id_that_is_none_deletes_nothing(keeper: Managed, path: str) -> None:
    status, answer = await keeper.ask("DELETE", path)
    assert (status, answer["msg"][:15]) == (400, "failed to parse")


async def test_the_series_of_a_timeline_vanish_with_it(keeper: Managed) -> None:
    metrics = Metrics("1.2.3")
    metrics.watch(keeper.timelines)
    await keeper.create()
    assert TIMELINE.encode() in await render(metrics.registry)
    await keeper.ask("DELETE", PATH)
    assert TIMELINE.encode() not in await render(metrics.registry)
