"""What is asked of whoever connects, made of what the daemon was told: keys, users, certificates, and their upkeep.

Off is what nobody asked for, and a port that others can reach says at the start what is off there.

Does not ask: ``services.admission`` and ``control.access`` do.
"""

import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import structlog
import trio

from walkeeper.auth.certificates import CertificateFiles, Certificates
from walkeeper.auth.claims import Verify
from walkeeper.auth.users import Users, load_users
from walkeeper.control.http1 import HEAD_SECONDS_MAX, Encrypt
from walkeeper.control.metrics import Metrics
from walkeeper.daemon.config import AuthConfig, TlsConfig
from walkeeper.daemon.sockets import is_loopback
from walkeeper.errors import ConfigError, TlsFailed
from walkeeper.links.link import Link
from walkeeper.links.throttle import throttled_logger
from walkeeper.links.tls_link import accept_tls
from walkeeper.services.admission import OPEN, Gate
from walkeeper.services.turnstile import Turnstile
from walkeeper.storage.offload import Offload

log = structlog.stdlib.get_logger()
throttled = throttled_logger()


Keeping = Callable[[Offload], AbstractAsyncContextManager[None]]
"""Does something beside for as long as its block runs."""


@dataclass(frozen=True, slots=True)
class Gates:
    """``keeping``: what has to be done beside.  ``encrypt`` makes HTTPS of HTTP, None where there is no certificate."""

    pg: Gate
    verify_http: Verify | None
    encrypt: Encrypt | None
    keeping: Sequence[Keeping]

    def warn(self, pg: socket.socket, http: socket.socket, https: socket.socket | None) -> None:
        """Say what is open to others than this machine."""
        tls = self.pg.certificates
        asks = self.pg.verify is not None or self.pg.users is not None or (tls is not None and tls.asks_clients)
        must_encrypt = tls is not None and self.pg.must_encrypt
        warn_of_open_port(pg, "--listen-pg", "read and write WAL", asks=asks, encrypts=must_encrypt)
        warn_of_open_port(
            http, "--listen-http", "delete timelines", asks=self.verify_http is not None, encrypts=False
        )
        if https is not None:
            warn_of_open_port(
                https, "--listen-https", "delete timelines", asks=self.verify_http is not None, encrypts=True
            )
        if self.pg.users is not None and self.pg.verify is None:
            log.warning("nobody can write WAL: users may only read, and no key asks for tokens")


OPEN_GATES: Final = Gates(OPEN, None, None, ())


def warn_of_open_port(sock: socket.socket, flag: str, right: str, *, asks: bool, encrypts: bool) -> None:
    """Say so if others than this machine get in without any proof, or can listen to those that show one."""
    if is_loopback(sock):
        return
    if not asks:
        log.warning(
            "a port is open to whoever reaches it: nobody is asked for a proof", port=flag, anybody_may=right
        )
    elif not encrypts:
        log.warning(
            "a port does not insist on TLS: who listens on the network learns what is shown there", port=flag
        )


def open_gates(auth: AuthConfig, tls: TlsConfig, directory: Path, metrics: Metrics, *, https: bool) -> Gates:
    """Raises ConfigError for files that cannot be used.  ``https``: whether there is such a port."""
    keeping: list[Keeping] = []
    certificates = _open_certificates(tls, directory, metrics, keeping, https=https)
    pg = Gate(
        _open_keys(auth.pg_key_path, auth.key_reload_seconds, keeping),
        _open_users(auth, keeping),
        certificates if tls.is_on_pg else None,
        must_encrypt=not tls.accepts_plaintext,
    )
    if auth.http_key_path == auth.pg_key_path:
        verify_http = pg.verify
    else:
        verify_http = _open_keys(auth.http_key_path, auth.key_reload_seconds, keeping)
    encrypt = None if certificates is None else _encrypting(certificates, metrics)
    return Gates(pg, verify_http, encrypt, keeping)


def _open_keys(path: Path | None, reload_seconds: float, keeping: list[Keeping]) -> Verify | None:
    if path is None:
        return None
    # Takes its time to load, and memory: only where it is of use.
    from walkeeper.auth.tokens import TokenVerifier, load_keys
    from walkeeper.auth.upkeep import keeping_keys

    verifier = TokenVerifier(load_keys(path))
    keeping.append(partial(keeping_keys, verifier, path, reload_seconds))
    return verifier.verify


def _open_users(auth: AuthConfig, keeping: list[Keeping]) -> Users | None:
    if auth.users_path is None:
        return None
    from walkeeper.auth.upkeep import keeping_users

    users = Users(load_users(auth.users_path))
    keeping.append(partial(keeping_users, users, auth.users_path, auth.key_reload_seconds))
    return users


def _open_certificates(
    tls: TlsConfig, directory: Path, metrics: Metrics, keeping: list[Keeping], *, https: bool
) -> Certificates | None:
    if not tls.is_on_pg and (tls.accepts_plaintext or tls.client_ca is not None):
        raise ConfigError("--accept-plaintext and --ssl-client-ca-file go with --enable-tls-wal-service-api")
    if tls.accepts_plaintext and tls.client_ca is not None:
        raise ConfigError("--accept-plaintext lets in who has no certificate: not with --ssl-client-ca-file")
    if not tls.is_on_pg and not https:
        usual = TlsConfig()
        if (tls.certificate, tls.key) != (usual.certificate, usual.key):
            log.warning(
                "a certificate is named that nobody sees: --enable-tls-wal-service-api or --listen-https shows it"
            )
        return None
    from walkeeper.auth.upkeep import describe, keeping_certificate

    client_ca = None if tls.client_ca is None else directory / tls.client_ca
    certificates = Certificates(CertificateFiles(directory / tls.certificate, directory / tls.key, client_ca))
    log.info("certificate loaded", **describe(certificates.current.leaf))
    metrics.watch_certificate(lambda: certificates.current.leaf.valid_until)
    keeping.append(partial(keeping_certificate, certificates, tls.reload_seconds, metrics))
    return certificates


def _encrypting(certificates: Certificates, metrics: Metrics) -> Encrypt:
    turnstile = Turnstile()

    async def encrypt(plain: Link) -> Link:
        try:
            with trio.move_on_after(HEAD_SECONDS_MAX):
                return await accept_tls(plain, certificates.current.http, wait_turn=turnstile.go_through)
            raise TlsFailed(f"TLS handshake: no end within {HEAD_SECONDS_MAX:g} s")
        except TlsFailed as error:
            metrics.https_failed()
            throttled.warning("HTTPS connection failed", error=str(error))
            raise

    return encrypt
