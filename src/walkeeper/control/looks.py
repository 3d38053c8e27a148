"""Who looks at this keeper from outside, once or all the time, and what they see: ``GET /v1/walkeeper/overview``.

With ``watch=true`` the answer does not end: an overview comes about every second, as server-sent events.  There are
``WATCHERS_MAX`` such watchers at most; one that does not read is cut off as any client (``http1``).  However many look, the
timelines are looked at once a second, and never for more than a tenth of the time.

Decides nothing, and remembers nothing but the last look.  Does not know the page that shows it.
"""

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, NoReturn

import msgspec
import trio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

import walkeeper
from walkeeper.control import diagnosis
from walkeeper.control.collectors import DiskJobs
from walkeeper.control.dump import KeeperConfig
from walkeeper.control.endpoints import Endpoint, Parameter, flag_in_query, text_in_query, whole_keeper
from walkeeper.control.events import Events
from walkeeper.control.health import Check, Readiness
from walkeeper.control.metrics import Peaks
from walkeeper.control.overview import (
    CheckJson,
    KeeperJson,
    OtherKeeperJson,
    OverviewJson,
    TimelineJson,
    TotalsJson,
    look_at_timelines,
)
from walkeeper.control.peers import Peers
from walkeeper.control.positions import Positions, new_instance
from walkeeper.errors import Malformed
from walkeeper.links.overview import PATH
from walkeeper.timeline.room import Room
from walkeeper.timeline.timelines import Timelines

WATCHERS_MAX: Final = 16
"""Pages that are open somewhere; each costs a connection and some 100 KiB a second."""

WATCH_SECONDS: Final = 1.0
"""Between two events: what happens to a peer is seen twice within the three seconds in which it has to be shown."""

FRESH_SECONDS: Final = 0.9
"""How old a look may be that somebody else has had."""

SHARE_MAX: Final = 0.1
"""Of the time, for looking: with thousands of timelines it is done less often."""

FIND_CHARACTERS_MAX: Final = 65
"""As long as a tenant, a slash and a timeline."""

FindText = Annotated[str, msgspec.Meta(pattern=f"^[0-9a-fA-F/]{{0,{FIND_CHARACTERS_MAX}}}$")]

LOOKS_KEPT_MAX: Final = 4
"""Watchers that look for different things look in turns."""


def _nothing() -> Sequence[Check]:
    return ()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is around the timelines: who else knows something of this process."""

    config: KeeperConfig
    readiness: Readiness = field(default_factory=Readiness)
    alive: Callable[[], Sequence[Check]] = _nothing
    disk: Callable[[], DiskJobs] = lambda: DiskJobs(0, 0.0)
    peaks: Callable[[], Peaks] = Peaks
    events: Events = field(default_factory=Events)
    peers: Peers = field(default_factory=lambda: Peers((), 0, ""))
    started_at: float = field(default_factory=time.time)
    instance: str = field(default_factory=new_instance)


class Looks:
    """The route.  It answers before the timelines are loaded, too: that is when somebody wants to know."""

    def __init__(self, around: Surroundings) -> None:
        self.positions = Positions(around.config, around.instance, around.readiness, around.disk)
        self._around = around
        self._loaded: Timelines | None = None
        self._watchers = 0
        self._kept: dict[tuple[str, bool], tuple[float, bytes]] = {}
        self._looking = trio.Lock()
        self._rest_until = 0.0

    def begin(self, timelines: Timelines) -> None:
        """Show these timelines from now on."""
        self._loaded = timelines
        self.positions.begin(timelines)

    def endpoint(self) -> Endpoint:
        return Endpoint(
            "GET",
            PATH,
            self.show,
            "What the status page shows: this keeper, its timelines, other keepers, recent events.",
            OverviewJson,
            parameters=(
                Parameter(
                    "find", FindText, "only timelines whose tenant/timeline has this in it are told in full"
                ),
                Parameter("alone", bool, "without what other keepers say"),
                Parameter("watch", bool, "again and again, as server-sent events (text/event-stream)"),
            ),
            whose=whole_keeper,
        )

    async def show(self, request: Request, _body: None) -> Response:
        find = (text_in_query(request, "find") or "").lower()
        if len(find) > FIND_CHARACTERS_MAX or not set(find) <= set("0123456789abcdef/"):
            raise Malformed("failed to parse find: it is no part of tenant/timeline")
        is_alone = flag_in_query(request, "alone")
        if not flag_in_query(request, "watch"):
            return Response(await self.look(find, is_alone=is_alone), media_type="application/json")
        if self._watchers >= WATCHERS_MAX:
            raise HTTPException(503, f"{WATCHERS_MAX} are watching already, which are the most")
        return Watch(self, find, is_alone=is_alone)

    @contextmanager
    def watching(self) -> Iterator[None]:
        self._watchers += 1
        try:
            yield
        finally:
            self._watchers -= 1

    async def look(self, find: str, *, is_alone: bool) -> bytes:
        """The overview as JSON, at most ``FRESH_SECONDS`` old.

        Cancellation: at any time; nothing has changed.
        """
        peers = (
            [] if is_alone else await self._around.peers.look(find)
        )  # outside of the lock: they look at us, too
        async with self._looking:
            now = trio.current_time()
            looked_at, kept = self._kept.get((find, is_alone), (float("-inf"), b""))
            if now - looked_at < FRESH_SECONDS or (kept and now < self._rest_until):
                return kept
            await trio.sleep_until(self._rest_until)
            body = await self._look(find, peers)
            self._kept[find, is_alone] = now, body
            if len(self._kept) > LOOKS_KEPT_MAX:
                del self._kept[min(self._kept, key=lambda key: self._kept[key][0])]
            return body

    async def _look(self, find: str, peers: list[OtherKeeperJson]) -> bytes:
        around = self._around
        began = trio.current_time()
        totals, timelines = TotalsJson(), list[TimelineJson]()
        if self._loaded is not None:
            totals, timelines = await look_at_timelines(self._loaded, find)
        overview = OverviewJson(
            time.time(),
            describe_keeper(around, self._watchers, None if self._loaded is None else self._loaded.room),
            totals,
            timelines,
            peers,
            list(around.events.latest()),
        )
        body = msgspec.json.encode(overview)
        took_seconds = trio.current_time() - began
        self._rest_until = trio.current_time() + took_seconds / SHARE_MAX
        return body


class Watch(Response):
    """An answer that does not end until whoever watches leaves."""

    def __init__(self, looks: Looks, find: str, *, is_alone: bool) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-store"})
        del self.headers["content-length"]
        self._looks = looks
        self._find = find
        self._is_alone = is_alone

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Cancellation: at any time; the answer ends in the middle."""
        with self._looks.watching():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_wait_gone, receive, nursery.cancel_scope)
                await self._watch(send)

    async def _watch(self, send: Send) -> NoReturn:
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        await send(start)
        while True:
            began = trio.current_time()
            event = b"data: " + await self._looks.look(self._find, is_alone=self._is_alone) + b"\n\n"
            await send({"type": "http.response.body", "body": event, "more_body": True})
            await trio.sleep_until(began + WATCH_SECONDS)


async def _wait_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel(reason="the watcher has gone")


def describe_keeper(around: Surroundings, watchers: int, room: Room | None) -> KeeperJson:
    """This process, as it is now."""
    config, readiness = around.config, around.readiness
    alive, disk, peaks = list(around.alive()), around.disk(), around.peaks()
    waiting = [check for check in readiness.checks() if check.problem]
    problems = diagnosis.of_keeper(
        waiting,
        [check for check in alive if check.problem],
        state=readiness.state,
        loop_lag_seconds=peaks.loop_lag_seconds,
        flush_seconds=peaks.flush_seconds,
        no_sync=config.no_sync,
        room=room,
    )
    return KeeperJson(
        id=config.id,
        version=walkeeper.__version__,
        http=config.listen_http_addr,
        pg=config.listen_pg_addr,
        started_at=around.started_at,
        is_ready=not waiting,
        checks=[CheckJson(check.name, check.problem) for check in (*readiness.checks(), *alive)],
        memory_bytes=resident_bytes(),
        loop_lag_peak_seconds=peaks.loop_lag_seconds,
        flush_peak_seconds=peaks.flush_seconds,
        disk_jobs=disk.running,
        disk_oldest_job_seconds=round(disk.oldest_seconds, 3),
        watchers=watchers,
        problems=list(problems),
        instance=around.instance,
        state=readiness.state,
    )


def resident_bytes() -> int:
    """How much memory this process has now (proc(5), statm)."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
