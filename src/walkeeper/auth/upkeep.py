"""Keeps keys, users and the certificate those of their files, without a restart.

Files that cannot be read, or are half written, change nothing: what was there before stays, and the log says so once.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import structlog
import trio

from walkeeper.auth.certificates import Certificate, CertificateFiles, Certificates, Leaf, load_certificate
from walkeeper.auth.reload import Look, reloadable
from walkeeper.auth.tokens import TokenVerifier, load_keys
from walkeeper.auth.users import Users, load_users
from walkeeper.errors import ConfigError
from walkeeper.storage.offload import Offload

EXPIRES_SOON_SECONDS: Final = 14 * 86_400.0
"""How long before its end a certificate is warned of: two weeks are enough for a human to find another."""

REMINDER_SECONDS: Final = 86_400.0
"""How often."""

log = structlog.stdlib.get_logger()


class CertificateInstruments(Protocol):
    """Who counts looks at the certificate's files."""

    def certificate_looked_at(self, outcome: str) -> None:
        """``started``, and then perhaps ``updated`` or ``failed``."""


@asynccontextmanager
async def keeping_keys(
    verifier: TokenVerifier, path: Path, period_seconds: float, offload: Offload
) -> AsyncIterator[None]:
    """A block during which the keys at ``path`` are read again every ``period_seconds``; infinity: only when asked."""

    async def look() -> None:
        keys = await offload(load_keys, path)
        if keys != verifier.keys:
            verifier.keys = keys
            log.info("keys reloaded", path=str(path), keys=[key.name for key in keys])

    async with _repeating(
        f"keys of {path}", look, period_seconds, "keys not reloaded, those of before are still valid"
    ):
        yield


@asynccontextmanager
async def keeping_users(users: Users, path: Path, period_seconds: float, offload: Offload) -> AsyncIterator[None]:
    """The same for the users in the file at ``path``."""

    async def look() -> None:
        known = await offload(load_users, path)
        if known != users.known:
            users.known = known
            log.info("users reloaded", path=str(path), users=len(known))

    async with _repeating(
        f"users of {path}", look, period_seconds, "users not reloaded, those of before are still let in"
    ):
        yield


@asynccontextmanager
async def keeping_certificate(
    certificates: Certificates, period_seconds: float, instruments: CertificateInstruments, offload: Offload
) -> AsyncIterator[None]:
    """The same for the certificate.  New handshakes see the new one, connections that there are live on.

    While it is about to expire, or has, the log says so every day.
    """
    remind = _Reminder(certificates)

    async def look() -> None:
        instruments.certificate_looked_at("started")
        try:
            found = await offload(_load_if_changed, certificates.files, certificates.current.digest)
            if found is not None:
                _require_valid(found.leaf, certificates.now())
        except ConfigError:
            instruments.certificate_looked_at("failed")
            remind()
            raise
        if found is not None:
            certificates.current = found
            instruments.certificate_looked_at("updated")
            log.info("certificate reloaded", **describe(found.leaf))
        remind()

    remind()
    async with _repeating(
        "certificate", look, period_seconds, "certificate not reloaded, the one of before is still shown"
    ):
        yield


def describe(leaf: Leaf) -> dict[str, str]:
    """For the log."""
    day = datetime.fromtimestamp(leaf.valid_until, UTC)
    return {"subject": leaf.subject, "expires": day.isoformat()}


def _load_if_changed(files: CertificateFiles, digest: bytes) -> Certificate | None:
    return None if files.read() == digest else load_certificate(files)


def _require_valid(found: Leaf, now: float) -> None:
    """Raises ConfigError."""
    if not found.is_valid(now):
        state = "has expired" if now >= found.valid_until else "is not valid yet"
        raise ConfigError(f"the new certificate {state}: {found.subject}")


class _Reminder:
    """Says that the certificate in use ends soon, when it is called and has not said so for a day."""

    def __init__(self, certificates: Certificates) -> None:
        self._certificates = certificates
        self._said_of = b""
        self._said_at = 0.0

    def __call__(self) -> None:
        current, now = self._certificates.current, self._certificates.now()
        leaf = current.leaf
        if leaf.valid_from <= now < leaf.valid_until - EXPIRES_SOON_SECONDS:
            return
        if self._said_of == current.digest and now < self._said_at + REMINDER_SECONDS:
            return
        self._said_of, self._said_at = current.digest, now
        if leaf.is_valid(now):
            log.warning("the certificate expires soon", **describe(leaf))
        else:
            log.error("the certificate is not valid: clients that verify it are lost", **describe(leaf))


@asynccontextmanager
async def _repeating(what: str, look: Look, period_seconds: float, failure: str) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_repeat, look, period_seconds, failure, name=f"keep {what}")
        with reloadable(what, failure, look):
            yield
        nursery.cancel_scope.cancel(reason="shutdown")


async def _repeat(look: Look, period_seconds: float, failure: str) -> None:
    complaint = ""
    while True:
        await trio.sleep(period_seconds)
        try:
            await look()
            complaint = ""
        except ConfigError as error:
            if str(error) != complaint:
                complaint = str(error)
                log.warning(failure, error=complaint)
