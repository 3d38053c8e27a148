"""The certificate that this keeper shows, and whose certificates it wants to see.

Files are taken as a whole: a certificate without its key, half of one, or one that is being replaced at this very moment
is none.  A certificate that has run out is used when there is no other, and never put into the place of one that has
not: clients that look refuse it, others do not mind.

Does not wait for files to change, and reads them where it is called: ``upkeep`` does both elsewhere.
Source: PostgreSQL, "Secure TCP/IP Connections with SSL"; RFC 5929 for the binding.
"""

import hashlib
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from walkeeper.errors import ConfigError
from walkeeper.storage.disk import read_regular

POSTGRES_ALPN: Final = "postgresql"
"""What a client that begins TLS without asking must name, so that nobody takes it for another protocol's."""

FILE_BYTES_MAX: Final = 1024 * 1024
"""Of a chain, or of the authorities that are believed."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Paths of PEM files.  ``client_ca``: who vouches for clients, which must show a certificate then."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def read(self) -> bytes:
        """A digest of everything.  Raises ConfigError."""
        found = hashlib.sha256()
        for path in (self.certificate, self.key, self.client_ca):
            if path is not None:
                found.update(hashlib.sha256(_read(path)).digest())
        return found.digest()


@dataclass(frozen=True, slots=True)
class Leaf:
    """What is in a certificate.  ``binding`` is what SCRAM can be bound to, None where there is no rule for its kind of
    signature; times are in seconds since 1970.
    """

    subject: str
    valid_from: float
    valid_until: float
    binding: bytes | None

    def is_valid(self, now: float) -> bool:
        return self.valid_from <= now < self.valid_until


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its key, ready to be shown on either port.  ``digest`` is that of the files."""

    digest: bytes
    pg: ssl.SSLContext
    http: ssl.SSLContext
    leaf: Leaf


class Certificates:
    """The certificate of the moment."""

    def __init__(self, files: CertificateFiles, now: Callable[[], float] = time.time) -> None:
        """Raises ConfigError."""
        self.files = files
        self.now = now
        self.current = load_certificate(files)

    @property
    def asks_clients(self) -> bool:
        """Whether clients must show one of theirs."""
        return self.files.client_ca is not None


def load_certificate(files: CertificateFiles) -> Certificate:
    """Raises ConfigError unless all files are there, whole, and belong together."""
    before = files.read()
    leaf = _look_at_leaf(files.certificate)
    pg, http = _context(files, POSTGRES_ALPN), _context(files, "http/1.1")
    try:
        if files.client_ca is not None:
            pg.load_verify_locations(files.client_ca)
            pg.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"{files.client_ca} has no certificate to trust: {_reason(error)}") from None
    if files.read() != before:
        raise ConfigError(f"{files.certificate} or its key is just being replaced")
    return Certificate(before, pg, http, leaf)


def _context(files: CertificateFiles, alpn: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A handshake costs milliseconds, and a client must not ask for more of them than one.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_alpn_protocols([alpn])
    try:
        context.load_cert_chain(files.certificate, files.key, _no_password)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"cannot use {files.certificate} with {files.key}: {_reason(error)}") from None
    return context


def _no_password() -> str:
    """Nobody is there to be asked."""
    raise ConfigError("the key of the certificate is locked with a password, which nobody is there to type")


def _look_at_leaf(path: Path) -> Leaf:
    # Takes its time to load, and memory: only where it is of use.
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        leaf = x509.load_pem_x509_certificates(_read(path))[0]
        signature = leaf.signature_hash_algorithm
        subject = leaf.subject.rfc4514_string()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} is not a certificate in PEM: {error}") from None
    start, end = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    return Leaf(
        subject, start, end, _binding("" if signature is None else signature.name, leaf.public_bytes(Encoding.DER))
    )


def _binding(signature_hash: str, der: bytes) -> bytes | None:
    """RFC 5929: the hash of the signature, but none that is broken."""
    name = "sha256" if signature_hash in ("md5", "sha1") else signature_hash
    return hashlib.new(name, der).digest() if name in hashlib.algorithms_available else None


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, FILE_BYTES_MAX)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None


def _reason(error: OSError) -> str:
    return error.reason if isinstance(error, ssl.SSLError) and error.reason else str(error.strerror or error)
