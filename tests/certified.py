"""Certificates, files of them, and passwords as PostgreSQL keeps them."""

import ssl
from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import trustme
from scramp import ScramMechanism

from walkeeper.auth.certificates import CertificateFiles

HOST = "localhost"
IP = "127.0.0.1"
PASSWORD = "correct horse"
ITERATIONS = 4096
SALT = b"0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Pki:
    """An authority, and where the files of one server are."""

    authority: trustme.CA
    directory: Path

    @classmethod
    def begin(cls, directory: Path, not_before: datetime | None = None, not_after: datetime | None = None) -> Self:
        """With a first certificate."""
        pki = cls(trustme.CA(), directory)
        pki.authority.cert_pem.write_to_path(str(pki.root))
        pki.issue(not_before=not_before, not_after=not_after)
        return pki

    @property
    def root(self) -> Path:
        """The authority's own certificate."""
        return self.directory / "root.crt"

    @property
    def files(self) -> CertificateFiles:
        return CertificateFiles(self.directory / "server.crt", self.directory / "server.key")

    def issue(self, not_before: datetime | None = None, not_after: datetime | None = None) -> trustme.LeafCert:
        """Put another certificate there, with its key."""
        leaf = self.authority.issue_cert(HOST, IP, not_before=not_before, not_after=not_after)
        self.put(chain_of(leaf), leaf.private_key_pem.bytes())
        return leaf

    def put(self, certificate: bytes, key: bytes) -> None:
        """By renames, as an operator should."""
        for path, content in ((self.files.key, key), (self.files.certificate, certificate)):
            beside = path.with_suffix(".new")
            beside.write_bytes(content)
            beside.chmod(0o600)
            beside.rename(path)

    def issue_client(self, name: str = "client") -> tuple[Path, Path]:
        """A certificate of a client and its key."""
        leaf = self.authority.issue_cert(f"{name}@example.org")
        certificate, key = self.directory / f"{name}.crt", self.directory / f"{name}.key"
        certificate.write_bytes(chain_of(leaf))
        key.write_bytes(leaf.private_key_pem.bytes())
        key.chmod(0o600)
        return certificate, key

    def client_context(self) -> ssl.SSLContext:
        """Of a client that trusts the authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.authority.configure_trust(context)
        return context


def chain_of(leaf: trustme.LeafCert) -> bytes:
    return b"".join(each.bytes() for each in leaf.cert_chain_pems)


def days(number: float) -> datetime:
    """So long from now."""
    return datetime.now(UTC) + timedelta(days=number)


def user_line(name: str, password: str = PASSWORD, tenant: str = "") -> str:
    """As in pg_authid."""
    salt, stored, server, iterations = ScramMechanism("SCRAM-SHA-256").make_auth_info(password, ITERATIONS, SALT)
    secret = f"{iterations}:{_text(salt)}${_text(stored)}:{_text(server)}"
    return f"{name}:SCRAM-SHA-256${secret}" + (f":{tenant}" if tenant else "")


def _text(raw: bytes) -> str:
    return b64encode(raw).decode()
