"""Keepers that ask for tokens: a sidecar and stock clients that show them, and keys that are exchanged under load."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from fix_postgres import NewCluster
from minted import Mint
from programs import run_command
from replicated import Replicated, keepers_flag
from walkeeper.ids import TenantId, TenantTimelineId

LOAD_SECONDS = 12
TOOL_SECONDS = 60.0
OTHER = TenantId(b"x" * 16)


@dataclass(frozen=True, slots=True)
class Guarded:
    """A quorum that asks for tokens; ``keys`` is where keys are, ``token`` is the sidecar's."""

    scene: Replicated
    keys: Path
    token: Path
    mint: Mint

    def show(self, name: str, token: bytes) -> str:
        """What psql says when it asks a keeper, with a token."""
        conninfo = f"{self.scene.keepers_conninfo()} password={token.decode()}"
        asked = self.scene.primary.run("psql", "-w", "-d", conninfo, "-XAtc", f"SHOW {name}", check=False)
        return asked.stdout.strip() or asked.stderr


@pytest.fixture
def guarded(work_directory: Path, new_cluster: NewCluster) -> Iterator[Guarded]:
    keys, token, mint = work_directory / "keys", work_directory / "token", Mint.ed25519()
    keys.mkdir()
    mint.write(keys / "first.pem")
    primary = new_cluster("primary")
    primary.initdb(segment_mib=1)
    primary.configure(max_slot_wal_keep_size="1GB")
    primary.start()
    tenant_id = TenantTimelineId.of_system(primary.system_identifier()).tenant_id
    token.write_bytes(mint.for_tenant(tenant_id))
    with ExitStack() as stack:
        flags = ["--pg-auth-public-key-path", str(keys), "--auth-key-reload-period", "100ms"]
        scene = Replicated.begin(
            work_directory, primary, stack, keeper_flags=flags, sidecar_flags=["--auth-token-path", str(token)]
        )
        yield Guarded(scene, keys, token, mint)


def test_stock_clients_show_a_token_as_their_password(guarded: Guarded) -> None:
    own = guarded.scene.ttid.tenant_id
    assert guarded.show("wal_segment_size", guarded.mint.for_tenant(own)) == "1MB"
    assert guarded.show("wal_segment_size", guarded.mint.for_everything()) == "1MB"
    for token in (guarded.mint.for_tenant(OTHER), Mint.ed25519().for_everything(), b"secret"):
        assert "JWT authentication error" in guarded.show("wal_segment_size", token)


def test_tools_show_theirs_and_say_when_one_is_needed(guarded: Guarded) -> None:
    system_id = str(guarded.scene.primary.system_identifier())
    asked = ["commit-lsn", *keepers_flag(guarded.scene.keepers), "--system-id", system_id]
    assert run_command(*asked, "--auth-token-path", str(guarded.token), seconds=TOOL_SECONDS).returncode == 0
    without = run_command(*asked, seconds=TOOL_SECONDS)
    assert without.returncode != 0
    assert "--auth-token-path" in without.stderr


def test_keys_are_exchanged_under_load_and_no_commit_fails(guarded: Guarded) -> None:
    scene = guarded.scene
    scene.pgbench("-i", "-q")
    log = scene.directory / "pgbench.log"
    load = [*scene.primary.client_arguments(), "-c", "4", "-T", str(LOAD_SECONDS), "postgres"]
    with scene.primary.spawn("pgbench", *load, output=log) as pgbench:
        second = Mint.rsa()
        second.write(guarded.keys / "second.pem")
        for keeper in scene.keepers:
            scene.wait_until(lambda keeper=keeper: "second.pem" in keeper.log, f"{keeper.name} with both keys")  # type: ignore[misc]
        guarded.token.write_bytes(second.for_tenant(scene.ttid.tenant_id))
        (guarded.keys / "first.pem").unlink()
        for keeper in scene.keepers:  # whoever comes back is asked for a token again
            keeper.stop()
            keeper.start()
            keeper.wait_ready()
            ids = str(scene.ttid.tenant_id), str(scene.ttid.timeline_id)
            scene.wait_until(lambda keeper=keeper, ids=ids: keeper.has_writer(*ids), f"a writer at {keeper.name}")  # type: ignore[misc]
        assert pgbench.wait(4 * LOAD_SECONDS) == 0
    assert "number of failed transactions: 0 " in log.read_text()
    scene.wait_everywhere()
