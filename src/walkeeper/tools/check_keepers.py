"""``walkeeper check --keepers``: is everybody there, quick, of one version and of one time, and a keeper of its own?

Each keeper is asked about itself, and where it is said whose WAL is meant, about that, too.  Changes nothing.

A keeper that does not know the questions, as Neon's, is asked no more than whether it is there.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import msgspec
import trio

from walkeeper.errors import ConfigError, Malformed, PeerError, ServerError, Unreachable
from walkeeper.formats.commands import ABOUT
from walkeeper.ids import TenantTimelineId
from walkeeper.links.address import Address
from walkeeper.links.keeper import KeptTimeline, advise, connect_keeper, identify
from walkeeper.links.poll import ANSWER_SECONDS
from walkeeper.links.postgres import Connection, time_limit
from walkeeper.membership import majority
from walkeeper.tools.verdicts import Verdict, fail, ok, warn

APPLICATION_NAME: Final = "walkeeper_check"

ROUNDS: Final = 5
"""Of which the quickest counts: the first may have had to wake somebody."""

ROUND_SECONDS_MAX: Final = 0.02
"""A commit waits for one, and for the disks; more than this is another region's."""

CLOCK_SECONDS_MAX: Final = 1.0
"""Tokens, certificates and the lines of logs are compared by clocks; no promise depends on them."""


class AboutKeeper(msgspec.Struct, frozen=True):
    """What a keeper tells of itself."""

    node_id: int
    version: str
    now: Annotated[datetime, msgspec.Meta(tz=True)]


@dataclass(frozen=True, slots=True)
class Visit:
    """``about``: None if it did not know the question.  ``ahead``: its clock less ours.  ``kept``: None if it has none."""

    round_seconds: float
    about: AboutKeeper | None
    ahead: timedelta
    kept: KeptTimeline | None


async def check_keepers(
    keepers: Sequence[Address], ttid: TenantTimelineId | None, system_id: int | None, own_version: str
) -> list[Verdict]:
    """``system_id``: that of the server whose WAL is meant, if it is known.  Cancellation: at any time."""
    found: dict[Address, Visit | Verdict] = {}

    async def visit(address: Address) -> None:
        found[address] = await _visit(address, ttid)

    async with trio.open_nursery() as nursery:
        for address in keepers:
            nursery.start_soon(visit, address)
    verdicts = [*_judge_number(len(keepers))]
    for address in keepers:
        result = found[address]
        verdicts += [result] if isinstance(result, Verdict) else _judge(address, result, own_version)
    visits = {address: each for address in keepers if isinstance(each := found[address], Visit)}
    return [*verdicts, *_judge_together(visits, ttid, system_id)]


async def _visit(address: Address, ttid: TenantTimelineId | None) -> Visit | Verdict:
    name = f"keeper {address}"
    try:
        with time_limit(ANSWER_SECONDS, name):
            async with connect_keeper(address, ttid, APPLICATION_NAME) as connection:
                return await _ask(connection, ttid)
    except (ConfigError, ServerError, Unreachable, PeerError) as error:
        return fail(name, _without(name, error), advise(error).remedy)
    raise AssertionError("the block returns or raises")


def _without(name: str, error: Exception) -> str:
    return str(error).removeprefix(name).lstrip(": ")


async def _ask(connection: Connection, ttid: TenantTimelineId | None) -> Visit:
    """Raises ServerError, PeerError and Unreachable."""
    best: tuple[float, AboutKeeper | None, timedelta] | None = None
    for _ in range(ROUNDS):
        began, before = datetime.now(UTC), time.perf_counter()
        about = await _ask_about(connection)
        seconds = time.perf_counter() - before
        ahead = timedelta() if about is None else about.now - began - timedelta(seconds=seconds / 2)
        if best is None or seconds < best[0]:
            best = seconds, about, ahead
    assert best is not None
    return Visit(*best, None if ttid is None else await identify(connection))


async def _ask_about(connection: Connection) -> AboutKeeper | None:
    def read(text: str) -> AboutKeeper:
        try:
            return msgspec.json.decode(text, type=AboutKeeper)
        except (msgspec.MsgspecError, RecursionError) as error:  # the latter: nested too deeply
            raise Malformed(str(error)) from error

    try:
        return await connection.show(ABOUT, read)
    except ServerError:
        return None


def _judge_number(count: int) -> Iterator[Verdict]:
    needed = majority(count)
    what = f"{count} listed, {needed} must be up"
    if count < 3:
        yield warn("quorum", f"{what}: commits wait when one is down", "have three keepers, or five")
    elif count % 2 == 0:
        yield warn("quorum", f"{what}: as many may fail as of {count - 1}", f"have {count - 1} or {count + 1}")
    else:
        yield ok("quorum", what)


def _judge(address: Address, visit: Visit, own_version: str) -> Iterator[Verdict]:
    name, about = f"keeper {address}", visit.about
    what = f"it answers within {visit.round_seconds * 1000:.2f} ms"
    if visit.round_seconds > ROUND_SECONDS_MAX:
        yield warn(name, what, "every commit waits for that: have keepers near to the primary, and to each other")
    elif about is None:
        yield ok(name, f"{what}, and does not tell its number, its version and its time")
    else:
        yield ok(name, f"{what}: id {about.node_id}, version {about.version}")
    if about is not None and about.version != own_version:
        yield warn(name, f"its version is {about.version}, this is {own_version}", "upgrade one of them")
    if abs(visit.ahead.total_seconds()) > CLOCK_SECONDS_MAX:
        direction = "ahead of" if visit.ahead > timedelta() else "behind"
        seconds = abs(visit.ahead.total_seconds())
        yield warn(name, f"its clock is {seconds:.1f} s {direction} ours", "have both keep time (NTP)")


def _judge_together(
    visits: dict[Address, Visit], ttid: TenantTimelineId | None, system_id: int | None
) -> Iterator[Verdict]:
    first: dict[int, Address] = {}
    for address, visit in visits.items():
        if visit.about is not None and first.setdefault(visit.about.node_id, address) != address:
            yield fail(
                f"keeper {address}",
                f"it has the same id as keeper {first[visit.about.node_id]} ({visit.about.node_id})",
                "list each keeper once, and give each an id of its own",
            )
    if ttid is None or not visits:
        return
    kept = {address: visit.kept.system_id for address, visit in visits.items() if visit.kept is not None}
    expected = system_id or next(iter(kept.values()), None)
    for address, found in kept.items():
        if found != expected:
            yield fail(
                f"keeper {address}",
                f"it has WAL of the server {found} under this name, not of {expected}",
                "it keeps another cluster's WAL: use another keeper, or another timeline",
            )
    if set(kept.values()) <= {expected}:
        yield ok("timeline", f"{len(kept)} of {len(visits)} keepers that answer have {ttid}")
