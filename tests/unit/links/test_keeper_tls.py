"""TLS to keepers: what is demanded at the start, and what comes of one that cannot be had later."""

import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from certified import Pki
from fake_servers import FakeKeeper
from keeping import TTID
from walkeeper.errors import ConfigError, PeerError, TlsFailed, Unreachable
from walkeeper.links.accept import accept_client
from walkeeper.links.address import Address
from walkeeper.links.conninfo import SslMode
from walkeeper.links.keeper import CERTIFICATE, FILES, PORT, TOKEN, TRUST, Advice, advise, connect_keeper
from walkeeper.links.keeper_tls import KeeperTls, demand_tls, keeper_tls
from walkeeper.links.link import SocketLink, send_all
from walkeeper.links.tls_link import accept_tls
from walkeeper.links.token import token_path


@pytest.fixture(autouse=True)
def _nothing_demanded() -> Iterator[None]:
    before = keeper_tls.get()
    yield
    keeper_tls.set(before)


async def reach() -> str:
    """Why a keeper without TLS cannot be reached; empty if it can."""
    async with trio.open_nursery() as nursery:
        keeper = FakeKeeper()
        await nursery.start(keeper.serve)
        why = ""
        try:
            async with connect_keeper(keeper.address, TTID, "test"):
                pass
        except Unreachable as error:
            why = error.why
        nursery.cancel_scope.cancel()
    return why


async def test_a_keeper_without_tls_will_do_unless_it_is_demanded() -> None:
    assert await reach() == ""
    demand_tls(KeeperTls(SslMode.REQUIRE))
    assert "does not offer TLS" in await reach()


def test_files_that_cannot_be_used_are_told_at_the_start_with_their_flags(tmp_path: Path) -> None:
    pki = Pki.begin(tmp_path)
    certificate, key = map(str, pki.issue_client())
    _, other = map(str, pki.issue_client("other"))
    nowhere, absent = str(tmp_path / "nowhere"), "No such file or directory"
    for demanded, said in (
        (
            KeeperTls(SslMode.VERIFY_FULL),
            "--keeper-sslmode verify-full needs --keeper-sslrootcert, the certificate of",
        ),
        (KeeperTls(SslMode.VERIFY_FULL, nowhere), f"cannot use --keeper-sslrootcert {nowhere}: {absent}"),
        (KeeperTls(SslMode.VERIFY_FULL, key), f"cannot use --keeper-sslrootcert {key}: it holds no certificate"),
        (KeeperTls(sslcert=nowhere), f"cannot use --keeper-sslcert {nowhere}: {absent}"),
        (KeeperTls(sslcert=key, sslkey=key), f"cannot use --keeper-sslcert {key}: "),
        (
            KeeperTls(sslcert=certificate),
            f"cannot use --keeper-sslcert {certificate}: there is no key in it: --keeper-sslkey",
        ),
        (KeeperTls(sslcert=certificate, sslkey=nowhere), f"cannot use --keeper-sslkey {nowhere}: {absent}"),
        (
            KeeperTls(sslcert=certificate, sslkey=other),
            f"cannot use --keeper-sslcert {certificate}, --keeper-sslkey {other}: the key is of another certificate",
        ),
    ):
        with pytest.raises(ConfigError) as refusal:
            demand_tls(demanded)
        assert str(refusal.value).startswith(said)
    assert keeper_tls.get() == KeeperTls()
    demand_tls(KeeperTls(SslMode.VERIFY_FULL, str(pki.root), certificate, key))


async def test_a_file_that_is_gone_later_is_no_reason_to_end(tmp_path: Path) -> None:
    pki = Pki.begin(tmp_path)
    certificate, key = pki.issue_client()
    demand_tls(KeeperTls(SslMode.VERIFY_FULL, str(pki.root), str(certificate), str(key)))
    assert "does not offer TLS" in await reach()


# -- what would help ------------------------------------------------------------------------------------------


@asynccontextmanager
async def answering(answer: bytes, context: ssl.SSLContext | None = None) -> AsyncIterator[Address]:
    """Somebody who answers the request for TLS so, and then has it if there is a context."""

    async def answer_next(listener: socket.socket) -> None:
        while True:
            link = SocketLink(await accept_client(listener))
            await link.receive()
            await send_all(link, answer)
            if context is not None:
                with suppress(TlsFailed):
                    await accept_tls(link, context)
                with suppress(trio.BrokenResourceError):
                    await link.wait_sent()
            await link.aclose()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_next, listener)
            yield Address("127.0.0.1", listener.getsockname()[1])
            nursery.cancel_scope.cancel()


async def refused(address: Address) -> tuple[str, Advice]:
    """Why it cannot be reached, without its name, and what can be done."""
    try:
        async with connect_keeper(address, TTID, "test"):
            return "", Advice("")
    except (Unreachable, PeerError, ConfigError) as error:
        return str(error).removeprefix(f"keeper {address}: "), advise(error)


def own_context(pki: Pki) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pki.files.certificate, pki.files.key)
    return context


async def test_a_keeper_that_asks_for_a_certificate_or_trusts_another_authority_says_so(tmp_path: Path) -> None:
    pki = Pki.begin(tmp_path)
    (tmp_path / "others").mkdir()
    certificate, key = Pki.begin(tmp_path / "others").issue_client()
    context = own_context(pki)
    context.load_verify_locations(pki.root)
    context.verify_mode = ssl.CERT_REQUIRED
    async with answering(b"S", context) as address:
        demand_tls(KeeperTls(SslMode.REQUIRE, sslcert=str(certificate), sslkey=str(key)))
        assert await refused(address) == ("it does not trust our certificate: --keeper-sslcert", CERTIFICATE)
        demand_tls(KeeperTls(SslMode.REQUIRE))
        assert await refused(address) == ("it asks for a certificate: --keeper-sslcert", CERTIFICATE)


async def test_a_keeper_that_we_do_not_trust_may_be_well(tmp_path: Path) -> None:
    pki = Pki.begin(tmp_path)
    (tmp_path / "others").mkdir()
    others = Pki.begin(tmp_path / "others")
    demand_tls(KeeperTls(SslMode.VERIFY_CA, str(others.root)))
    async with answering(b"S", own_context(pki)) as address:
        why, advice = await refused(address)
    assert why.startswith("its certificate is not trusted")
    assert advice is TRUST


async def test_files_that_have_become_useless_are_ours_to_put_right(tmp_path: Path) -> None:
    pki = Pki.begin(tmp_path)
    demand_tls(KeeperTls(SslMode.VERIFY_CA, str(pki.root)))
    pki.root.unlink()
    async with answering(b"S", own_context(pki)) as address:
        _, advice = await refused(address)
    assert advice is FILES


async def test_a_token_file_that_is_gone_is_ours_to_put_right(tmp_path: Path) -> None:
    with_token = token_path.set(tmp_path / "nowhere")
    try:
        async with answering(b"N") as address:
            _, advice = await refused(address)
    finally:
        token_path.reset(with_token)
    assert advice is TOKEN


async def test_the_port_of_http_is_known_by_its_answer() -> None:
    async with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        assert await refused(address) == ("it speaks HTTP: is it the port of --listen-http?", PORT)
