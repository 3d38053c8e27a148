"""What libpq's ``sslmode`` means for Python's ssl.

``prefer`` and ``require`` encrypt without looking at the certificate (``require`` looks if a root certificate is
named, as libpq does); ``verify-ca`` trusts only the named authorities, ``verify-full`` also compares the host name.

Source: PostgreSQL, libpq, "SSL Support".
"""

import ssl

from walkeeper.errors import NotEncrypted
from walkeeper.links.conninfo import ConnectionInfo, SslMode


def client_context(info: ConnectionInfo) -> ssl.SSLContext:
    """How to encrypt a connection to ``info``.  Raises NotEncrypted for files that are missing or unusable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        _trust(context, info)
        if info.sslcert:
            context.load_cert_chain(info.sslcert, info.sslkey or None)
    except OSError as error:  # ssl.SSLError is one
        raise NotEncrypted(f"TLS to {info}: cannot use {_names(info)}: {error.strerror or error}") from None
    return context


def _trust(context: ssl.SSLContext, info: ConnectionInfo) -> None:
    verifies = info.sslmode in (SslMode.VERIFY_CA, SslMode.VERIFY_FULL)
    if not verifies and not (info.sslmode is SslMode.REQUIRE and info.sslrootcert):
        return
    if not info.sslrootcert:
        raise NotEncrypted(
            f"sslmode={info.sslmode.value} needs sslrootcert, the certificate of the authority to trust"
            " (or sslrootcert=system)"
        )
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = info.sslmode is SslMode.VERIFY_FULL
    if info.sslrootcert == "system":
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        context.load_verify_locations(info.sslrootcert)


def _names(info: ConnectionInfo) -> str:
    return ", ".join(name for name in (info.sslrootcert, info.sslcert, info.sslkey) if name)
