"""Keepers with TLS: stock clients that verify everything and have passwords, a sidecar, and certificates, keys and users
that are exchanged under load."""

import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

import postgres
from certified import PASSWORD, Pki, days, user_line
from fix_postgres import NewCluster
from minted import Mint
from programs import run_command
from replicated import Replicated, keepers_flag
from walkeeper.ids import TenantTimelineId

LOAD_SECONDS = 12
TOOL_SECONDS = 60.0
PERIOD = "100ms"


@dataclass(frozen=True, slots=True)
class Encrypted:
    """A quorum that wants TLS, tokens of writers and passwords of users."""

    scene: Replicated
    pki: Pki
    keys: Path
    token: Path
    users: Path
    mint: Mint
    https_port: int

    @property
    def tls_flags(self) -> list[str]:
        return ["--keeper-sslmode", "verify-full", "--keeper-sslrootcert", str(self.pki.root)]

    def conninfo(self, **more: str) -> str:
        parts = {"sslmode": "verify-full", "sslrootcert": str(self.pki.root), "password": PASSWORD} | more
        said = " ".join(f"{key}={postgres.quote_conninfo(value)}" for key, value in parts.items())
        return f"{self.scene.keepers_conninfo(self.scene.keepers[0])} {said}"

    def psql(self, query: str, **more: str) -> str:
        asked = self.scene.primary.run("psql", "-w", "-d", self.conninfo(**more), "-XAtc", query, check=False)
        return asked.stdout.strip() or asked.stderr


@pytest.fixture
def encrypted(work_directory: Path, new_cluster: NewCluster) -> Iterator[Encrypted]:
    pki, mint = Pki.begin(work_directory), Mint.ed25519()
    keys, token, users = work_directory / "keys", work_directory / "token", work_directory / "users"
    keys.mkdir()
    mint.write(keys / "first.pem")
    users.write_text(user_line("reader") + "\n")
    primary = new_cluster("primary")
    primary.initdb(segment_mib=1)
    primary.configure(max_slot_wal_keep_size="1GB")
    primary.start()
    tenant_id = TenantTimelineId.of_system(primary.system_identifier()).tenant_id
    token.write_bytes(mint.for_tenant(tenant_id))
    with ExitStack() as stack:
        keeper_flags = [
            "--enable-tls-wal-service-api", "--ssl-cert-file", str(pki.files.certificate),
            "--ssl-key-file", str(pki.files.key), "--ssl-cert-reload-period", PERIOD,
            "--pg-auth-public-key-path", str(keys), "--pg-auth-users-file", str(users), "--auth-key-reload-period", PERIOD,
            "--listen-https", "127.0.0.1:0",
        ]  # fmt: skip
        sidecar_flags = ["--auth-token-path", str(token), "--keeper-sslmode", "verify-full"]
        sidecar_flags += ["--keeper-sslrootcert", str(pki.root)]
        scene = Replicated.begin(
            work_directory, primary, stack, keeper_flags=keeper_flags, sidecar_flags=sidecar_flags
        )
        https_port = int(scene.keepers[0].log.partition("https=127.0.0.1:")[2].split()[0])
        yield Encrypted(scene, pki, keys, token, users, mint, https_port)


def test_stock_clients_verify_the_keeper_and_have_a_password(encrypted: Encrypted) -> None:
    show = "SHOW wal_segment_size"
    assert encrypted.psql(show) == "1MB"
    assert encrypted.psql(show, channel_binding="require") == "1MB"
    assert "password authentication failed" in encrypted.psql(show, password="wrong")
    assert "must connect with TLS" in encrypted.psql(show, sslmode="disable")
    assert "permission denied" in encrypted.psql("START_WAL_PUSH (proto_version '3')")
    token = encrypted.token.read_text()
    assert encrypted.psql(show, user="walkeeper", password=token) == "1MB"
    (encrypted.pki.directory / "others").mkdir()
    others = Pki.begin(encrypted.pki.directory / "others")
    assert "certificate verify failed" in encrypted.psql(show, sslrootcert=str(others.root))
    with urllib.request.urlopen(
        f"https://127.0.0.1:{encrypted.https_port}/v1/status", context=encrypted.pki.client_context()
    ) as answer:
        assert answer.status == 200


def test_pg_receivewal_reads_in_tls_with_a_password(encrypted: Encrypted) -> None:
    scene = encrypted.scene
    scene.pgbench("-i", "-q")
    lsn = scene.wait_everywhere()
    target = scene.directory / "received"
    target.mkdir()
    scene.primary.account.own(target)
    done = scene.primary.run(
        "pg_receivewal", "-w", "-d", encrypted.conninfo(), "-D", str(target), "--no-loop", f"--endpos={lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}",
    )  # fmt: skip
    assert done.returncode == 0
    assert list(target.iterdir())


def test_tools_verify_keepers_too(encrypted: Encrypted) -> None:
    scene = encrypted.scene
    asked = ["commit-lsn", *keepers_flag(scene.keepers), "--system-id", str(scene.primary.system_identifier())]
    asked += ["--auth-token-path", str(encrypted.token)]
    assert run_command(*asked, *encrypted.tls_flags, seconds=TOOL_SECONDS).returncode == 0
    (encrypted.pki.directory / "others").mkdir()
    others = Pki.begin(encrypted.pki.directory / "others")
    wrong = run_command(
        *asked, "--keeper-sslmode", "verify-full", "--keeper-sslrootcert", str(others.root), seconds=TOOL_SECONDS
    )
    assert wrong.returncode != 0
    assert "not trusted" in wrong.stderr
    missing = run_command(*asked, "--keeper-sslmode", "verify-full", seconds=TOOL_SECONDS)
    assert missing.returncode == 2


def test_top_verifies_keepers_by_an_authority_of_its_own(encrypted: Encrypted) -> None:
    asked = ["top", f"https://127.0.0.1:{encrypted.https_port}", "--once"]
    shown = run_command(*asked, "--ssl-ca-file", str(encrypted.pki.root), seconds=TOOL_SECONDS)
    assert (shown.returncode, "1 of 1 keepers answer" in shown.stdout) == (0, True), shown.stdout + shown.stderr
    by_the_systems = run_command(*asked, seconds=TOOL_SECONDS)
    assert by_the_systems.returncode == 1
    assert "not trusted (--ssl-ca-file)" in by_the_systems.stderr
    absent = run_command(*asked, "--ssl-ca-file", str(encrypted.pki.directory / "none.pem"), seconds=TOOL_SECONDS)
    assert absent.returncode == 2
    assert "cannot use --ssl-ca-file" in absent.stderr


def test_certificates_keys_and_users_are_exchanged_under_load_and_no_commit_fails(encrypted: Encrypted) -> None:
    scene, pki = encrypted.scene, encrypted.pki
    ids = str(scene.ttid.tenant_id), str(scene.ttid.timeline_id)

    def wait_logged(line: str) -> None:
        for keeper in scene.keepers:
            scene.wait_until(lambda keeper=keeper: line in keeper.log, f"{line} at {keeper.name}")  # type: ignore[misc]

    scene.pgbench("-i", "-q")
    log = scene.directory / "pgbench.log"
    load = [*scene.primary.client_arguments(), "-c", "4", "-T", str(LOAD_SECONDS), "postgres"]
    with scene.primary.spawn("pgbench", *load, output=log) as pgbench:
        whole = pki.files.certificate.read_bytes()
        pki.files.certificate.write_bytes(whole[:200])
        wait_logged("certificate not reloaded")
        pki.issue(not_before=days(-9), not_after=days(-1))
        wait_logged("has expired")
        pki.issue()
        wait_logged("certificate reloaded")
        second = Mint.rsa()
        second.write(encrypted.keys / "second.pem")
        wait_logged("second.pem")
        encrypted.token.write_bytes(second.for_tenant(scene.ttid.tenant_id))
        (encrypted.keys / "first.pem").unlink()
        encrypted.users.write_text(user_line("reader", "another") + "\n")
        wait_logged("users reloaded")
        for keeper in scene.keepers:  # whoever comes back sees the new certificate and shows the new token
            keeper.stop()
            keeper.start()
            keeper.wait_ready()
            scene.wait_until(lambda keeper=keeper: keeper.has_writer(*ids), f"a writer at {keeper.name}")  # type: ignore[misc]
        assert pgbench.wait(4 * LOAD_SECONDS) == 0
    assert "number of failed transactions: 0 " in log.read_text()
    scene.wait_everywhere()
    assert encrypted.psql("SHOW wal_segment_size", password="another") == "1MB"
