"""`walkeeper status`: what is asked, and what is printed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import trio

from fake_servers import SEGMENT_BYTES, SYSTEM_ID, Client, FakeKeeper
from walkeeper.errors import Unreachable
from walkeeper.ids import TenantTimelineId
from walkeeper.lsn import Lsn
from walkeeper.testing.wal import WalGenerator
from walkeeper.tools.status import Status, ask_status
from walkeeper.tools.status_report import as_json, as_text

START = Lsn(0x1000000)
TTID = TenantTimelineId.of_system(SYSTEM_ID)

TOLD: dict[str, Any] = {
    "node_id": 7, "term": 5, "last_log_term": 4, "timeline_start_lsn": "0/1000000", "local_start_lsn": "0/1000000",
    "flush_lsn": "0/1000900", "commit_lsn": "0/1000800", "something_newer": [1], "is_whole": False,
    "now": "2026-01-31T14:15:16Z", "generation": 3,
    "flushed_at": "2026-01-31T14:15:10.250000Z", "committed_at": None,
    "refused": {"why": "no", "at": "2026-01-31T14:15:00Z"},
    "receivers": [
        {"connection": 3, "peer": "10.0.0.1:4711", "application_name": "walkeeper", "status": "Streaming"},
    ],
    "senders": [
        {"connection": 4, "peer": None, "application_name": "bad\x1b[2J\nname", "sent_lsn": "0/1000700",
         "write_lsn": "0/1000600", "flush_lsn": "0/1000500", "apply_lsn": None},
    ],
}  # fmt: skip


@dataclass
class TellingKeeper(FakeKeeper):
    """One that answers SHOW walkeeper_status with ``told``, if it has anything to tell."""

    told: str | None = None

    async def answer(self, client: Client, text: str) -> None:
        if text == "SHOW walkeeper_status" and self.told is not None:
            await client.answer(self.told)
        else:
            await super().answer(client, text)


@pytest.fixture
async def keepers(nursery: trio.Nursery) -> Sequence[TellingKeeper]:
    """One that tells everything, one like Neon's, and one that does not have the timeline."""
    wal = WalGenerator(START, wal_seg_size=SEGMENT_BYTES, system_id=SYSTEM_ID)
    made = [TellingKeeper(told=json.dumps(TOLD)), TellingKeeper(), TellingKeeper()]
    for keeper in made:
        keeper.keep(wal, Lsn(START + 0x800))
        await nursery.start(keeper.serve)
    made[2].exists = False
    return made


async def ask(keepers: Sequence[TellingKeeper]) -> Status:
    return await ask_status([keeper.address for keeper in keepers], TTID)


async def test_the_json_has_all_that_keepers_tell_and_each_ones_trouble(keepers: Sequence[TellingKeeper]) -> None:
    document = json.loads(as_json(await ask(keepers)))
    assert document["tenant_id"] == document["timeline_id"] == f"{SYSTEM_ID:032x}"
    assert document["quorum"] == {
        "keepers": 3, "needed": 2, "answered": 2, "is_reached": True, "commit_lsn": "0/1000800",
    }  # fmt: skip
    telling, plain, absent = document["keepers"]
    known = {key: value for key, value in TOLD.items() if key != "something_newer"}
    assert telling == known | {"address": str(keepers[0].address), "trouble": None, "lag_bytes": 0}
    assert (plain["node_id"], plain["commit_lsn"], plain["is_whole"]) == (None, "0/1000800", None)
    assert plain["senders"] == []
    assert plain["lag_bytes"] == 0x1000900
    assert str(keepers[2].address) in absent["trouble"]


async def test_the_table_shows_every_keeper_and_every_stream(keepers: Sequence[TellingKeeper]) -> None:
    text = as_text(await ask(keepers))
    assert all(str(keeper.address) in text for keeper in keepers)
    for shown in ("0/1000900", "0/1000700", "walkeeper", "10.0.0.1:4711", "committed on a quorum: 0/1000800"):
        assert shown in text


@pytest.mark.parametrize(("is_whole", "word"), [(True, "whole"), (False, "incomplete"), (None, "-")])
async def test_the_table_says_whether_a_keeper_is_whole(
    keepers: Sequence[TellingKeeper], is_whole: bool | None, word: str
) -> None:
    keepers[0].told = json.dumps(TOLD | {"is_whole": is_whole})
    columns, telling, plain = (line.split() for line in as_text(await ask(keepers)).splitlines()[:3])
    standing = columns.index("standing")
    assert (telling[standing], plain[standing]) == (word, "-")


async def test_a_name_that_a_client_gave_itself_cannot_write_on_the_screen(
    keepers: Sequence[TellingKeeper],
) -> None:
    text = as_text(await ask(keepers))
    assert "bad?[2J?name" in text
    assert all(line.isprintable() for line in text.splitlines())


async def test_without_a_majority_it_is_shown_and_an_error(keepers: Sequence[TellingKeeper]) -> None:
    keepers[1].exists = False
    status = await ask(keepers)
    assert "no quorum" in as_text(status)
    assert json.loads(as_json(status))["quorum"]["commit_lsn"] is None
    with pytest.raises(Unreachable):
        status.require_majority()


@pytest.mark.parametrize(
    "told", ["", "{}", "[]", "nonsense", '{"flush_lsn":' + "[" * 100_000, json.dumps(TOLD | {"flush_lsn": "far"})]
)
async def test_what_makes_no_sense_is_that_keepers_trouble(keepers: Sequence[TellingKeeper], told: str) -> None:
    keepers[0].told = told
    status = await ask(keepers)
    assert [trouble.address for trouble in status.found.troubles] == [keepers[0].address, keepers[2].address]


async def test_nobody_there_is_shown_without_a_table(keepers: Sequence[TellingKeeper]) -> None:
    for keeper in keepers:
        keeper.exists = False
    text = as_text(await ask(keepers))
    assert "committed" not in text
    assert len(text.splitlines()) == len(keepers) + 2
