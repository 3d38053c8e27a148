"""Is this process alive, and may it be sent work?

``/livez`` is answered by the event loop itself, so an answer proves that it turns; it fails when the disk has not
answered for so long that only a new process can help.  ``/readyz`` succeeds while the keeper serves; with
``?verbose`` either of them says, line by line, what it looked at.  During a drain the process is alive and not ready.

Does not decide what has to happen before the keeper serves: the daemon names that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


class Readiness:
    """What the keeper still waits for before it serves; empty means ready."""

    def __init__(self, *conditions: str) -> None:
        self._problems = dict.fromkeys(conditions, "not yet")

    def reached(self, condition: str) -> None:
        self._problems[condition] = ""

    def lost(self, condition: str, why: str) -> None:
        self._problems[condition] = why

    def checks(self) -> Sequence[Check]:
        return [Check(name, problem) for name, problem in self._problems.items()]


def health_routes(alive: Callable[[], Sequence[Check]], readiness: Readiness) -> list[Route]:
    """``/livez`` from ``alive`` and ``/readyz`` from ``readiness``."""

    async def livez(request: Request) -> Response:
        return _answer(request, [Check("event loop"), *alive()])

    async def readyz(request: Request) -> Response:
        return _answer(request, readiness.checks())

    return [Route("/livez", livez, methods=["GET"]), Route("/readyz", readyz, methods=["GET"])]


def _answer(request: Request, checks: Sequence[Check]) -> Response:
    failed = [check for check in checks if check.problem]
    shown = checks if "verbose" in request.query_params else failed
    lines = [*map(str, shown), "failed" if failed else "ok"]
    return PlainTextResponse("\n".join(lines) + "\n", 503 if failed else 200)
