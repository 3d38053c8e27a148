"""Answers to whatever proof a server asks for."""

import pytest
from scramp import ScramMechanism

from walkeeper.errors import ConfigError, OutOfTurn, ServerError
from walkeeper.formats.authentication import (
    AuthenticationCleartextPassword,
    AuthenticationMd5Password,
    AuthenticationOk,
    AuthenticationOther,
    AuthenticationSasl,
    AuthenticationSaslContinue,
    AuthenticationSaslFinal,
)
from walkeeper.formats.backend import ParameterStatus
from walkeeper.formats.frontend import AuthenticationReply
from walkeeper.links.conninfo import ChannelBinding, ConnectionInfo
from walkeeper.links.login import Login, refusal

INFO = ConnectionInfo("db", user="md5_user", password="password")
CLEARTEXT = AuthenticationCleartextPassword()
MD5 = AuthenticationMd5Password(b"salt")
SCRAM = AuthenticationSasl(("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"))


def login(info: ConnectionInfo = INFO) -> Login:
    return Login(info, None)


def test_trust_asks_for_nothing() -> None:
    assert login().answer(AuthenticationOk()) is None
    assert login().answer(ParameterStatus("a", "b")) is None


def test_a_cleartext_password_is_sent_as_it_is() -> None:
    assert login().answer(AuthenticationCleartextPassword()) == AuthenticationReply(b"password\0")


def test_an_md5_proof_is_the_one_that_postgresql_computes() -> None:
    """A vector that clients in other languages test with."""
    reply = login().answer(AuthenticationMd5Password(b"\x2a\x3d\x8f\xe0"))
    assert reply == AuthenticationReply(b"md562af4dd09bbb41884907a838a3233294\0")


def serve_scram(side: Login, password: str) -> None:
    """Play the server's part.  Raises what either side objects to."""
    mechanism = ScramMechanism("SCRAM-SHA-256")
    salt, stored, server, iterations = mechanism.make_auth_info(password, iteration_count=4096)
    keeper = mechanism.make_server(lambda _: (salt, stored, server, iterations))
    first = side.answer(SCRAM)
    assert first is not None
    name, _, rest = first.data.partition(b"\0")
    assert name == b"SCRAM-SHA-256"
    keeper.set_client_first(rest[4:].decode())
    final = side.answer(AuthenticationSaslContinue(keeper.get_server_first().encode()))
    assert final is not None
    keeper.set_client_final(final.data.decode())
    assert side.answer(AuthenticationSaslFinal(keeper.get_server_final().encode())) is None


def test_scram_convinces_a_server_that_knows_the_password() -> None:
    side = login()
    serve_scram(side, "password")
    assert side.answer(AuthenticationOk()) is None


def test_a_server_that_does_not_know_the_password_is_found_out() -> None:
    side = login()
    first = side.answer(SCRAM)
    assert first is not None
    nonce = first.data.rpartition(b"r=")[2]
    side.answer(AuthenticationSaslContinue(b"r=" + nonce + b"more,s=c2FsdHNhbHRzYWx0c2FsdA==,i=4096"))
    with pytest.raises(OutOfTurn):
        side.answer(AuthenticationSaslFinal(b"v=" + b"A" * 43 + b"="))


@pytest.mark.parametrize("iterations", ["2000000000", "+2000000000", "4096,i=2000000000", "9" * 5000])
def test_a_server_that_asks_for_an_hour_of_computing_is_not_served(iterations: str) -> None:
    side = login()
    first = side.answer(SCRAM)
    assert first is not None
    nonce = first.data.rpartition(b"r=")[2]
    wanted = b"more,s=c2FsdHNhbHRzYWx0c2FsdA==,i=" + iterations.encode()
    with pytest.raises(OutOfTurn):
        side.answer(AuthenticationSaslContinue(b"r=" + nonce + wanted))


def test_a_sasl_message_without_a_beginning_is_out_of_turn() -> None:
    with pytest.raises(OutOfTurn):
        login().answer(AuthenticationSaslContinue(b"r=x,s=eA==,i=1"))


@pytest.mark.parametrize(
    ("info", "request_"),
    [
        (ConnectionInfo("db"), AuthenticationCleartextPassword()),
        (ConnectionInfo("db"), SCRAM),
        (INFO, AuthenticationOther(7)),
        (INFO, AuthenticationSasl(("SCRAM-SHA-512",))),
        (ConnectionInfo("db", password="x", channel_binding=ChannelBinding.REQUIRE), AuthenticationOk()),
        (ConnectionInfo("db", password="\a"), SCRAM),
        *((ConnectionInfo("db", password="caf\udce9"), request) for request in (CLEARTEXT, MD5, SCRAM)),
    ],
    ids=[
        "no password", "no password for SCRAM", "GSSAPI", "an unknown mechanism", "no channel binding",
        "a password that SCRAM forbids", "no UTF-8", "no UTF-8 for MD5", "no UTF-8 for SCRAM",
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_for_the_operator(info: ConnectionInfo, request_: AuthenticationOk) -> None:
    with pytest.raises(ConfigError):
        login(info).answer(request_)


def test_a_missing_password_is_asked_for_where_it_may_be_given() -> None:
    with pytest.raises(ConfigError) as asked:
        login(ConnectionInfo("db", user="me")).answer(CLEARTEXT)
    assert str(asked.value) == (
        "db:5432 asks for the password of me: give it in the connection string, PGPASSWORD or a password file"
    )


@pytest.mark.parametrize("sqlstate", ["28P01", "28000", "42501", "3D000"])
def test_a_refusal_that_no_retry_changes_is_for_the_operator(sqlstate: str) -> None:
    assert isinstance(refusal(ServerError("db", sqlstate, "no")), ConfigError)


def test_a_server_that_starts_up_may_be_tried_again() -> None:
    assert isinstance(refusal(ServerError("db", "57P03", "the database system is starting up")), ServerError)
