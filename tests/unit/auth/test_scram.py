"""SCRAM-SHA-256, the server's side, against a client that others have written."""

from base64 import b64encode
from hashlib import pbkdf2_hmac, sha256
from hmac import digest
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scramp import ScramClient

from certified import PASSWORD, user_line
from walkeeper.auth.scram import BOUND, UNBOUND, Exchange, mechanisms
from walkeeper.auth.users import Secret, Users, load_users
from walkeeper.errors import LoginFailed

BINDING = b"b" * 32


@pytest.fixture
def users(tmp_path: Path) -> Users:
    path = tmp_path / "users"
    path.write_text(user_line("standby"))
    return Users(load_users(path))


@pytest.fixture
def secret(users: Users) -> Secret:
    user = users.find("standby")
    assert user is not None
    return user.secret


def client(password: str, binding: bytes | None = None) -> ScramClient:
    mechanism = UNBOUND if binding is None else BOUND
    channel = None if binding is None else ("tls-server-end-point", binding)
    return ScramClient([mechanism], "standby", password, channel_binding=channel)


def converse(exchange: Exchange, peer: ScramClient) -> None:
    """The whole exchange.  Raises LoginFailed, and ScramException if the server proves nothing."""
    first = exchange.answer_first(peer.mechanism_name, peer.get_client_first().encode())
    peer.set_server_first(first.decode())
    peer.set_server_final(exchange.answer_final(peer.get_client_final().encode()).decode())


@pytest.mark.parametrize("binding", [None, BINDING], ids=["plain", "bound"])
def test_who_knows_the_password_gets_in_and_sees_that_we_know_it_too(
    secret: Secret, binding: bytes | None
) -> None:
    exchange = Exchange(secret, binding)
    converse(exchange, client(PASSWORD, binding))
    assert mechanisms(binding)[0] == (UNBOUND if binding is None else BOUND)


def test_a_client_that_wants_no_binding_gets_in_without(secret: Secret) -> None:
    exchange, peer = Exchange(secret, BINDING), client(PASSWORD)
    first = peer.get_client_first().encode()
    assert first.startswith(b"n,,")
    peer.set_server_first(exchange.answer_first(UNBOUND, first).decode())
    peer.set_server_final(exchange.answer_final(peer.get_client_final().encode()).decode())


@pytest.mark.parametrize("binding", [None, BINDING], ids=["plain", "bound"])
def test_a_wrong_password_does_not(secret: Secret, binding: bytes | None) -> None:
    with pytest.raises(LoginFailed):
        converse(Exchange(secret, binding), client("wrong", binding))


def test_nor_any_password_of_a_stranger(users: Users) -> None:
    with pytest.raises(LoginFailed):
        converse(Exchange(users.invent_secret("nobody"), None), client(PASSWORD))


def test_who_sees_another_certificate_does_not_get_in(secret: Secret) -> None:
    with pytest.raises(LoginFailed):
        converse(Exchange(secret, BINDING), client(PASSWORD, b"x" * 32))


def test_an_answer_is_of_no_use_twice(secret: Secret) -> None:
    peer, exchange = client(PASSWORD), Exchange(secret, None)
    first = peer.get_client_first().encode()
    peer.set_server_first(exchange.answer_first(UNBOUND, first).decode())
    proof = peer.get_client_final().encode()
    assert exchange.answer_final(proof)
    again = Exchange(secret, None)
    again.answer_first(UNBOUND, first)
    with pytest.raises(LoginFailed):
        again.answer_final(proof)


def test_who_knows_the_password_but_answers_another_question_does_not_get_in(secret: Secret) -> None:
    exchange = Exchange(secret, None)
    answer = exchange.answer_first(UNBOUND, b"n,,n=,r=abc")
    salted = pbkdf2_hmac("sha256", PASSWORD.encode(), secret.salt, secret.iterations)
    client_key = digest(salted, b"Client Key", "sha256")
    bare = b"c=biws,r=abcd"
    signature = digest(sha256(client_key).digest(), b"n=,r=abc," + answer + b"," + bare, "sha256")
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    with pytest.raises(LoginFailed):
        exchange.answer_final(bare + b",p=" + b64encode(proof))


@pytest.mark.parametrize(
    ("mechanism", "binding", "first"),
    [
        ("SCRAM-SHA-1", None, b"n,,n=,r=abc"),
        (BOUND, None, b"p=tls-server-end-point,,n=,r=abc"),
        (BOUND, BINDING, b"n,,n=,r=abc"),
        (BOUND, BINDING, b"p=tls-unique,,n=,r=abc"),
        (UNBOUND, BINDING, b"p=tls-server-end-point,,n=,r=abc"),
        (UNBOUND, BINDING, b"y,,n=,r=abc"),
        (UNBOUND, None, b"p=tls-server-end-point,,n=,r=abc"),
        (UNBOUND, None, b"n,a=root,n=,r=abc"),
        (UNBOUND, None, b"n,,m=x,n=,r=abc"),
        (UNBOUND, None, b"n,,n=,r="),
        (UNBOUND, None, b"n,,n=,r=abc,x=y"),
        (UNBOUND, None, b"n,,n=,r=a\nbc"),
        (UNBOUND, None, b""),
    ],
)
def test_a_first_message_that_is_not_as_it_should_be_ends_the_login(
    secret: Secret, mechanism: str, binding: bytes | None, first: bytes
) -> None:
    with pytest.raises(LoginFailed):
        Exchange(secret, binding).answer_first(mechanism, first)


@given(st.binary(max_size=80), st.binary(max_size=120))
def test_garbage_is_refused_and_nothing_else(first: bytes, final: bytes) -> None:
    secret = Secret(4096, b"s" * 16, b"k" * 32, b"k" * 32)
    exchange = Exchange(secret, None)
    with pytest.raises(LoginFailed):
        exchange.answer_first(UNBOUND, first)
    answer = exchange.answer_first(UNBOUND, b"n,,n=,r=abc")
    nonce = answer.split(b",")[0]
    for message in (final, b"c=biws," + nonce + b",p=" + final, b"c=biws," + nonce + b",p=" + b64encode(final)):
        with pytest.raises(LoginFailed):
            exchange.answer_final(message)
