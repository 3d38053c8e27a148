"""How many of alike lines are written."""

import pytest
import structlog

from walkeeper.links.throttle import KINDS_MAX, LINES_MAX, THROTTLE_SECONDS, Throttle, throttled_logger


class Log:
    """What comes through: of each line what it says of those before it, 0 for nothing, None when it was held back."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._throttle = Throttle(lambda: self.seconds)

    def say(self, event: str, **more: str) -> int | None:
        try:
            line = self._throttle(None, "info", {"event": event, "throttled": True, **more})
        except structlog.DropEvent:
            return None
        unsaid = line.pop("unsaid", 0)
        assert line == {"event": event, **more}
        return int(unsaid)


@pytest.fixture
def log() -> Log:
    return Log()


def test_some_of_each_kind_are_written_and_the_next_one_after_a_while_says_how_many_were_not(log: Log) -> None:
    assert [log.say("a") for _ in range(LINES_MAX + 3)] == [0] * LINES_MAX + [None] * 3
    log.seconds = THROTTLE_SECONDS - 1
    assert log.say("a") is None
    log.seconds = THROTTLE_SECONDS
    assert log.say("a") == 4
    assert log.say("a") == 0


def test_a_noisy_client_hides_no_refusal_of_another_kind_or_timeline(log: Log) -> None:
    while log.say("refused", kind="WalGap", ttid="1") is not None:
        pass
    assert log.say("refused", kind="WalGap", ttid="2") == 0
    assert log.say("refused", kind="NotElected", ttid="1") == 0
    assert log.say("lost", kind="WalGap", ttid="1") == 0


def test_names_of_timelines_that_a_client_makes_up_are_neither_kept_nor_all_written(log: Log) -> None:
    said = [log.say("not found", ttid=str(number)) for number in range(10 * KINDS_MAX)]
    assert said.count(0) == KINDS_MAX + LINES_MAX
    log.seconds = THROTTLE_SECONDS
    assert log.say("not found", ttid="another") == 0
    assert log.say("not found", ttid="another") == 0


def test_only_lines_of_a_throttled_logger_are_held_back() -> None:
    throttle = Throttle()
    with structlog.testing.capture_logs([throttle]) as lines:
        for _ in range(2 * LINES_MAX):
            throttled_logger().info("theirs")
            structlog.get_logger().info("ours")
    assert [line["event"] for line in lines].count("theirs") == LINES_MAX
    assert [line["event"] for line in lines].count("ours") == 2 * LINES_MAX
    assert all("throttled" not in line for line in lines)
