"""Keys are exchanged without a restart."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
import trio
from trio.testing import MockClock

from certified import user_line
from minted import Mint
from walkeeper.auth.claims import EVERYTHING, Claims
from walkeeper.auth.tokens import TokenVerifier, load_keys
from walkeeper.auth.upkeep import keeping_keys, keeping_users
from walkeeper.auth.users import Users, load_users
from walkeeper.errors import AccessDenied
from walkeeper.testing.offload import InlineOffload

PERIOD_SECONDS = 10.0
OLD, NEW = Mint.ed25519(), Mint.rsa()


@pytest.fixture
async def verifier(tmp_path: Path) -> AsyncIterator[TokenVerifier]:
    OLD.write(tmp_path / "old")
    verifier = TokenVerifier(load_keys(tmp_path))
    async with keeping_keys(verifier, tmp_path, PERIOD_SECONDS, InlineOffload()):
        yield verifier


def is_valid(verifier: TokenVerifier, mint: Mint) -> bool:
    try:
        return verifier.verify(mint.for_everything()) == Claims(EVERYTHING)
    except AccessDenied:
        return False


async def test_old_and_new_are_valid_together_while_they_are_exchanged(
    verifier: TokenVerifier, tmp_path: Path, autojump_clock: MockClock
) -> None:
    NEW.write(tmp_path / "new")
    assert not is_valid(verifier, NEW)
    await trio.sleep(PERIOD_SECONDS + 1)
    assert is_valid(verifier, OLD)
    assert is_valid(verifier, NEW)
    (tmp_path / "old").unlink()
    await trio.sleep(PERIOD_SECONDS + 1)
    assert not is_valid(verifier, OLD)
    assert is_valid(verifier, NEW)


async def test_files_that_are_half_written_or_gone_change_nothing_and_are_told_once(
    verifier: TokenVerifier, tmp_path: Path, autojump_clock: MockClock
) -> None:
    with structlog.testing.capture_logs() as logs:
        (tmp_path / "new").write_bytes(NEW.pem[:100])
        await trio.sleep(5 * PERIOD_SECONDS)
        (tmp_path / "new").unlink()
        (tmp_path / "new").symlink_to(tmp_path / "nothing")
        await trio.sleep(5 * PERIOD_SECONDS)
        (tmp_path / "new").unlink()
        (tmp_path / "old").unlink()
        await trio.sleep(5 * PERIOD_SECONDS)
        assert is_valid(verifier, OLD)
        NEW.write(tmp_path / "new")
        await trio.sleep(PERIOD_SECONDS + 1)
        assert is_valid(verifier, NEW)
    assert [each["log_level"] for each in logs] == ["warning", "warning", "warning", "info"]
    assert "new" in logs[0]["error"]


async def test_users_are_exchanged_and_half_a_file_changes_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = tmp_path / "users"
    path.write_text(user_line("old"))
    users = Users(load_users(path))
    async with keeping_users(users, path, PERIOD_SECONDS, InlineOffload()):
        path.write_text(user_line("new")[:-9])
        with structlog.testing.capture_logs() as logs:
            await trio.sleep(5 * PERIOD_SECONDS)
        assert [each["log_level"] for each in logs] == ["warning"]
        assert users.find("old") is not None
        path.write_text(user_line("new"))
        await trio.sleep(PERIOD_SECONDS + 1)
        assert users.find("old") is None
        assert users.find("new") is not None
