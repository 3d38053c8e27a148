"""A keeper's HTTP port is asked in the clear or in TLS, and then only who proves who it is."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
import trio
import trustme
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from walkeeper.control.http1 import Encrypt, HttpConnection
from walkeeper.errors import NotEncrypted, Unreachable
from walkeeper.links.address import HttpAddress
from walkeeper.links.http_get import http_get, trust_authorities
from walkeeper.links.link import Link
from walkeeper.links.tls_link import accept_tls
from walkeeper.testing.network import MemoryNetwork

KEEPER = HttpAddress("k2", 7677, is_encrypted=True)


async def answer(request: Request) -> Response:
    return Response(request.headers["host"])


@asynccontextmanager
async def serving(encrypt: Encrypt | None) -> AsyncIterator[None]:
    """A keeper called k2, and us."""
    network = MemoryNetwork(Random(1))
    listener = network.host(KEEPER.host).listen()
    app = Starlette(routes=[Route("/", answer)])

    async def serve() -> None:
        while True:
            link, _ = await listener.accept()
            nursery.start_soon(HttpConnection(app, link, encrypt).serve)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)  # noqa: ASYNC113 - it waits for whoever asks
        with network.host("k1").home():
            yield
        nursery.cancel_scope.cancel(reason="asked")


def encrypting(authority: trustme.CA, name: str) -> Encrypt:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)

    async def encrypt(plain: Link) -> Link:
        return await accept_tls(plain, context)

    return encrypt


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


async def test_who_shows_a_certificate_of_an_authority_that_is_trusted_is_asked(
    authority: trustme.CA, trusted: Path
) -> None:
    trust_authorities(trusted)
    async with serving(encrypting(authority, "k2")):
        got = await http_get(KEEPER, "/")
    assert (got.status, got.body) == (200, b"k2:7677")


async def why_not(encrypt: Encrypt | None, address: HttpAddress = KEEPER) -> str:
    async with serving(encrypt):
        with pytest.raises(Unreachable) as caught:
            await http_get(address, "/")
    return caught.value.why


async def test_an_authority_that_is_not_trusted_vouches_for_nobody(trusted: Path) -> None:
    for path in (trusted, None):
        trust_authorities(path)
        assert "not trusted (--ssl-ca-file)" in await why_not(encrypting(trustme.CA(), "k2"))


async def test_a_certificate_of_another_host_is_none(authority: trustme.CA, trusted: Path) -> None:
    trust_authorities(trusted)
    assert "Hostname mismatch" in await why_not(encrypting(authority, "k3"))


async def test_a_port_that_does_not_encrypt_is_named_so(trusted: Path) -> None:
    trust_authorities(trusted)
    assert "is it the port of --listen-https?" in await why_not(None)


async def test_authorities_that_cannot_be_used_are_found_out_at_the_start_and_later_too(
    authority: trustme.CA, trusted: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.pem").write_text("")
    for name in ("empty.pem", "absent.pem"):
        with pytest.raises(NotEncrypted, match=f"cannot use --ssl-ca-file .*{name}"):
            trust_authorities(tmp_path / name)
    trust_authorities(trusted)
    await trio.Path(trusted).unlink()
    assert "cannot use --ssl-ca-file" in await why_not(encrypting(authority, "k2"))
