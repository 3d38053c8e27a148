"""Every crash point of a keeper's disk: what was promised is there, and the keeper goes on."""

from crash_points import survive_every_crash

from walkeeper.testing.memory_disk import MemoryDisk


def test_what_was_promised_survives_a_crash_at_any_operation_of_the_disk() -> None:
    assert survive_every_crash(MemoryDisk()) > 100
