"""A route of the management API as a value: what it takes, what it does, what it answers.

The same value makes the route and its part of the OpenAPI document (``openapi``), so that one says what the other does:
a body is read here and given to the handler in the shape that the document tells.

Does not know any particular route: those are ``api``'s.
"""

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from walkeeper.auth.claims import Verify
from walkeeper.control import models
from walkeeper.control.access import claims_of
from walkeeper.errors import Malformed
from walkeeper.ids import TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import Lsn, parse_lsn

Id = TypeVar("Id", TenantId, TimelineId)

BODY_BYTES_MAX: Final = 1024 * 1024
"""Most of a request body that is read: a configuration of thousands of members fits ten times."""


Whose = Callable[[Request, Any], TenantId | None]
"""Of which tenant a request, and its body, speak; None: of the whole keeper."""


def tenant_id_of(request: Request) -> TenantId:
    """The tenant that the path names.  Raises Malformed."""
    return _id_in_path(request, "tenant_id", TenantId.parse)


def _id_in_path(request: Request, name: str, parse: Callable[[str], Id]) -> Id:
    try:
        return parse(request.path_params[name])
    except ValueError as error:
        raise Malformed(f"failed to parse {name}: {error}") from None


def tenant_in_path(request: Request, _body: Any) -> TenantId | None:
    return tenant_id_of(request)


def whole_keeper(_request: Request, _body: Any) -> TenantId | None:
    return None


@dataclass(frozen=True, slots=True)
class Parameter:
    """One of the query's.  ``kind`` is the type of its values."""

    name: str
    kind: Any
    meaning: str
    is_required: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``body``: the shape of the body, None where it is ignored; ``answer``: of the JSON that comes with 200.

    A handler may give a response that it has made itself, of that JSON.  ``refuses_body``: it must not even have one.  ``statuses``: what it may answer besides 200, 400 and 503.
    ``whose``: the tenant whose token is enough where tokens are asked for; None: only one for the whole keeper is, and
    without such a function nobody needs one.
    """

    method: str
    path: str
    handle: Callable[[Request, Any], Awaitable[models.Answer | Response]]
    meaning: str
    answer: Any
    body: Any = None
    refuses_body: bool = False
    parameters: tuple[Parameter, ...] = ()
    statuses: tuple[HTTPStatus, ...] = ()
    whose: Whose | None = tenant_in_path

    def route(self, verify: Verify | None) -> Route:
        """Where it is served; with ``verify`` to those who show a token."""

        async def serve(request: Request) -> Response:
            return await self.serve(request, verify)

        return Route(self.path, serve, methods=[self.method])

    async def serve(self, request: Request, verify: Verify | None) -> Response:
        """Cancellation: before the handler nothing has happened; then as the handler says."""
        body, claims = None, None
        if verify is not None and self.whose is not None:
            claims = claims_of(request, verify)
        if self.refuses_body:
            await require_no_body(request)
        elif self.body is not None:
            body = models.parse_json(await read_body(request), self.body)
        if claims is not None and self.whose is not None:
            claims.require(self.whose(request, body))
        answer = await self.handle(request, body)
        return answer if isinstance(answer, Response) else json_response(answer)


# -- what a request says --------------------------------------------------------------------------------------


def ttid_of(request: Request) -> TenantTimelineId:
    """The timeline that the path names.  Raises Malformed."""
    return TenantTimelineId(tenant_id_of(request), _id_in_path(request, "timeline_id", TimelineId.parse))


def id_in_query(request: Request, name: str, parse: Callable[[str], Id]) -> Id | None:
    """None if it is not there.  Raises Malformed."""
    value = text_in_query(request, name)
    try:
        return None if value is None else parse(value)
    except ValueError as error:
        raise Malformed(f"failed to parse {name}: {error}") from None


def require_known_query(request: Request, *names: str) -> None:
    """Raises Malformed for a parameter that has another name."""
    if unknown := sorted(set(request.query_params) - set(names)):
        raise Malformed(f"failed to parse the query: unknown parameter {unknown[0]!r}")


def flag_in_query(request: Request, name: str, *, default: bool = False) -> bool:
    """A parameter of the query that is ``true`` or ``false``.  Raises Malformed."""
    match text_in_query(request, name):
        case None:
            return default
        case "true":
            return True
        case "false":
            return False
        case value:
            raise Malformed(f"failed to parse {name}: {value!r} is neither true nor false")


def lsn_in_query(request: Request, name: str) -> Lsn:
    """Raises Malformed, also when there is none."""
    value = text_in_query(request, name)
    if value is None:
        raise Malformed(f"failed to parse {name}: it is missing")
    try:
        return parse_lsn(value)
    except ValueError as error:
        raise Malformed(f"failed to parse {name}: {error}") from None


def text_in_query(request: Request, name: str) -> str | None:
    """A parameter may be repeated, not contradicted.  Raises Malformed."""
    values = set(request.query_params.getlist(name))
    if len(values) > 1:
        raise Malformed(f"failed to parse {name}: it says several things")
    return values.pop() if values else None


async def require_no_body(request: Request) -> None:
    """Raises Malformed if there is one.  Cancellation: as ``read_body``."""
    if await read_body(request):
        raise Malformed("unexpected request body")


async def read_body(request: Request) -> bytes:
    """Raises HTTPException 413 for a body above the limit.

    Cancellation: at any time; nothing has been begun.
    """
    body = bytearray()
    async with aclosing(request.stream()) as pieces:
        async for piece in pieces:
            body += piece
            if len(body) > BODY_BYTES_MAX:
                too_large = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
                raise HTTPException(too_large, f"a request body may have {BODY_BYTES_MAX} bytes at most")
    return bytes(body)


def json_response(value: models.Answer, status: int = 200) -> Response:
    return Response(models.encode_json(value), status, media_type="application/json")
