"""The management API: routes and what each of them does.

Every handler asks the timelines and translates; nothing is decided and nothing is remembered here.  What the
answers look like is ``models``, what errors look like is ``outcomes``.  A body that a route does not need is
ignored, since Neon's clients send one with most requests; only what deletes refuses it, as Neon does.

Source: Neon's safekeeper HTTP API.  Does not authenticate.
"""

from collections.abc import Callable
from contextlib import aclosing
from http import HTTPStatus
from typing import Final, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from walkeeper.control import models
from walkeeper.errors import Blown, Malformed
from walkeeper.ids import NodeId, TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import parse_lsn
from walkeeper.timeline.timelines import Timelines

Id = TypeVar("Id", TenantId, TimelineId)

BODY_BYTES_MAX: Final = 1024 * 1024
"""Most of a request body that is read: a configuration of thousands of members fits ten times."""


class ManagementApi:
    """The routes under ``/v1``.  All of them answer 503 until ``begin``, so that probes can be served before."""

    def __init__(self, node_id: NodeId) -> None:
        self._node_id = node_id
        self._loaded: Timelines | None = None

    def begin(self, timelines: Timelines) -> None:
        """Serve these timelines from now on."""
        self._loaded = timelines

    def _timelines(self) -> Timelines:
        if self._loaded is None:
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, "timelines are being loaded")
        return self._loaded

    def routes(self) -> list[Route]:
        return [
            Route("/v1/status", self.show_node, methods=["GET"]),
            Route("/v1/tenant/timeline", self.list_timelines, methods=["GET"]),
            Route("/v1/tenant/timeline", self.create_timeline, methods=["POST"]),
            Route("/v1/tenant/{tenant_id}/timeline/{timeline_id}", self.show_timeline, methods=["GET"]),
            Route("/v1/tenant/{tenant_id}/timeline/{timeline_id}", self.delete_timeline, methods=["DELETE"]),
            Route("/v1/tenant/{tenant_id}", self.delete_tenant, methods=["DELETE"]),
        ]

    async def show_node(self, _request: Request) -> Response:
        self._timelines()  # whoever starts a keeper takes this answer for the end of its start
        return json_response(models.NodeStatus(id=self._node_id))

    async def list_timelines(self, _request: Request) -> Response:
        return json_response([models.timeline_name(ttid) for ttid in self._timelines().ttids()])

    async def create_timeline(self, request: Request) -> Response:
        """Idempotent: a timeline that exists is left as it is, whatever the parameters."""
        wanted = models.parse_json(await read_body(request), models.CreateTimelineJson)
        configuration = models.configuration_of(wanted.mconf)
        start_lsn = parse_lsn(wanted.start_lsn)
        commit_lsn = start_lsn if wanted.commit_lsn is None else parse_lsn(wanted.commit_lsn)
        await self._timelines().create(
            wanted.ttid,
            wanted.server,
            configuration=configuration,
            start_lsn=start_lsn,
            commit_lsn=commit_lsn,
            revives=True,
        )
        return json_response(None)

    async def show_timeline(self, request: Request) -> Response:
        statistics = self._timelines().get(ttid_of(request)).statistics()
        if statistics.state is None:
            raise Blown(statistics.ttid)
        return json_response(models.timeline_status(statistics, statistics.state))

    async def delete_timeline(self, request: Request) -> Response:
        """Idempotent.  ``only_local`` says what is true anyway: there is no remote storage yet."""
        ttid = ttid_of(request)
        flag_in_query(request, "only_local")
        await require_no_body(request)
        return json_response(models.DeletedJson(dir_existed=await self._timelines().delete(ttid)))

    async def delete_tenant(self, request: Request) -> Response:
        tenant_id = _id_in_path(request, "tenant_id", TenantId.parse)
        flag_in_query(request, "only_local")
        await require_no_body(request)
        deleted = await self._timelines().delete_tenant(tenant_id)
        return json_response(
            {str(timeline_id): models.DeletedJson(dir_existed=existed) for timeline_id, existed in deleted.items()}
        )


def ttid_of(request: Request) -> TenantTimelineId:
    """The timeline that the path names.  Raises Malformed."""
    return TenantTimelineId(
        _id_in_path(request, "tenant_id", TenantId.parse), _id_in_path(request, "timeline_id", TimelineId.parse)
    )


def _id_in_path(request: Request, name: str, parse: Callable[[str], Id]) -> Id:
    try:
        return parse(request.path_params[name])
    except ValueError as error:
        raise Malformed(f"failed to parse {name}: {error}") from None


def flag_in_query(request: Request, name: str, *, default: bool = False) -> bool:
    """A parameter of the query that is ``true`` or ``false``.  Raises Malformed."""
    match set(request.query_params.getlist(name)):
        case values if not values:
            return default
        case values if values == {"true"}:
            return True
        case values if values == {"false"}:
            return False
        case values:
            raise Malformed(f"failed to parse {name}: {' and '.join(sorted(values))!r} is neither true nor false")


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
