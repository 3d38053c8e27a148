"""Is this process alive, and may it be sent work?

``/livez`` is answered by the event loop itself, so an answer proves that it turns; it fails when the disk has not
answered for so long that only a new process can help, and says which operation it is.  It never depends on other
keepers.  ``/readyz`` succeeds while the keeper serves and nothing hinders it, and names what it waits for; with
``?verbose`` either of them says, line by line, all that it looked at.  While it leaves, and during the drain, the process is
alive and not ready, and both say so.

Does not decide what has to happen before the keeper serves: the daemon names that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.  ``problem`` is empty when it was fine."""

    name: str
    problem: str = ""

    def __str__(self) -> str:
        return f"[-] {self.name}: {self.problem}" if self.problem else f"[+] {self.name}: ok"


State = Literal["starting", "serving", "leaving", "draining"]
"""Writers and readers are let in while it is serving or leaving."""

STAYS: Final = "not told to stop"

HEARD: Final = "the other keepers are heard"
"""While it is not so at the start, what is wrong is between the keepers, or with another one."""


class Ready(Protocol):
    """Who answers ``/readyz``."""

    @property
    def state(self) -> State: ...

    def checks(self) -> Sequence[Check]: ...


class Readiness:
    """What the keeper still waits for before it serves, what hinders it then, and whether it serves no more.

    ``conditions`` have to be reached once, before it serves at all.
    """

    def __init__(self, *conditions: str) -> None:
        self._waiting = dict.fromkeys(conditions, "not yet")
        self._hindrances: dict[str, str] = {}
        self._is_leaving = False
        self._is_draining = False

    def reached(self, condition: str) -> None:
        self._waiting[condition] = ""

    def hinder(self, condition: str, problem: str) -> None:
        """It serves, and is not what others may rely on, because of ``problem``; an empty one is none."""
        self._hindrances[condition] = problem

    def leave(self) -> None:
        """The keeper was told to stop, and serves until others can do without it."""
        self._is_leaving = True

    def drain(self, condition: str) -> None:
        """The keeper goes; ``condition`` holds no more."""
        self._is_draining = True
        self._waiting[condition] = "draining"

    @property
    def state(self) -> State:
        if self._is_draining:
            return "draining"
        if self._is_leaving:
            return "leaving"
        return "starting" if any(self._waiting.values()) else "serving"

    @property
    def is_ready(self) -> bool:
        """What ``/readyz`` says."""
        return not any(check.problem for check in self.checks())

    @property
    def is_hindered(self) -> bool:
        return any(self._hindrances.values())

    def checks(self) -> Sequence[Check]:
        found = [Check(name, problem) for name, problem in (*self._waiting.items(), *self._hindrances.items())]
        return [*found, Check(STAYS, "leaving")] if self.state == "leaving" else found


def health_routes(alive: Callable[[], Sequence[Check]], readiness: Ready) -> list[Route]:
    """``/livez`` from ``alive`` and ``/readyz`` from ``readiness``."""

    async def livez(request: Request) -> Response:
        return _answer(request, [Check("event loop"), *alive()], readiness)

    async def readyz(request: Request) -> Response:
        return _answer(request, readiness.checks(), readiness)

    return [Route("/livez", livez, methods=["GET"]), Route("/readyz", readyz, methods=["GET"])]


def _answer(request: Request, checks: Sequence[Check], readiness: Ready) -> Response:
    failed = [check for check in checks if check.problem]
    shown = checks if "verbose" in request.query_params else failed
    well = readiness.state if readiness.state in ("leaving", "draining") else "ok"
    lines = [*map(str, shown), "failed" if failed else well]
    return PlainTextResponse("\n".join(lines) + "\n", 503 if failed else 200)
