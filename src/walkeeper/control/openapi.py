"""The OpenAPI document of the management API, made of the very values that the routes are made of.

It is served under ``/openapi.json``, and ``docs/openapi.json`` is a copy of it that a test compares.

Does not know any particular route.  Source: OpenAPI Specification 3.1.1.
"""

import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from walkeeper.control.endpoints import Endpoint
from walkeeper.control.models import U64, ErrorJson, Hex

PATH: Final = "/openapi.json"

API_VERSION: Final = "1"
"""That of the paths, /v1: what is added does not change it."""

ALWAYS_POSSIBLE: Final = (HTTPStatus.BAD_REQUEST, HTTPStatus.SERVICE_UNAVAILABLE)
"""Whatever is asked may mean nothing, or come while nothing can be served."""

PATH_PARAMETERS: Final = {
    "tenant_id": Hex,
    "timeline_id": Hex,
    "destination_id": U64,
}

_REFERENCE: Final = "#/components/schemas/{name}"


def openapi_document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The document as JSON, to be encoded."""
    schemas = Schemas(endpoints)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schemas)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "walkeeper",
            "version": API_VERSION,
            "description": "The management API of a keeper, as of Neon's safekeeper; see docs/http-api.md.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def openapi_text(endpoints: Sequence[Endpoint]) -> bytes:
    """The document for people, and for version control."""
    return msgspec.json.format(msgspec.json.encode(openapi_document(endpoints)), indent=2) + b"\n"


class Schemas:
    """The JSON schemas of everything that endpoints take and give: named ones as components, and references to them."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        kinds = [kind for endpoint in endpoints for kind in _kinds_of(endpoint)]
        schemas, components = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
        self.components = dict(sorted(components.items()))
        self._schemas = list(zip(kinds, schemas, strict=True))

    def of(self, kind: Any) -> dict[str, Any]:
        return next(schema for known, schema in self._schemas if known == kind)


def _kinds_of(endpoint: Endpoint) -> list[Any]:
    kinds = [endpoint.answer, endpoint.body, ErrorJson]
    kinds += (parameter.kind for parameter in endpoint.parameters)
    return kinds + [PATH_PARAMETERS[name] for name in _names_in(endpoint.path)]


def _names_in(path: str) -> list[str]:
    return re.findall(r"{(\w+)}", path)


def _operation(endpoint: Endpoint, schemas: Schemas) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.method.lower()
        + re.sub(r"\W+", "_", endpoint.path.removeprefix("/v1")).rstrip("_"),
        "summary": endpoint.meaning,
        "parameters": _parameters(endpoint, schemas),
        "responses": _responses(endpoint, schemas),
    }
    if endpoint.whose is not None:
        operation["security"] = [{"token": []}, {}]  # a keeper without keys asks for none
    if endpoint.body is not None:
        operation["requestBody"] = {"required": True, "content": _json(schemas.of(endpoint.body))}
    return operation


def _parameters(endpoint: Endpoint, schemas: Schemas) -> list[dict[str, Any]]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": schemas.of(PATH_PARAMETERS[name])}
        for name in _names_in(endpoint.path)
    ]
    in_query = [
        {
            "name": parameter.name,
            "in": "query",
            "required": parameter.is_required,
            "description": parameter.meaning,
            "schema": schemas.of(parameter.kind),
        }
        for parameter in endpoint.parameters
    ]
    return [*in_path, *in_query]


def _responses(endpoint: Endpoint, schemas: Schemas) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status in possible_statuses(endpoint):
        answer = endpoint.answer if status is HTTPStatus.OK else ErrorJson
        responses[str(int(status))] = {"description": status.phrase, "content": _json(schemas.of(answer))}
    return responses


def possible_statuses(endpoint: Endpoint) -> list[HTTPStatus]:
    """All that an endpoint may answer, in order."""
    return sorted(
        {*endpoint.statuses, *ALWAYS_POSSIBLE, *_successes(endpoint), *_sizes(endpoint), *_denials(endpoint)}
    )


def _successes(endpoint: Endpoint) -> tuple[HTTPStatus, ...]:
    return () if HTTPStatus.NOT_IMPLEMENTED in endpoint.statuses else (HTTPStatus.OK,)


def _denials(endpoint: Endpoint) -> tuple[HTTPStatus, ...]:
    return () if endpoint.whose is None else (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


def _sizes(endpoint: Endpoint) -> tuple[HTTPStatus, ...]:
    reads_body = endpoint.refuses_body or endpoint.body is not None
    return (HTTPStatus.REQUEST_ENTITY_TOO_LARGE,) if reads_body else ()


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
