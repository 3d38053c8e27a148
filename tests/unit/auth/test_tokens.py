"""Tokens: which ones are believed, and what they allow."""

import base64
import hmac
import json
import time
from hashlib import sha256
from pathlib import Path

import pytest

from minted import Mint
from walkeeper.auth.claims import EVERYTHING, TENANT, Claims
from walkeeper.auth.tokens import TOKEN_BYTES_MAX, TokenVerifier, load_keys
from walkeeper.errors import AccessDenied, ConfigError
from walkeeper.ids import TenantId

OURS, OTHERS = TenantId(b"o" * 16), TenantId(b"x" * 16)
MINT = Mint.ed25519()


@pytest.fixture
def verifier(tmp_path: Path) -> TokenVerifier:
    return TokenVerifier(load_keys(MINT.write(tmp_path / "key.pem")))


def spelled(header: object, payload: object, signature: bytes = b"") -> bytes:
    """A token, whatever is in it."""
    parts = [json.dumps(header).encode(), json.dumps(payload).encode(), signature]
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)


# -- what is believed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mint", [MINT, Mint.rsa()], ids=["EdDSA", "RS256"])
def test_a_token_that_a_key_vouches_for_is_believed(mint: Mint, tmp_path: Path) -> None:
    verifier = TokenVerifier(load_keys(mint.write(tmp_path / "key")))
    assert verifier.verify(mint.for_everything()) == Claims(EVERYTHING)
    assert verifier.verify(mint.for_tenant(OURS)) == Claims(TENANT, OURS)


def test_any_key_of_a_directory_may_vouch(tmp_path: Path) -> None:
    old, new, stranger = Mint.ed25519(), Mint.rsa(), Mint.ed25519()
    old.write(tmp_path / "a")
    new.write(tmp_path / "b")
    (tmp_path / "..data").mkdir()
    verifier = TokenVerifier(load_keys(tmp_path))
    assert verifier.verify(old.for_everything()) == verifier.verify(new.for_everything()) == Claims(EVERYTHING)
    with pytest.raises(AccessDenied):
        verifier.verify(stranger.for_everything())


def test_what_is_not_looked_at_does_not_matter(verifier: TokenVerifier) -> None:
    later = int(time.time()) + 3600
    token = MINT.token(scope=EVERYTHING, nbf=later, iat=later, iss="x", sub=7, jti=[], endpoint_id="", more={})
    assert verifier.verify(token) == Claims(EVERYTHING)
    assert verifier.verify(MINT.token(scope=TENANT, tenant_id=str(OURS), exp=later)) == Claims(TENANT, OURS)
    assert verifier.verify(MINT.token(scope=EVERYTHING, tenant_id=None)) == Claims(EVERYTHING)


def forged(name: str) -> bytes:
    """A token that must not be believed."""
    payload = {"scope": EVERYTHING}
    own = MINT.for_everything()
    match name:
        case "nothing":
            return b""
        case "a word":
            return b"password"
        case "not text":
            return b"\xff\xfe.\x00.\x80"
        case "no algorithm":
            return spelled({"alg": "none", "typ": "JWT"}, payload)
        case "the public key as a secret":
            signed = spelled({"alg": "HS256"}, payload).rsplit(b".", 1)[0]
            signature = hmac.digest(MINT.pem, signed, sha256)
            return signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")
        case "another key":
            return Mint.ed25519().for_everything()
        case "another kind of key":
            return Mint.rsa().for_everything()
        case "its payload changed":
            head, _, signature = own.split(b".")
            return b".".join([head, spelled({}, payload | {"x": 1}).split(b".")[1], signature])
        case "its signature cut":
            return own[:-2]
        case "expired":
            return MINT.token(scope=EVERYTHING, exp=int(time.time()) - 61)
        case "for another audience":
            return MINT.token(scope=EVERYTHING, aud="pageserver")
        case "no scope":
            return MINT.token(tenant_id=str(OURS))
        case "a scope that is no word":
            return MINT.token(scope=[EVERYTHING])
        case "a tenant that is none":
            return MINT.token(scope=TENANT, tenant_id="../" * 10)
        case "a tenant that is not said":
            return MINT.token(scope=TENANT)
        case "a payload that is no object":
            return b".".join([own.split(b".")[0], spelled({}, [1]).split(b".")[1], own.split(b".")[2]])
        case _:
            return MINT.token(scope=EVERYTHING, ballast="x" * TOKEN_BYTES_MAX)


FORGERIES = [
    "nothing", "a word", "not text", "no algorithm", "the public key as a secret", "another key", "another kind of key",
    "its payload changed", "its signature cut", "expired", "for another audience", "no scope", "a scope that is no word",
    "a tenant that is none", "a tenant that is not said", "a payload that is no object", "too long",
]  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_whatever_is_wrong_the_client_hears_the_same_and_the_log_what_it_is(
    name: str, verifier: TokenVerifier
) -> None:
    with pytest.raises(AccessDenied) as denied:
        verifier.verify(forged(name))
    assert str(denied.value) == "JWT authentication error"
    assert denied.value.why


# -- what is allowed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "allowed"),
    [
        (Claims(EVERYTHING), {OURS, OTHERS, None}),
        (Claims(TENANT, OURS), {OURS}),
        (Claims("pageserverapi"), set()),
        (Claims("admin", OURS), set()),
        (Claims("", OURS), set()),
    ],
    ids=lambda value: value.scope if isinstance(value, Claims) else "",
)
def test_a_token_allows_what_its_scope_says_and_no_more(claims: Claims, allowed: set[TenantId | None]) -> None:
    def is_allowed(tenant_id: TenantId | None) -> bool:
        try:
            claims.require(tenant_id)
        except AccessDenied:
            return False
        return True

    assert {tenant_id for tenant_id in (OURS, OTHERS, None) if is_allowed(tenant_id)} == allowed


# -- keys ----------------------------------------------------------------------------------------------------


def test_files_that_are_no_keys_are_named(tmp_path: Path) -> None:
    for name, content in (
        ("empty", b""),
        ("half", MINT.pem[:60]),
        ("weak", Mint.rsa(1024).pem),
        ("elliptic", Mint.elliptic().pem),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=name):
            load_keys(tmp_path / name)
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(ConfigError, match=str(path)):
            load_keys(path)


def test_a_directory_without_keys_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no key"):
        load_keys(tmp_path)
