"""Tokens (JWT) and the public keys that they are verified with.

Keys are PEM files with an Ed25519 key (``EdDSA``) or an RSA key (``RS256``): one file, or every file directly in a
directory, any of which may vouch for a token.  So an old and a new key are valid together while they are exchanged.
The kind of the key decides about the algorithm, never the token.

``exp`` counts when it is there; ``nbf`` does not, and a token for another audience is refused.

Does not wait for files to change, and reads them where it is called: ``upkeep`` does both elsewhere.
Source: Neon's ``utils::auth``; RFC 7519, RFC 8037.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from walkeeper.auth.claims import Claims, parse_claims
from walkeeper.errors import AccessDenied, ConfigError
from walkeeper.storage.disk import read_regular

LEEWAY_SECONDS: Final = 60
"""By so much clocks may differ, as Neon has it."""

TOKEN_BYTES_MAX: Final = 4096
"""What a stranger may have verified; tokens have some hundred bytes."""

KEY_FILE_BYTES_MAX: Final = 64 * 1024

RSA_BITS_MIN: Final = 2048

_OPTIONS: Final[Mapping[str, Any]] = {
    "verify_nbf": False, "verify_iat": False, "verify_iss": False, "verify_sub": False, "verify_jti": False,
}  # fmt: skip
"""What is not looked at, as at Neon."""


@dataclass(frozen=True, slots=True)
class Key:
    """A public key, and the one algorithm that it is for."""

    name: str
    algorithm: str
    public: Ed25519PublicKey | RSAPublicKey


class TokenVerifier:
    """The keys of the moment."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self.keys = keys

    def verify(self, token: bytes) -> Claims:
        """What the token says, if one of the keys vouches for it.  Raises AccessDenied."""
        if len(token) > TOKEN_BYTES_MAX:
            raise AccessDenied(f"the token has {len(token)} bytes, more than {TOKEN_BYTES_MAX}")
        try:
            algorithm = jwt.get_unverified_header(token).get("alg")
            for key in self.keys:
                if key.algorithm != algorithm:
                    continue
                try:
                    payload = jwt.decode(
                        token,
                        key.public,
                        algorithms=[key.algorithm],
                        leeway=LEEWAY_SECONDS,
                        options=dict(_OPTIONS),  # type: ignore[arg-type]  # a TypedDict there
                    )
                except jwt.InvalidSignatureError:
                    continue
                return parse_claims(payload)
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise AccessDenied(f"the token is no good: {error}") from None
        tried = ", ".join(key.name for key in self.keys)
        raise AccessDenied(f"no key has signed the token, which is for {algorithm!r}; there are {tried}")


def load_keys(path: Path) -> Sequence[Key]:
    """The key in the file at ``path``, or those in the files directly in that directory, in the order of their names.

    Raises ConfigError if there is none, or anything else among them.
    """
    try:
        files = sorted(each for each in path.iterdir() if not each.is_dir()) if path.is_dir() else [path]
        keys = [_load_key(file) for file in files]
    except OSError as error:
        raise ConfigError(f"cannot read the key {error.filename or path}: {error.strerror}") from None
    if not keys:
        raise ConfigError(f"there is no key in {path}: put public keys there, as PEM files")
    return keys


def _load_key(path: Path) -> Key:
    pem = read_regular(path, KEY_FILE_BYTES_MAX)
    try:
        public = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{path} is not a public key in PEM (openssl pkey -pubout makes one)") from None
    match public:
        case Ed25519PublicKey():
            return Key(path.name, "EdDSA", public)
        case RSAPublicKey() if public.key_size >= RSA_BITS_MIN:
            return Key(path.name, "RS256", public)
        case RSAPublicKey():
            raise ConfigError(f"{path}: an RSA key needs {RSA_BITS_MIN} bits, this has {public.key_size}")
        case _:
            raise ConfigError(f"{path}: neither an Ed25519 nor an RSA key")
