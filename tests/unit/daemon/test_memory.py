"""How much memory connections have if nobody says."""

from pathlib import Path

from walkeeper.daemon.memory import CONNECTIONS_SHARE, settle_bytes_max


def test_it_is_what_was_said_or_a_share_of_the_smallest_limit(tmp_path: Path) -> None:
    (limit := tmp_path / "limit").write_text("1048576\n")
    (unlimited := tmp_path / "unlimited").write_text("max\n")
    assert settle_bytes_max(7, [limit]) == 7
    assert settle_bytes_max(None, [tmp_path / "missing", unlimited, limit]) == 1048576 // CONNECTIONS_SHARE
    assert settle_bytes_max(None, [unlimited]) > 1048576
