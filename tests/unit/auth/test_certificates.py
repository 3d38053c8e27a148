"""The certificate that is shown: what is taken of its files, and how it is exchanged without a restart."""

import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID
from trio.testing import MockClock

from certified import Pki, chain_of, days
from walkeeper.auth.certificates import Certificates, load_certificate
from walkeeper.auth.upkeep import REMINDER_SECONDS, keeping_certificate
from walkeeper.errors import ConfigError
from walkeeper.testing.offload import InlineOffload

PERIOD_SECONDS = 60.0


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki.begin(tmp_path)


def test_a_certificate_with_its_key_is_taken_and_nothing_older_than_tls_1_2_is_spoken(pki: Pki) -> None:
    found = load_certificate(pki.files)
    for context in (found.pg, found.http):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.verify_mode is ssl.CERT_NONE
    assert found.leaf.is_valid(days(0).timestamp())
    assert found.leaf.binding is not None


def test_clients_are_asked_for_certificates_on_the_postgresql_port_only(pki: Pki) -> None:
    found = load_certificate(replace(pki.files, client_ca=pki.root))
    assert found.pg.verify_mode is ssl.CERT_REQUIRED
    assert found.http.verify_mode is ssl.CERT_NONE


def locked(key: bytes) -> bytes:
    """The key as a file that asks for a password."""
    private = load_pem_private_key(key, None)
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


def unusable(pki: Pki) -> dict[str, tuple[bytes, bytes]]:
    """Certificate and key as they must not be."""
    leaf, other = pki.authority.issue_cert("localhost"), pki.authority.issue_cert("localhost")
    chain, key = chain_of(leaf), leaf.private_key_pem.bytes()
    return {
        "half a certificate": (chain[: len(chain) // 3], key),
        "half a key": (chain, key[: len(key) // 2]),
        "another's key": (chain, other.private_key_pem.bytes()),
        "nothing": (b"", b""),
        "no certificate": (b"\xff" * 100, key),
        "a key that is locked": (chain, locked(key)),
    }


KINDS = ["half a certificate", "half a key", "another's key", "nothing", "no certificate", "a key that is locked"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_certificate_with_its_key_is_refused(kind: str, pki: Pki) -> None:
    pki.put(*unusable(pki)[kind])
    with pytest.raises(ConfigError):
        load_certificate(pki.files)


def test_a_file_that_is_not_there_is_told(pki: Pki) -> None:
    for path in (pki.files.certificate, pki.files.key):
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(ConfigError) as told:
            load_certificate(pki.files)
        assert str(path) in str(told.value)
        path.write_bytes(content)
    with pytest.raises(ConfigError):
        load_certificate(replace(pki.files, client_ca=pki.directory / "nowhere"))
    with pytest.raises(ConfigError):
        load_certificate(replace(pki.files, client_ca=pki.files.key))


def test_a_signature_without_a_rule_has_no_binding(pki: Pki) -> None:
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "keeper")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, days(-1), days(1))
    pem = builder.sign(key, None).public_bytes(Encoding.PEM)
    pki.put(pem, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert load_certificate(pki.files).leaf.binding is None


# -- exchanging ----------------------------------------------------------------------------------------------


class Shown:
    """A certificate that is kept up: ``counted`` is what was counted, ``now`` the time of day."""

    def __init__(self, pki: Pki) -> None:
        self.now = days(0).timestamp()
        self.counted = Counter[str]()
        self.certificates = Certificates(pki.files, lambda: self.now)

    def certificate_looked_at(self, outcome: str) -> None:
        self.counted[outcome] += 1

    @property
    def digest(self) -> bytes:
        return self.certificates.current.digest


@asynccontextmanager
async def kept_up(pki: Pki) -> AsyncIterator[Shown]:
    shown = Shown(pki)
    async with keeping_certificate(shown.certificates, PERIOD_SECONDS, shown, InlineOffload()):
        yield shown


async def a_period() -> None:
    await trio.sleep(PERIOD_SECONDS + 1)


async def test_another_certificate_is_shown_from_the_next_look_on(pki: Pki, autojump_clock: MockClock) -> None:
    async with kept_up(pki) as shown:
        first = shown.certificates.current
        await a_period()
        assert shown.certificates.current is first
        pki.issue()
        with structlog.testing.capture_logs() as logs:
            await a_period()
        assert shown.certificates.current.pg is not first.pg  # handshakes that have begun go on with theirs
        assert [each["event"] for each in logs] == ["certificate reloaded"]
        assert shown.counted == {"started": 2, "updated": 1}


@pytest.mark.parametrize("kind", KINDS)
async def test_files_that_are_not_usable_change_nothing_and_are_told_once(
    kind: str, pki: Pki, autojump_clock: MockClock
) -> None:
    async with kept_up(pki) as shown:
        first = shown.digest
        pki.put(*unusable(pki)[kind])
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                await a_period()
        assert [each["log_level"] for each in logs] == ["warning"]
        assert shown.digest == first
        assert shown.counted == {"started": 3, "failed": 3}
        pki.issue()
        await a_period()
        assert shown.digest != first


@pytest.mark.parametrize("lifetime", [(-9, -1), (1, 9)], ids=["expired", "not valid yet"])
async def test_a_certificate_that_is_not_valid_does_not_take_the_place_of_one(
    lifetime: tuple[int, int], pki: Pki, autojump_clock: MockClock
) -> None:
    async with kept_up(pki) as shown:
        first, (start, end) = shown.digest, lifetime
        pki.issue(not_before=days(start), not_after=days(end))
        await a_period()
        assert shown.digest == first
        assert shown.counted == {"started": 1, "failed": 1}


async def test_one_that_ends_soon_is_told_of_every_day(tmp_path: Path, autojump_clock: MockClock) -> None:
    pki = Pki.begin(tmp_path, not_before=days(-1), not_after=days(5))
    with structlog.testing.capture_logs() as logs:
        async with kept_up(pki) as shown:
            for _ in range(3):
                await a_period()
            assert [each["log_level"] for each in logs] == ["warning"]
            shown.now += REMINDER_SECONDS + 1
            await a_period()
            assert [each["log_level"] for each in logs] == ["warning"] * 2
            shown.now = days(6).timestamp()
            await a_period()
            assert [each["log_level"] for each in logs] == ["warning", "warning", "error"]


def test_one_that_has_expired_is_shown_when_there_is_no_other(tmp_path: Path) -> None:
    pki = Pki.begin(tmp_path, not_before=days(-9), not_after=days(-1))
    assert not Certificates(pki.files).current.leaf.is_valid(days(0).timestamp())


def test_files_that_change_while_they_are_read_are_not_taken(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    load = ssl.SSLContext.load_cert_chain

    def load_and_replace(context: ssl.SSLContext, *arguments: object) -> None:
        load(context, *arguments)  # type: ignore[arg-type]  # as they came
        pki.issue()

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", load_and_replace)
    with pytest.raises(ConfigError):
        load_certificate(pki.files)
