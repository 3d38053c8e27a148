"""The status page in a real browser: what it shows, how soon, and that it asks nobody but its own keeper."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

import postgres
import programs
from chromium import Browser, Page
from keeper_client import Client
from managed import REQUEST
from minted import Mint
from walkeeper.formats.backend import CopyBothResponse
from walkeeper.formats.frontend import Query
from walkeeper.ids import TenantId, TenantTimelineId, TimelineId

SOON_SECONDS = 3.0
LOAD_SECONDS = 10.0
HOSTILE = "<img src=x onerror=document.title='owned'>"
TTID = TenantTimelineId(TenantId.parse(REQUEST["tenant_id"]), TimelineId.parse(REQUEST["timeline_id"]))

SHOWN = "!document.getElementById('shown').hidden"
ALL_SERVE = "document.querySelectorAll('.keeper .badge.green').length === 3"
ONE_IS_RED = "document.querySelectorAll('.keeper.red').length === 1"
LOST = "!document.getElementById('lost').hidden"


@pytest.fixture
def quorum(work_directory: Path) -> Iterator[Sequence[programs.Keeper]]:
    """Three keepers that know of each other and have a timeline, without members, that nobody writes."""
    ports = postgres.free_ports(6)
    with ExitStack() as stack:
        keepers = []
        for number, (pg_port, http_port) in enumerate(zip(ports[:3], ports[3:], strict=True), 1):
            others = ",".join(f"127.0.0.1:{port}" for port in ports[3:] if port != http_port)
            prepared = programs.Keeper.prepare(work_directory, number, pg_port, http_port, "--peer-http", others)
            keepers.append(stack.enter_context(prepared))
        for keeper in keepers:
            keeper.start()
        for keeper in keepers:
            keeper.wait_ready()
            wanted = REQUEST | {"mconf": {"generation": 0, "members": []}}
            answer = httpx2.post(f"http://127.0.0.1:{keeper.http_port}/v1/tenant/timeline", json=wanted)
            assert answer.status_code == 200
        yield keepers


@pytest.fixture
def browser(work_directory: Path) -> Iterator[Browser]:
    profile = work_directory / "profile"
    profile.mkdir()
    with Browser(profile) as browser:
        yield browser


def opened(browser: Browser, keeper: programs.Keeper, width: int = 1600) -> Page:
    page = browser.open(url_of(keeper), width=width)
    page.wait_for(SHOWN, LOAD_SECONDS)
    return page


def url_of(keeper: programs.Keeper) -> str:
    return f"http://127.0.0.1:{keeper.http_port}/"


def check_asked_nobody_else(page: Page, keeper: programs.Keeper) -> None:
    assert page.requests
    assert [url for url in page.requests if not url.startswith((url_of(keeper), "data:"))] == []


def test_a_keeper_that_dies_is_red_within_three_seconds_and_green_again_soon_after_it_is_back(
    browser: Browser, quorum: Sequence[programs.Keeper]
) -> None:
    page = opened(browser, quorum[0])
    page.wait_for(ALL_SERVE, LOAD_SECONDS)
    quorum[2].kill()
    page.wait_for(ONE_IS_RED, SOON_SECONDS)
    assert "It does not answer: Connection refused." in page.text
    assert "docs/operations.md, “What happens when …”" in page.text
    quorum[2].start()
    quorum[2].wait_ready()
    page.wait_for(ALL_SERVE, SOON_SECONDS)
    assert page.evaluate("document.querySelectorAll('.note.red').length") == 0
    check_asked_nobody_else(page, quorum[0])
    assert page.complaints == []


def test_a_page_whose_keeper_dies_says_so_within_three_seconds_and_recovers_by_itself(
    browser: Browser, quorum: Sequence[programs.Keeper]
) -> None:
    page = opened(browser, quorum[0])
    quorum[0].kill()
    page.wait_for(LOST, SOON_SECONDS)
    assert "Connection lost, since" in page.text
    quorum[0].start()
    quorum[0].wait_ready()
    page.wait_for(f"!({LOST}) && !document.body.classList.contains('stale')", SOON_SECONDS)
    check_asked_nobody_else(page, quorum[0])


@pytest.mark.parametrize("width", [380, 1600])
def test_nothing_is_wider_than_the_window(browser: Browser, quorum: Sequence[programs.Keeper], width: int) -> None:
    page = opened(browser, quorum[1], width)
    page.wait_for("document.querySelector('details[open] .inside canvas') !== null", LOAD_SECONDS)
    wide = page.evaluate(
        "[...document.querySelectorAll('body *')].filter(each => each.getBoundingClientRect().right > innerWidth + 1)"
        ".map(each => each.className || each.tagName)"
    )
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert wide == []
    assert page.complaints == []


def test_whatever_a_client_calls_itself_stays_text(browser: Browser, quorum: Sequence[programs.Keeper]) -> None:
    page = opened(browser, quorum[0])
    with Client(quorum[0].pg_port) as reader:
        reader.start_up(TTID, application_name=HOSTILE)
        reader.send(Query(f"START_REPLICATION PHYSICAL {REQUEST['start_lsn']}").encode())
        assert isinstance(reader.next_message(), CopyBothResponse)
        page.wait_for(f"document.body.textContent.includes({HOSTILE!r})", SOON_SECONDS)
        assert page.evaluate("document.querySelectorAll('main img, main script').length") == 0
        assert "owned" not in page.evaluate("document.title")
    check_asked_nobody_else(page, quorum[0])
    assert page.complaints == []


def test_where_tokens_are_asked_for_the_page_shows_nothing_before_it_has_one(
    browser: Browser, work_directory: Path
) -> None:
    mint = Mint.ed25519()
    key = mint.write(work_directory / "key.pem")
    pg_port, http_port = postgres.free_ports(2)
    with programs.Keeper.prepare(
        work_directory, 1, pg_port, http_port, "--http-auth-public-key-path", str(key)
    ) as keeper:
        keeper.start()
        keeper.wait_ready()
        page = browser.open(url_of(keeper))
        page.wait_for("!document.getElementById('asking').hidden", LOAD_SECONDS)
        assert not page.evaluate(SHOWN)
        token = mint.for_everything().decode()
        page.evaluate(f"document.getElementById('token').value = {token!r}")
        page.press("#asking button")
        page.wait_for(SHOWN, LOAD_SECONDS)
        assert page.evaluate("Object.keys(localStorage).length + document.cookie.length") == 0
        assert token not in page.evaluate("document.documentElement.outerHTML")
        check_asked_nobody_else(page, keeper)
