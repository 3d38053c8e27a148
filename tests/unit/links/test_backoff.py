"""Pauses between attempts."""

from walkeeper.links.backoff import Backoff


def test_pauses_grow_to_their_limit_and_start_anew_after_success() -> None:
    backoff = Backoff(first_seconds=1.0, most_seconds=8.0)
    pauses = [backoff.next_pause_seconds() for _ in range(50)]
    for pause, limit in zip(pauses, [1.0, 2.0, 4.0, *[8.0] * 47], strict=True):
        assert limit / 2 <= pause <= limit
    backoff.succeeded()
    assert backoff.next_pause_seconds() <= 1.0


def test_two_that_fail_together_do_not_come_back_together() -> None:
    assert len({Backoff().next_pause_seconds() for _ in range(20)}) > 1
