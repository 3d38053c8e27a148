"""What is read again when somebody asks."""

from pathlib import Path

from minted import Mint
from walkeeper.auth.reload import Reloaded, reload_all, reloadable
from walkeeper.auth.tokens import TokenVerifier, load_keys
from walkeeper.auth.upkeep import keeping_keys
from walkeeper.errors import ConfigError
from walkeeper.testing.offload import InlineOffload

NEVER = float("inf")


async def test_keys_are_read_again_at_once_and_broken_ones_change_nothing(tmp_path: Path) -> None:
    old, new = Mint.ed25519(), Mint.rsa()
    old.write(tmp_path / "old")
    verifier = TokenVerifier(load_keys(tmp_path))
    async with keeping_keys(verifier, tmp_path, NEVER, InlineOffload()):
        new.write(tmp_path / "new")
        (done,) = await reload_all()
        assert (done.problem, len(verifier.keys)) == ("", 2)
        (tmp_path / "new").write_bytes(b"-----BEGIN PUBLIC KEY-----\n")
        (failed,) = await reload_all()
        assert failed.problem
        assert len(verifier.keys) == 2
    assert list(await reload_all()) == []


async def test_one_that_cannot_be_read_keeps_nobody_else_from_being_read() -> None:
    looks: list[str] = []

    async def fail() -> None:
        raise ConfigError("half written")

    async def look() -> None:
        looks.append("read")

    with reloadable("first", "first not reloaded", fail), reloadable("second", "second not reloaded", look):
        assert await reload_all() == [
            Reloaded("first", "first not reloaded", "half written"),
            Reloaded("second", "second not reloaded", ""),
        ]
    assert looks == ["read"]
