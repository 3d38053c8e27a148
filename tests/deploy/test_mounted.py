"""What a kubelet mounts is what a keeper can use: Secrets that change beneath it, and a volume with ``lost+found``."""

import os
from collections import Counter
from pathlib import Path

import pytest
import structlog
import trio
from trio.testing import MockClock

from certified import Pki, chain_of
from crash_points import SERVER, START, TTID
from deploy.expected import CONTAINER_USER
from deploy.kubelet import MountedSecret, as_user, give_to_group
from deploy.manifests import load
from minted import Mint
from walkeeper.auth.certificates import CertificateFiles, Certificates
from walkeeper.auth.claims import EVERYTHING, Claims
from walkeeper.auth.tokens import TokenVerifier, load_keys
from walkeeper.auth.upkeep import keeping_certificate, keeping_keys
from walkeeper.control.metrics import Metrics
from walkeeper.daemon.cli import COMMANDS, read_command
from walkeeper.daemon.config import ServeConfig
from walkeeper.daemon.gates import open_gates
from walkeeper.errors import AccessDenied
from walkeeper.formats.control_file import ControlFile
from walkeeper.ids import NodeId
from walkeeper.links.token import read_token, show_token
from walkeeper.storage.data_directory import claim
from walkeeper.storage.disk import OsDisk
from walkeeper.testing.offload import InlineOffload

PERIOD_SECONDS = 60.0
OLD, NEW = Mint.ed25519(), Mint.ed25519()


class Counted:
    """How looks at the certificate ended."""

    def __init__(self) -> None:
        self.outcomes = Counter[str]()

    def certificate_looked_at(self, outcome: str) -> None:
        self.outcomes[outcome] += 1


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki.begin(tmp_path)


def tls_secret(pki: Pki) -> dict[str, bytes]:
    """The next certificate of the authority, as cert-manager puts it into a Secret."""
    leaf = pki.authority.issue_cert("walkeeper-1.walkeeper.walkeeper.svc")
    return {
        "tls.crt": chain_of(leaf),
        "tls.key": leaf.private_key_pem.bytes(),
        "ca.crt": pki.authority.cert_pem.bytes(),
    }


def named(option: str) -> str:
    """The file in a Secret that the manifests name."""
    pod, container = next(load("production").ours())
    found = pod.said(container).options[option]
    assert isinstance(found, Path)
    return found.name


def certificate_of(secret: MountedSecret) -> CertificateFiles:
    return CertificateFiles(secret.path / named("ssl-cert-file"), secret.path / named("ssl-key-file"))


async def test_a_certificate_in_a_secret_is_exchanged_without_a_restart(
    pki: Pki, work_directory: Path, autojump_clock: MockClock
) -> None:
    secret = MountedSecret(work_directory / "tls", CONTAINER_USER, tls_secret(pki))
    counted = Counted()
    with as_user(CONTAINER_USER):
        certificates = Certificates(certificate_of(secret))
    first = certificates.current.digest
    async with keeping_certificate(certificates, PERIOD_SECONDS, counted, InlineOffload()):
        secret.replace(tls_secret(pki))
        with as_user(CONTAINER_USER):
            await trio.sleep(PERIOD_SECONDS + 1)
    assert certificates.current.digest != first
    assert counted.outcomes == {"started": 1, "updated": 1}


async def test_whoever_looks_at_a_certificate_in_the_middle_of_its_exchange_sees_a_whole_one(
    pki: Pki, work_directory: Path, autojump_clock: MockClock
) -> None:
    secret = MountedSecret(work_directory / "tls", CONTAINER_USER, tls_secret(pki))
    counted = Counted()
    certificates = Certificates(certificate_of(secret))
    async with keeping_certificate(certificates, PERIOD_SECONDS, counted, InlineOffload()):
        for _ in secret.replacing(tls_secret(pki)):
            await trio.sleep(PERIOD_SECONDS)
    assert counted.outcomes["failed"] == 0
    assert counted.outcomes["updated"] == 1


def is_valid(verifier: TokenVerifier, mint: Mint) -> bool:
    try:
        return bool(verifier.verify(mint.for_everything()))
    except AccessDenied:
        return False


async def test_keys_in_a_secret_are_exchanged_without_a_restart(
    work_directory: Path, autojump_clock: MockClock
) -> None:
    secret = MountedSecret(work_directory / "keys", CONTAINER_USER, {"old.pem": OLD.pem})
    with as_user(CONTAINER_USER):
        verifier = TokenVerifier(load_keys(secret.path))
    async with keeping_keys(verifier, secret.path, PERIOD_SECONDS, InlineOffload()):
        secret.replace({"old.pem": OLD.pem, "new.pem": NEW.pem})
        await trio.sleep(PERIOD_SECONDS + 1)
        assert is_valid(verifier, OLD)
        assert is_valid(verifier, NEW)
        secret.replace({"new.pem": NEW.pem})
        await trio.sleep(PERIOD_SECONDS + 1)
    assert not is_valid(verifier, OLD)
    assert [key.name for key in verifier.keys] == ["new.pem"]


async def test_a_key_that_stays_is_valid_all_the_time_while_others_are_exchanged(
    work_directory: Path, autojump_clock: MockClock
) -> None:
    secret = MountedSecret(work_directory / "keys", CONTAINER_USER, {"old.pem": OLD.pem, "stays.pem": NEW.pem})
    verifier = TokenVerifier(load_keys(secret.path))
    with structlog.testing.capture_logs():
        async with keeping_keys(verifier, secret.path, PERIOD_SECONDS, InlineOffload()):
            for _ in secret.replacing({"newer.pem": Mint.ed25519().pem, "stays.pem": NEW.pem}):
                await trio.sleep(PERIOD_SECONDS)
                assert is_valid(verifier, NEW)
            await trio.sleep(PERIOD_SECONDS)
    assert [key.name for key in verifier.keys] == ["newer.pem", "stays.pem"]


def test_a_token_in_a_secret_is_read_anew_each_time(work_directory: Path) -> None:
    secret = MountedSecret(work_directory / "token", CONTAINER_USER, {"token": b"first\n"})
    with as_user(CONTAINER_USER):
        show_token(secret.path / named("auth-token-path"))
        assert read_token() == "first"
    secret.replace({"token": b"second\n"})
    with as_user(CONTAINER_USER):
        assert read_token() == "second"
        show_token(None)


def test_all_that_production_asks_for_goes_together(pki: Pki, work_directory: Path) -> None:
    pod, container = next(load("production").ours())
    holding = {
        "walkeeper-tls": tls_secret(pki),
        "walkeeper-auth-keys": {"2026.pem": OLD.pem},
        "walkeeper-peer-token": {"token": OLD.for_everything()},
    }
    mounts = {each["name"]: work_directory / Path(each["mountPath"]).name for each in container["volumeMounts"]}
    for volume in pod.spec["volumes"]:
        MountedSecret(mounts[volume["name"]], CONTAINER_USER, holding[volume["secret"]["secretName"]])
    environment = {
        name: text.replace("/etc/walkeeper", str(work_directory))
        for name, text in pod.environment(container).items()
    }
    _, config = read_command(container["args"], environment, COMMANDS)
    assert isinstance(config, ServeConfig)
    with as_user(CONTAINER_USER):
        gates = open_gates(config.auth, config.tls, config.place.path, Metrics("test"), https=True)
        show_token(config.peers.token_path)
        token = read_token()
        show_token(None)
    assert gates.pg.must_encrypt
    assert gates.pg.verify is not None
    assert gates.encrypt is not None
    assert gates.verify_http is not None
    assert token is not None
    assert gates.verify_http(token.encode()) == Claims(EVERYTHING)


def test_a_fresh_volume_with_a_directory_of_roots_is_a_data_directory(work_directory: Path) -> None:
    volume = work_directory / "data"
    volume.mkdir()
    (volume / "lost+found").mkdir(mode=0o700)
    give_to_group(volume, CONTAINER_USER)
    if os.geteuid() != 0:
        (volume / "lost+found").chmod(0)  # as if it were somebody else's
    with as_user(CONTAINER_USER):
        for _ in range(2):  # the second time there is a number and a timeline
            directory = claim(OsDisk(), volume, NodeId(1))
            if not directory.timelines():
                directory.create(ControlFile(ttid=TTID, server=SERVER, timeline_start_lsn=START))
            assert directory.timelines() == [TTID]
            directory.close()
