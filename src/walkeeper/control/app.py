"""The ASGI application: the routes, and what every request goes through.

A request is given its id, which its log lines and its answer carry; an error becomes an answer; an unknown path
and a known one with the wrong method are the same 404, as Neon's router has it; OPTIONS is 204.

This is the boundary of a request: an error that has no name is logged with its traceback, answered with 500, and
ends nothing else.  Does not listen: ``server`` does.
"""

import uuid
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

import structlog
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from walkeeper.control.endpoints import json_response
from walkeeper.control.models import ErrorJson
from walkeeper.control.outcomes import body_of, status_of
from walkeeper.errors import AccessDenied, StorageError, WalkeeperError
from walkeeper.links.throttle import throttled_logger

REQUEST_ID: Final = "x-request-id"

log = structlog.stdlib.get_logger()
denials = throttled_logger()


def create_app(routes: Sequence[BaseRoute]) -> Starlette:
    """Wrap ``routes`` into an ASGI application."""
    app = Starlette(
        routes=routes,
        middleware=[Middleware(RequestBoundary)],
        exception_handlers={WalkeeperError: answer_error, HTTPException: answer_http_exception},
    )
    app.router.redirect_slashes = False
    return app


async def answer_error(_request: Request, error: Exception) -> Response:
    """A named error as status and JSON."""
    assert isinstance(error, WalkeeperError)
    if isinstance(error, AccessDenied):
        denials.warning("access denied", why=error.why)
    elif isinstance(error, StorageError):
        log.error("request failed", exc_info=error)
    else:
        log.info("request failed", exc_info=error)
    return json_response(body_of(error), status_of(error))


async def answer_http_exception(_request: Request, error: Exception) -> Response:
    """What routing and reading raise: no such path, no such method, a body too large."""
    assert isinstance(error, HTTPException)
    if error.status_code in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
        return PlainTextResponse("Not Found", HTTPStatus.NOT_FOUND)
    response = json_response(ErrorJson(msg=error.detail), error.status_code)
    response.headers.update(error.headers or {})
    return response


class RequestBoundary:
    """Everything around the routes: the request id, the log lines, the last resort."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = Headers(scope=scope).get(REQUEST_ID) or str(uuid.uuid4())
        answer = Answer(send, request_id)
        with structlog.contextvars.bound_contextvars(
            request_id=request_id, method=scope["method"], path=scope["path"]
        ):
            await self._handle(scope, receive, answer)

    async def _handle(self, scope: Scope, receive: Receive, answer: "Answer") -> None:
        changes = scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if changes:
            log.info("request begins")
        try:
            if scope["method"] == "OPTIONS":
                await Response(status_code=HTTPStatus.NO_CONTENT)(scope, receive, answer.send)
            else:
                await self._app(scope, receive, answer.send)
        except Exception:  # the boundary of a request
            log.exception("request failed unexpectedly")
            if answer.status is None:
                failure = json_response(ErrorJson(msg="internal error"), HTTPStatus.INTERNAL_SERVER_ERROR)
                await failure(scope, receive, answer.send)
        if changes:
            log.info("request ends", status=answer.status)


class Answer:
    """The way back to the client: adds the request id, remembers the status."""

    def __init__(self, send: Send, request_id: str) -> None:
        self.status: int | None = None
        self._send = send
        self._request_id = request_id

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            MutableHeaders(scope=message)[REQUEST_ID] = self._request_id
        await self._send(message)
