"""Membership, terms, saving, surgery and looking over HTTP, as Neon's clients do it."""

from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from managed import MEMBERS, NODE, OTHERS, PATH, TENANT, TIMELINE, Managed, managed_in
from walkeeper.ids import TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import Lsn, format_lsn, parse_lsn
from walkeeper.membership import Generation
from walkeeper.messages import AppendRun, PageserverFeedback, ProposerElected, VoteRequest
from walkeeper.terms import Term, TermHistory
from walkeeper.testing.wal import WalGenerator
from walkeeper.timeline.registry import Client
from walkeeper.timeline.timeline import Timeline

START = parse_lsn("0/302760")
SEGMENT = 1024 * 1024
GENERATION = Generation(3)


@pytest.fixture
async def keeper(tmp_path: Path) -> AsyncIterator[Managed]:
    async with managed_in(tmp_path) as keeper:
        await keeper.create()
        yield keeper


def timeline_of(keeper: Managed) -> Timeline:
    ttid = TenantTimelineId(TenantId.parse(TENANT), TimelineId.parse(TIMELINE))
    return keeper.timelines.get(ttid)


async def write(keeper: Managed, size: int) -> WalGenerator:
    """Have a leader of term 1 write a record of that size, and commit nothing."""
    timeline = timeline_of(keeper)
    wal = WalGenerator(START, pg_major=16, wal_seg_size=SEGMENT, system_id=77)
    await timeline.process(VoteRequest(GENERATION, Term(1)))
    history = TermHistory.of((1, START))
    await timeline.process(ProposerElected(GENERATION, Term(1), START, history))
    wal.record(b"w" * size)
    run = AppendRun(GENERATION, Term(1), START, wal.lsn, Lsn(0), Lsn(0), (wal.between(START, wal.lsn),))
    await timeline.process(run)
    return wal


def configuration(generation: int, members: Any = MEMBERS) -> dict[str, Any]:
    return {"generation": generation, "members": members, "new_members": None}


# -- membership -----------------------------------------------------------------------------------------------


async def test_a_newer_configuration_is_adopted_and_told_again(keeper: Managed) -> None:
    answer = {
        "previous_conf": configuration(3),
        "current_conf": configuration(5),
        "last_log_term": 0,
        "flush_lsn": "0/302760",
    }
    assert await keeper.ask("PUT", f"{PATH}/membership", configuration(5)) == (200, answer)
    again = answer | {"previous_conf": configuration(5)}
    assert await keeper.ask("PUT", f"{PATH}/membership", configuration(5)) == (200, again)
    assert (await keeper.ask("GET", PATH))[1]["mconf"] == configuration(5)


async def test_a_configuration_that_is_older_or_of_others_is_refused_in_neons_words(keeper: Managed) -> None:
    assert await keeper.ask("PUT", f"{PATH}/membership", configuration(2)) == (
        409,
        {"msg": "Conflict: request to switch into 2 ignored, current generation 3"},
    )
    status, answer = await keeper.ask("PUT", f"{PATH}/membership", configuration(5, OTHERS))
    assert (status, answer["msg"][:33]) == (403, "Forbidden: refused to switch into")
    assert (await keeper.ask("PUT", f"{PATH}/membership", {}))[0] == 400
    assert (await keeper.ask("GET", PATH))[1]["mconf"] == configuration(3)


async def test_a_keeper_that_is_excluded_deletes_its_timeline(keeper: Managed, tmp_path: Path) -> None:
    path = f"{PATH}/exclude"
    status, answer = await keeper.ask("PUT", path, configuration(5))
    assert (status, answer["msg"][:29]) == (403, "Forbidden: refused to exclude")
    status, answer = await keeper.ask("PUT", path, configuration(2, OTHERS))
    assert (status, answer["msg"][:49]) == (409, "Conflict: refused to switch into excluding mconf ")
    assert await keeper.ask("PUT", path, configuration(5, OTHERS)) == (200, {"dir_existed": True})
    assert await keeper.ask("PUT", path, configuration(5, OTHERS)) == (200, {"dir_existed": False})
    assert not (tmp_path / TENANT / TIMELINE).exists()
    again = {"mconf": configuration(5), "timeline_id": TIMELINE}
    with pytest.raises(AssertionError):
        await keeper.create(**again)
    await keeper.create(mconf=configuration(6))
    assert (await keeper.ask("GET", PATH))[1]["mconf"] == configuration(6)


# -- terms, saving, peers -------------------------------------------------------------------------------------


async def test_a_term_is_bumped_and_never_lowered(keeper: Managed) -> None:
    path = f"{PATH}/term_bump"
    assert await keeper.ask("POST", path, {"term": 7}) == (200, {"previous_term": 0, "current_term": 7})
    assert await keeper.ask("POST", path, {"term": None}) == (200, {"previous_term": 7, "current_term": 8})
    assert await keeper.ask("POST", path, {}) == (200, {"previous_term": 8, "current_term": 9})
    assert await keeper.ask("POST", path, {"term": 3}) == (200, {"previous_term": 9, "current_term": 9})
    for term in (-1, 2**64, 2**63 + 1, "7"):
        assert (await keeper.ask("POST", path, {"term": term}))[0] == 400


async def test_a_checkpoint_saves_what_runs_ahead(keeper: Managed) -> None:
    timeline = timeline_of(keeper)
    with timeline.registry.sending(Client(1)) as sender:
        timeline.registry.record(sender, PageserverFeedback(remote_consistent_lsn=START))
        assert await keeper.ask("POST", f"{PATH}/checkpoint", {}) == (200, None)
    assert timeline.require_state().kept.remote_consistent_lsn == START


async def test_what_a_peer_says_is_taken_in(keeper: Managed) -> None:
    wal = await write(keeper, 300)
    path = f"/v1/record_safekeeper_info/{TENANT}/{TIMELINE}"
    said = {"last_log_term": 1, "commit_lsn": format_lsn(wal.lsn), "backup_lsn": "0/302768", "http_connstr": "x"}
    assert await keeper.ask("POST", path, said) == (200, None)
    shown = (await keeper.ask("GET", PATH))[1]
    assert (shown["commit_lsn"], shown["backup_lsn"]) == (format_lsn(wal.lsn), "0/302768")
    assert (await keeper.ask("POST", path, {"commit_lsn": 5}))[0] == 400


# -- surgery --------------------------------------------------------------------------------------------------


async def test_a_field_of_the_control_file_is_replaced(keeper: Managed) -> None:
    body = {"updates": {"mconf": configuration(4), "commit_lsn": "7/0"}, "apply_fields": ["mconf"]}
    status, answer = await keeper.ask("PATCH", f"{PATH}/control_file", body)
    assert status == 200
    assert answer["old_control_file"] | {"mconf": configuration(4)} == answer["new_control_file"]
    assert answer["old_control_file"]["mconf"] == configuration(3)
    assert timeline_of(keeper).require_state().kept.configuration.generation == 4


@pytest.mark.parametrize(
    ("updates", "fields", "status"),
    [
        ({"backup_lsn": "0/5"}, ["commit_lsn"], 400),
        ({"nothing": "0/5"}, ["nothing"], 400),
        ({"backup_lsn": 5}, ["backup_lsn"], 400),
        ({"acceptor_state": {"term": 2**64, "term_history": []}}, ["acceptor_state"], 400),
        ({"mconf": configuration(4, [MEMBERS[0], MEMBERS[0]])}, ["mconf"], 400),
        ({"mconf": configuration(4, OTHERS)}, ["mconf"], 403),
        ({"commit_lsn": "0/302768"}, ["commit_lsn"], 409),
        ({"eviction_state": {"Offloaded": "0/5"}}, ["eviction_state"], 409),
        ({"tenant_id": "a" * 32}, ["tenant_id"], 409),
    ],
    ids=str,
)
async def test_a_patch_that_cannot_be_changes_nothing(
    keeper: Managed, updates: dict[str, Any], fields: list[str], status: int
) -> None:
    before = timeline_of(keeper).require_state()
    body = {"updates": updates, "apply_fields": fields}
    assert (await keeper.ask("PATCH", f"{PATH}/control_file", body))[0] == status
    assert timeline_of(keeper).require_state() == before


# -- looking --------------------------------------------------------------------------------------------------


async def test_a_digest_is_that_of_the_wal(keeper: Managed) -> None:
    wal = await write(keeper, 2 * SEGMENT)
    for begin, end in ((START, wal.lsn), (START + 5, START + SEGMENT + 1), (START, START)):
        query = f"from_lsn={format_lsn(Lsn(begin))}&until_lsn={format_lsn(Lsn(end))}"
        expected = sha256(wal.between(Lsn(begin), Lsn(end))).hexdigest()
        assert await keeper.ask("GET", f"{PATH}/digest?{query}") == (200, {"sha256": expected})


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 400),
        ("?from_lsn=0/302760", 400),
        ("?from_lsn=x&until_lsn=0/302760", 400),
        ("?from_lsn=0/302768&until_lsn=0/302760", 400),
        ("?from_lsn=0/302760&until_lsn=0/302760&until_lsn=0/302768", 400),
        ("?from_lsn=0/302758&until_lsn=0/302760", 409),
        ("?from_lsn=0/302760&until_lsn=0/302768", 409),
    ],
)
async def test_a_digest_of_what_is_not_here_is_refused(keeper: Managed, query: str, status: int) -> None:
    assert (await keeper.ask("GET", f"{PATH}/digest{query}"))[0] == status


async def test_utilization_counts_what_can_be_used(keeper: Managed) -> None:
    assert await keeper.ask("GET", "/v1/utilization") == (200, {"timeline_count": 1})
    await keeper.ask("DELETE", PATH)
    assert await keeper.ask("GET", "/v1/utilization") == (200, {"timeline_count": 0})


async def test_a_dump_tells_what_is_asked_for(keeper: Managed) -> None:
    wal = await write(keeper, 300)
    status, dump = await keeper.ask("GET", "/v1/debug_dump?dump_all=true")
    assert (status, dump["timelines_count"], dump["config"]["id"]) == (200, 1, NODE)
    assert dump["start_time"][-1] == dump["finish_time"][-1] == "Z"
    [timeline] = dump["timelines"]
    assert (timeline["tenant_id"], timeline["timeline_id"]) == (TENANT, TIMELINE)
    assert timeline["control_file"]["mconf"] == configuration(3)
    assert timeline["control_file"]["acceptor_state"]["term_history"] == [{"term": 1, "lsn": "0/302760"}]
    memory = timeline["memory"]
    assert memory["flush_lsn"] == memory["write_lsn"] == format_lsn(wal.lsn)
    assert memory["mem_state"]["commit_lsn"] == "0/302760"
    assert (memory["file_open"], memory["num_computes"], memory["walsenders"]) == (True, 0, [])


async def test_a_dump_leaves_out_what_is_not_asked_for(keeper: Managed) -> None:
    path = "/v1/debug_dump"
    [timeline] = (await keeper.ask("GET", path))[1]["timelines"]
    assert timeline["control_file"] is None and timeline["memory"] is None
    query = f"?dump_control_file=true&dump_term_history=false&tenant_id={TENANT}&timeline_id={TIMELINE.upper()}"
    [timeline] = (await keeper.ask("GET", path + query))[1]["timelines"]
    assert timeline["control_file"]["acceptor_state"] == {"term": 0, "term_history": []}
    for name in ("tenant_id", "timeline_id"):
        dump = (await keeper.ask("GET", f"{path}?{name}={'0' * 32}"))[1]
        assert (dump["timelines_count"], dump["timelines"]) == (1, [])


@pytest.mark.parametrize("query", ["?dump_all=1", "?everything=true", "?tenant_id=x", "?dump_disk_content=x"])
async def test_a_dump_of_what_means_nothing_is_refused(keeper: Managed, query: str) -> None:
    assert (await keeper.ask("GET", f"/v1/debug_dump{query}"))[0] == 400


async def test_of_a_timeline_that_is_not_here_everything_is_not_found(keeper: Managed) -> None:
    await keeper.ask("DELETE", PATH)
    for method, path, body in (
        ("PUT", f"{PATH}/membership", configuration(5)),
        ("POST", f"{PATH}/term_bump", {}),
        ("POST", f"{PATH}/checkpoint", None),
        ("PATCH", f"{PATH}/control_file", {"updates": {}, "apply_fields": []}),
        ("GET", f"{PATH}/digest?from_lsn=0/1&until_lsn=0/1", None),
        ("POST", f"/v1/record_safekeeper_info/{TENANT}/{TIMELINE}", {}),
    ):
        assert (await keeper.ask(method, path, body))[0] == 404, path


async def test_what_there_is_not_yet_says_so(keeper: Managed) -> None:
    for method, path in (
        ("POST", "/v1/pull_timeline"),
        ("GET", f"{PATH}/snapshot/{NODE}"),
        ("POST", f"{PATH}/copy"),
        ("POST", f"{PATH}/backup_partial_reset"),
    ):
        status, answer = await keeper.ask(method, path)
        assert (status, answer["msg"][:15]) == (501, "not implemented"), path
