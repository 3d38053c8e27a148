"""The OpenAPI document says what the routes do.  ``managed.check_is_documented`` holds every answer against it."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from managed import NODE, client_of
from walkeeper.control.api import ManagementApi
from walkeeper.control.app import create_app
from walkeeper.control.dump import KeeperConfig
from walkeeper.control.openapi import PATH, openapi_text

API = ManagementApi(KeeperConfig(id=NODE))
DOCUMENT: dict[str, Any] = msgspec.json.decode(openapi_text(API.endpoints()))
CHECKED_IN = Path(__file__).parents[3] / "docs" / "openapi.json"

WRITE_IT = (
    "from walkeeper.control import api, openapi;"
    " print(openapi.openapi_text(api.ManagementApi(None).endpoints()).decode(), end='')"
)


def test_the_document_that_is_checked_in_is_the_one_that_is_served() -> None:
    assert CHECKED_IN.read_bytes() == openapi_text(API.endpoints()), f'python -c "{WRITE_IT}" > docs/openapi.json'


async def test_the_document_is_served_even_before_the_timelines_are() -> None:
    async with client_of(create_app(API.routes())) as client:
        answer = await client.get(PATH)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == DOCUMENT


def test_every_route_is_in_the_document_and_no_other() -> None:
    routes = {
        (method.lower(), route.path)
        for route in API.routes()
        for method in route.methods or ()
        if method != "HEAD"
    }
    documented = {(method, path) for path, operations in DOCUMENT["paths"].items() for method in operations}
    assert documented == routes - {("get", PATH)}


def test_every_operation_has_a_name_of_its_own_and_its_parameters() -> None:
    operations = [
        (path, operation) for path, methods in DOCUMENT["paths"].items() for operation in methods.values()
    ]
    names = [operation["operationId"] for _, operation in operations]
    assert len(set(names)) == len(names) >= 15
    for path, operation in operations:
        named = [each["name"] for each in operation["parameters"] if each["in"] == "path"]
        assert named == re.findall(r"{(\w+)}", path)
        assert {"400", "503"} < set(operation["responses"])


def references(node: object) -> list[str]:
    match node:
        case {"$ref": str(target)}:
            return [target]
        case dict():
            return [each for value in node.values() for each in references(value)]
        case list():
            return [each for value in node for each in references(value)]
        case _:
            return []


def test_every_reference_leads_to_a_schema_and_every_schema_is_needed() -> None:
    schemas = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert set(references(DOCUMENT)) == schemas


@pytest.mark.parametrize(
    "name", ["CreateTimelineJson", "ConfigurationJson", "PatchJson", "TermBumpJson", "PeerJson"]
)
def test_what_is_taken_is_told_field_by_field(name: str) -> None:
    schema = DOCUMENT["components"]["schemas"][name]
    bodies = {each.body.__name__: each.body for each in API.endpoints() if each.body is not None}
    assert list(schema["properties"]) == list(bodies[name].__struct_fields__)
    assert set(schema["required"]) == {
        field.name for field in msgspec.structs.fields(bodies[name]) if field.required
    }
