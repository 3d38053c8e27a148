"""How much memory connections have if nobody says."""

from pathlib import Path

from walkeeper.daemon.memory import CONNECTIONS_SHARE, limit_files, settle_bytes_max


def test_it_is_what_was_said_or_a_share_of_the_smallest_limit(tmp_path: Path) -> None:
    (limit := tmp_path / "limit").write_text("1048576\n")
    (unlimited := tmp_path / "unlimited").write_text("max\n")
    assert settle_bytes_max(7, [limit]) == 7
    assert settle_bytes_max(None, [tmp_path / "missing", unlimited, limit]) == 1048576 // CONNECTIONS_SHARE
    assert settle_bytes_max(None, [unlimited]) > 1048576


def test_a_service_has_the_smallest_limit_of_all_groups_that_it_is_in(tmp_path: Path) -> None:
    group = tmp_path / "system.slice" / "walkeeper.service"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group.parent / "memory.max").write_text("1048576\n")
    own = tmp_path / "own"
    own.write_text("1:name=systemd:/x\n0::/system.slice/walkeeper.service\n")
    assert settle_bytes_max(None, limit_files(own, tmp_path)) == 1048576 // CONNECTIONS_SHARE
