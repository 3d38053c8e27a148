"""How long, and against whom, a deletion is remembered."""

import pytest

from keeping import TTID
from walkeeper.ids import TenantTimelineId, TimelineId
from walkeeper.membership import NO_GENERATION, Generation
from walkeeper.timeline import tombstones as tombstones_module
from walkeeper.timeline.tombstones import REMEMBERED_SECONDS, Tombstones

OTHER = TenantTimelineId(TTID.tenant_id, TimelineId(b"o" * 16))


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_deleted_timeline_is_remembered_for_a_day() -> None:
    clock = Clock()
    tombstones = Tombstones(clock)
    tombstones.bury(TTID)
    tombstones.bury_tenant(OTHER.tenant_id)
    clock.now += REMEMBERED_SECONDS - 1
    assert tombstones.is_deleted(TTID) and tombstones.covers(OTHER)
    clock.now += 2
    assert not tombstones.is_deleted(TTID) and not tombstones.covers(OTHER)


def test_an_excluded_timeline_comes_back_with_a_newer_generation_only() -> None:
    tombstones = Tombstones(Clock())
    tombstones.bury(TTID, Generation(5))
    assert tombstones.is_deleted(TTID)
    assert tombstones.is_deleted(TTID, NO_GENERATION)
    assert tombstones.is_deleted(TTID, Generation(5))
    assert not tombstones.is_deleted(TTID, Generation(6))
    tombstones.unbury(TTID)
    assert not tombstones.is_deleted(TTID)


def test_a_deleted_timeline_comes_back_with_no_generation() -> None:
    tombstones = Tombstones(Clock())
    tombstones.bury(TTID)
    assert tombstones.is_deleted(TTID, Generation(1000))


def test_a_deleted_tenant_covers_timelines_that_never_existed() -> None:
    tombstones = Tombstones(Clock())
    tombstones.bury_tenant(TTID.tenant_id)
    assert tombstones.covers(TTID, Generation(1000))
    assert not tombstones.is_deleted(TTID)


def test_of_too_many_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tombstones_module, "TOMBSTONES_MAX", 2)
    tombstones = Tombstones(Clock())
    third = TenantTimelineId(TTID.tenant_id, TimelineId(b"x" * 16))
    for ttid in (TTID, OTHER, TTID, third):
        tombstones.bury(ttid)
    assert [tombstones.is_deleted(ttid) for ttid in (TTID, OTHER, third)] == [True, False, True]
