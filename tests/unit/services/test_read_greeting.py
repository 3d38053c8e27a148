"""A proposer's connection begins with a greeting, and with nothing else."""

import pytest

from proposing import GREETING, VERSION, Proposer
from streaming import Connection, copying_session
from walkeeper.errors import Malformed, OutOfTurn
from walkeeper.formats.frontend import CopyDone
from walkeeper.formats.proposer import encode_proposer_message
from walkeeper.membership import NO_GENERATION
from walkeeper.messages import VoteRequest
from walkeeper.services.copy_in import CopyEnd, CopyReader
from walkeeper.services.receive_wal import read_greeting
from walkeeper.terms import Term


async def test_a_connection_begins_with_a_greeting() -> None:
    connection = Connection.new()
    proposer = Proposer(connection.client)
    await proposer.say(VoteRequest(NO_GENERATION, Term(1)))
    with pytest.raises(OutOfTurn):
        await read_greeting(CopyReader(connection.link, copying_session()), VERSION)


async def test_gibberish_is_no_greeting() -> None:
    connection = Connection.new()
    await connection.client.say(b"gibberish")
    with pytest.raises(Malformed):
        await read_greeting(CopyReader(connection.link, copying_session()), VERSION)


async def test_a_client_may_leave_before_it_greets() -> None:
    connection = Connection.new()
    await connection.client.send(CopyDone())
    assert await read_greeting(CopyReader(connection.link, copying_session()), VERSION) is CopyEnd.DONE


async def test_the_greeting_comes_back_with_what_came_along() -> None:
    connection = Connection.new()
    proposer = Proposer(connection.client)
    vote = VoteRequest(NO_GENERATION, Term(1))
    await proposer.say(GREETING, vote)
    greeting = await read_greeting(CopyReader(connection.link, copying_session()), VERSION)
    assert not isinstance(greeting, CopyEnd)
    first, early = greeting
    assert first == GREETING
    assert [bytes(payload) for payload in early] == [encode_proposer_message(vote, VERSION)]
