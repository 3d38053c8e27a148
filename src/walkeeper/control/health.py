"""Is this process alive, and may it be sent work?

``/livez`` is answered by the event loop itself, so an answer proves that it turns; it fails when the disk has not
answered for so long that only a new process can help, and says which operation it is.  It never depends on other
keepers.  ``/readyz`` succeeds while the keeper serves, and names what it waits for; with ``?verbose`` either of them
says, line by line, all that it looked at.  During a drain the process is alive and not ready, and both say so.

Does not decide what has to happen before the keeper serves: the daemon names that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

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


class Ready(Protocol):
    """Who answers ``/readyz``."""

    @property
    def is_draining(self) -> bool: ...

    def checks(self) -> Sequence[Check]: ...


class Readiness:
    """What the keeper still waits for before it serves, and whether it serves no more."""

    def __init__(self, *conditions: str) -> None:
        self.is_draining = False
        self._problems = dict.fromkeys(conditions, "not yet")

    def reached(self, condition: str) -> None:
        self._problems[condition] = ""

    def drain(self, condition: str) -> None:
        """The keeper is leaving; ``condition`` holds no more."""
        self.is_draining = True
        self._problems[condition] = "draining"

    @property
    def serves(self) -> bool:
        return not any(self._problems.values())

    def checks(self) -> Sequence[Check]:
        return [Check(name, problem) for name, problem in self._problems.items()]


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
    well = "draining" if readiness.is_draining else "ok"
    lines = [*map(str, shown), "failed" if failed else well]
    return PlainTextResponse("\n".join(lines) + "\n", 503 if failed else 200)
