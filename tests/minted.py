"""Keys, and tokens signed with them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from walkeeper.auth.claims import EVERYTHING, TENANT
from walkeeper.auth.tokens import Key
from walkeeper.ids import TenantId


@dataclass(frozen=True, slots=True)
class Mint:
    """Who signs tokens with one private key."""

    private: Ed25519PrivateKey | RSAPrivateKey | EllipticCurvePrivateKey
    algorithm: str

    @classmethod
    def ed25519(cls) -> Self:
        return cls(Ed25519PrivateKey.generate(), "EdDSA")

    @classmethod
    def rsa(cls, bits: int = 2048) -> Self:
        return cls(generate_rsa_key(65537, bits), "RS256")

    @classmethod
    def elliptic(cls) -> Self:
        return cls(generate_private_key(SECP256R1()), "ES256")

    @property
    def pem(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def write(self, path: Path) -> Path:
        """The public key, into a file."""
        path.write_bytes(self.pem)
        return path

    @property
    def key(self) -> Key:
        public = self.private.public_key()
        assert isinstance(public, Ed25519PublicKey | RSAPublicKey)
        return Key("key", self.algorithm, public)

    def token(self, **payload: Any) -> bytes:
        return jwt.encode(payload, self.private, algorithm=self.algorithm).encode()

    def for_everything(self) -> bytes:
        return self.token(scope=EVERYTHING)

    def for_tenant(self, tenant_id: TenantId) -> bytes:
        return self.token(scope=TENANT, tenant_id=str(tenant_id))
