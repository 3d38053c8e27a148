"""Who is let in where tokens or passwords are asked for, and whose timelines it gets to see."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog
import trio
from scramp import ScramClient
from trio.testing import MockClock

from certified import PASSWORD, user_line
from keeping import SERVER, TTID, new_disk, timelines_on
from minted import Mint
from streaming import Client, Connection
from walkeeper.auth.tokens import TokenVerifier
from walkeeper.auth.users import Users, load_users
from walkeeper.control.metrics import Metrics
from walkeeper.formats.authentication import (
    AuthenticationCleartextPassword,
    AuthenticationOk,
    AuthenticationSasl,
    AuthenticationSaslContinue,
    AuthenticationSaslFinal,
)
from walkeeper.formats.backend import BackendMessage, CopyBothResponse, ErrorResponse, ReadyForQuery
from walkeeper.formats.frontend import AuthenticationReply, CopyData, Query
from walkeeper.formats.proposer import encode_proposer_message
from walkeeper.formats.startup import StartupMessage, encode_options
from walkeeper.ids import TenantId, TenantTimelineId
from walkeeper.membership import NO_CONFIGURATION
from walkeeper.messages import ProposerGreeting
from walkeeper.services.admission import Gate
from walkeeper.services.connection import Connection as Service
from walkeeper.services.listener import Draining
from walkeeper.services.strangers import Strangers
from walkeeper.services.turnstile import Turnstile
from walkeeper.timeline.registry import Client as ServedClient
from walkeeper.timeline.timelines import Timelines

MINT = Mint.ed25519()
VERIFIER = TokenVerifier([MINT.key])
OTHER = TenantTimelineId(TenantId(b"x" * 16), TTID.timeline_id)

DENIED = "JWT authentication error"


class Scene:
    """A client of a keeper that has the timelines of two tenants and asks for tokens."""

    def __init__(self, client: Client, timelines: Timelines) -> None:
        self.client = client
        self.timelines = timelines
        self.metrics = Metrics("0")
        self.ended = trio.Event()

    async def start_up(self, ttid: TenantTimelineId = TTID) -> None:
        await self.client.send(StartupMessage({"user": "test", "options": encode_options(ttid)}))
        assert await self.client.next_message() == AuthenticationCleartextPassword()

    async def show(self, token: bytes) -> BackendMessage:
        """What the keeper says to it first."""
        await self.client.send(AuthenticationReply.of_password(token))
        return await self.client.next_message()

    async def come_in(self, token: bytes, ttid: TenantTimelineId = TTID) -> None:
        await self.start_up(ttid)
        assert await self.show(token) == AuthenticationOk()
        while not isinstance(await self.client.next_message(), ReadyForQuery):
            pass

    async def first_answer(self, text: str) -> BackendMessage:
        await self.client.send(Query(text))
        return await self.client.next_message()

    @property
    def denials(self) -> float | None:
        return self.count("AccessDenied")

    def count(self, error: str) -> float | None:
        return self.metrics.registry.get_sample_value("walkeeper_refusals_total", {"error": error})


@asynccontextmanager
async def guarded(gate: Gate = Gate(VERIFIER.verify)) -> AsyncIterator[Scene]:  # noqa: B008 (it is frozen)
    pair = Connection.new()

    async def serve() -> None:
        client = ServedClient(1, "db1:4711")
        await Service(
            client,
            pair.link,
            timelines,
            Draining(),
            Turnstile(),
            Strangers(9, scene.metrics),
            scene.metrics,
            gate=gate,
        ).serve()
        scene.ended.set()

    async with timelines_on(new_disk()) as timelines, trio.open_nursery() as nursery:
        for ttid in (TTID, OTHER):
            await timelines.create(ttid, SERVER)
        scene = Scene(pair.client, timelines)
        nursery.start_soon(serve)  # noqa: ASYNC113 - it waits for what the test sends
        yield scene
        nursery.cancel_scope.cancel()
        await pair.client.stream.aclose()


@pytest.mark.parametrize("token", [MINT.for_everything(), MINT.for_tenant(TTID.tenant_id)], ids=["wide", "tenant"])
async def test_with_a_token_that_is_good_everything_is_as_without(token: bytes) -> None:
    async with guarded() as scene:
        await scene.come_in(token)
        assert not isinstance(await scene.first_answer("IDENTIFY_SYSTEM"), ErrorResponse)
        assert scene.denials is None


@pytest.mark.parametrize("token", [b"", b"secret", Mint.ed25519().for_everything()], ids=["none", "word", "other"])
async def test_a_token_that_is_no_good_ends_the_connection_and_only_the_log_says_why(
    token: bytes, autojump_clock: MockClock
) -> None:
    async with guarded() as scene:
        await scene.start_up()
        with structlog.testing.capture_logs() as logs:
            said = await scene.show(token)
            await scene.ended.wait()
        assert isinstance(said, ErrorResponse)
        assert said.message == DENIED
        (line,) = logs
        assert line["event"] == "access denied"
        assert line["why"]
        assert line["peer"] == "db1:4711"
        assert scene.denials == 1


async def test_a_client_that_leaves_to_ask_its_user_is_no_matter(autojump_clock: MockClock) -> None:
    async with guarded() as scene:
        await scene.start_up()
        with structlog.testing.capture_logs() as logs:
            await scene.client.stream.send_eof()
            await scene.ended.wait()
        assert logs == []
        assert scene.denials is None


@pytest.mark.parametrize("impatient", [Query("IDENTIFY_SYSTEM"), CopyData(b"x")], ids=["query", "data"])
async def test_nothing_is_answered_before_a_token_was_shown(
    impatient: Query | CopyData, autojump_clock: MockClock
) -> None:
    async with guarded() as scene:
        await scene.start_up()
        await scene.client.send(impatient)
        assert isinstance(await scene.client.next_message(), ErrorResponse)
        await scene.ended.wait()


# -- whose timelines -----------------------------------------------------------------------------------------

QUERIES = [
    "IDENTIFY_SYSTEM", "TIMELINE_STATUS", "SHOW server_version_num", "SHOW wal_segment_size",
    "SHOW data_directory_mode", "SHOW walkeeper_standing", "SHOW walkeeper_status",
    "START_REPLICATION PHYSICAL 0/1504028", "START_REPLICATION PHYSICAL 0/1504028 (term='1')",
    "START_WAL_PUSH (proto_version '3', allow_timeline_creation 'true')",
]  # fmt: skip
"""All that names a timeline."""


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize(
    "token", [MINT.for_tenant(TTID.tenant_id), MINT.token(scope="pageserverapi")], ids=["tenant", "pageserver"]
)
async def test_a_token_never_reaches_another_tenant(token: bytes, query: str) -> None:
    async with guarded() as scene:
        await scene.come_in(token, OTHER)
        said = await scene.first_answer(query)
        assert isinstance(said, ErrorResponse)
        assert said.message == DENIED
        assert scene.denials == 1


async def test_nor_does_it_create_anything_there(autojump_clock: MockClock) -> None:
    async with guarded() as scene:
        nowhere = TenantTimelineId(TenantId(b"y" * 16), TTID.timeline_id)
        await scene.come_in(MINT.for_tenant(TTID.tenant_id), nowhere)
        said = await scene.first_answer(QUERIES[-1])
        assert not isinstance(said, CopyBothResponse)
        greeting = ProposerGreeting(nowhere, NO_CONFIGURATION, SERVER)
        await scene.client.send(CopyData(encode_proposer_message(greeting, 3)))
        await scene.ended.wait()
        assert set(scene.timelines.ttids()) == {TTID, OTHER}


# -- users ---------------------------------------------------------------------------------------------------


@pytest.fixture
def users(tmp_path: Path) -> Users:
    path = tmp_path / "users"
    lines = [user_line("anywhere"), user_line("ours", tenant=str(TTID.tenant_id))]
    path.write_text("\n".join(lines))
    return Users(load_users(path))


async def log_in(
    scene: Scene, user: str, password: str = PASSWORD, ttid: TenantTimelineId = TTID
) -> BackendMessage:
    """What the keeper says to the proof, or instead of asking for it."""
    await scene.client.send(StartupMessage({"user": user, "options": encode_options(ttid)}))
    asked = await scene.client.next_message()
    if not isinstance(asked, AuthenticationSasl):
        return asked
    peer = ScramClient(list(asked.mechanisms), "ignored", password)
    await scene.client.send(
        AuthenticationReply.of_sasl_mechanism(peer.mechanism_name, peer.get_client_first().encode())
    )
    challenge = await scene.client.next_message()
    assert isinstance(challenge, AuthenticationSaslContinue)
    peer.set_server_first(challenge.data.decode())
    await scene.client.send(AuthenticationReply(peer.get_client_final().encode()))
    said = await scene.client.next_message()
    if isinstance(said, AuthenticationSaslFinal):
        peer.set_server_final(said.data.decode())
        while not isinstance(await scene.client.next_message(), ReadyForQuery):
            pass
    return said


READS = QUERIES[:-1]


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize(
    ("user", "ttid", "may_read"),
    [("anywhere", TTID, True), ("anywhere", OTHER, True), ("ours", TTID, True), ("ours", OTHER, False)],
)
async def test_users_read_what_their_line_says_and_write_nothing(
    query: str, user: str, ttid: TenantTimelineId, may_read: bool, users: Users
) -> None:
    async with guarded(Gate(VERIFIER.verify, users)) as scene:
        assert isinstance(await log_in(scene, user, ttid=ttid), AuthenticationSaslFinal)
        said = await scene.first_answer(query)
        is_denied = isinstance(said, ErrorResponse) and said.sqlstate == "42501"
        assert is_denied == (not may_read or query not in READS)
        assert scene.count("NotAllowed") == (1 if is_denied else None)


async def test_who_is_in_the_list_cannot_choose_to_show_a_token_and_others_are_asked_for_one(users: Users) -> None:
    async with guarded(Gate(VERIFIER.verify, users)) as scene:
        assert await log_in(scene, "walkeeper") == AuthenticationCleartextPassword()
        assert await scene.show(MINT.for_everything()) == AuthenticationOk()


@pytest.mark.parametrize(("user", "why"), [("ours", "wrong password"), ("nobody", "there is no user")])
async def test_a_stranger_hears_the_same_as_a_user_who_is_wrong_and_the_log_knows_better(
    user: str, why: str, users: Users, autojump_clock: MockClock
) -> None:
    async with guarded(Gate(users=users)) as scene:
        with structlog.testing.capture_logs() as logs:
            said = await log_in(scene, user, "wrong")
            await scene.ended.wait()
        assert said == ErrorResponse("password authentication failed", "28P01")
        assert [each["event"] for each in logs] == ["access denied"]
        assert why in logs[0]["why"]
        assert user in logs[0]["why"]
        assert scene.count("LoginFailed") == 1


async def test_no_password_lets_a_stranger_in(users: Users) -> None:
    async with guarded(Gate(users=users)) as scene:
        assert isinstance(await log_in(scene, "nobody"), ErrorResponse)


@pytest.mark.parametrize("reply", [b"", b"SCRAM-SHA-256", b"SCRAM-SHA-256\0\xff\xff\xff\xff", b"MD5\0\0\0\0\1x"])
async def test_a_reply_that_is_none_ends_the_login(reply: bytes, users: Users, autojump_clock: MockClock) -> None:
    async with guarded(Gate(users=users)) as scene:
        await scene.client.send(StartupMessage({"user": "ours", "options": encode_options(TTID)}))
        await scene.client.next_message()
        await scene.client.send(AuthenticationReply(reply))
        assert isinstance(await scene.client.next_message(), ErrorResponse)
        await scene.ended.wait()
