"""What libpq's ``sslmode`` means for Python's ssl.

``prefer`` and ``require`` encrypt without looking at the certificate (``require`` looks if a root certificate is
named, as libpq does); ``verify-ca`` trusts only the named authorities, ``verify-full`` also compares the host name.

Source: PostgreSQL, libpq, "SSL Support".
"""

import ssl
from pathlib import Path
from typing import Final

from walkeeper.errors import NotEncrypted
from walkeeper.links.conninfo import ConnectionInfo, SslMode

_CERTIFICATE: Final = b"CERTIFICATE-----"
_KEY: Final = b"PRIVATE KEY-----"
"""What PEM files that hold one have in them: OpenSSL does not say what it missed."""


def client_context(info: ConnectionInfo, flags: str = "", root_flag: str = "") -> ssl.SSLContext:
    """How to encrypt a connection to ``info``.  Raises NotEncrypted for files that are missing or unusable.

    ``flags``: how the keywords begin where they are options of ours, for what is said of them; ``root_flag``: all of the
    option that stands for ``sslrootcert``, if it has another name.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _trust(context, info, flags, root_flag)
    if info.sslcert:
        _show_certificate(context, info, flags)
    return context


def _trust(context: ssl.SSLContext, info: ConnectionInfo, flags: str, root_flag: str) -> None:
    verifies = info.sslmode in (SslMode.VERIFY_CA, SslMode.VERIFY_FULL)
    if not verifies and not (info.sslmode is SslMode.REQUIRE and info.sslrootcert):
        return
    if not info.sslrootcert:
        sign = " " if flags else "="
        raise NotEncrypted(
            f"{flags}sslmode{sign}{info.sslmode.value} needs {flags}sslrootcert, the certificate of the authority to trust"
            f" (or {flags}sslrootcert{sign}system)"
        )
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = info.sslmode is SslMode.VERIFY_FULL
    if info.sslrootcert == "system":
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return
    name = f"{root_flag or f'{flags}sslrootcert'} {info.sslrootcert}"
    _require_one(_CERTIFICATE, _read(name, info.sslrootcert), f"{name}: it holds no certificate")
    try:
        context.load_verify_locations(info.sslrootcert)
    except OSError as error:  # ssl.SSLError is one
        raise _unusable(f"{name}: {error.strerror or error}") from None


def _show_certificate(context: ssl.SSLContext, info: ConnectionInfo, flags: str) -> None:
    name = f"{flags}sslcert {info.sslcert}"
    key_name = f"{flags}sslkey {info.sslkey}"
    pem = _read(name, info.sslcert)
    _require_one(_CERTIFICATE, pem, f"{name}: it holds no certificate")
    if info.sslkey:
        _require_one(_KEY, _read(key_name, info.sslkey), f"{key_name}: it holds no key")
    else:
        _require_one(_KEY, pem, f"{name}: there is no key in it: {flags}sslkey is missing")
    both = f"{name}, {key_name}" if info.sslkey else name
    try:
        context.load_cert_chain(info.sslcert, info.sslkey or None)
    except OSError as error:  # ssl.SSLError is one
        is_mismatch = isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH"
        why = "the key is of another certificate" if is_mismatch else error.strerror or error
        raise _unusable(f"{both}: {why}") from None


def _read(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _unusable(f"{name}: {error.strerror}") from None


def _require_one(mark: bytes, pem: bytes, what: str) -> None:
    if mark not in pem:
        raise _unusable(what)


def _unusable(what: str) -> NotEncrypted:
    return NotEncrypted(f"cannot use {what}")
