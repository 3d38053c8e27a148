"""Whatever the OpenAPI document allows, and much that it does not, is sent to a keeper: its answers are as documented.

No request is answered with a server error but 501 and 503, none is left without an answer, and afterwards the keeper is as
healthy as before and no larger.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance, unsupported_method

import postgres
from programs import Keeper

EXAMPLES = 25
ANSWER_SECONDS = 10.0
GROWTH_BYTES_MAX = 64 << 20

TENANT, TIMELINE = "a" * 32, "b" * 32
CREATION = {
    "tenant_id": TENANT,
    "timeline_id": TIMELINE,
    "mconf": {"generation": 1, "members": [{"id": 1, "host": "localhost", "pg_port": 5454}], "new_members": None},
    "pg_version": 160_002,
    "wal_seg_size": 1 << 20,
    "start_lsn": "0/1000000",
    "commit_lsn": None,
}

document = json.loads((Path(__file__).parents[2] / "docs" / "openapi.json").read_text())

NOT_PROMISED = [
    unsupported_method,  # 404, as the original answers
    positive_data_acceptance,  # what is well-formed may still make no sense, and 1.0 is no whole number to Neon's clients
    not_a_server_error,  # all but these
]
MAY_BE_ANSWERED = {501, 503}
schema = schemathesis.openapi.from_dict(document)


@pytest.fixture(scope="module")
def keeper() -> Iterator[Keeper]:
    """With one timeline.  In the end it serves as in the beginning."""
    with postgres.workspace() as directory:
        pg_port, http_port = postgres.free_ports(2)
        with Keeper.prepare(directory, 1, pg_port, http_port, "--no-sync") as keeper:
            keeper.start()
            keeper.wait_ready()
            create(keeper)
            before = resident_bytes(keeper)
            yield keeper
            assert keeper.status("/readyz") == 200
            assert resident_bytes(keeper) - before < GROWTH_BYTES_MAX
            assert "failed unexpectedly" not in keeper.log


def url_of(keeper: Keeper) -> str:
    return f"http://{keeper.host}:{keeper.http_port}"


def create(keeper: Keeper) -> None:
    request = Request(f"{url_of(keeper)}/v1/tenant/timeline", json.dumps(CREATION).encode())
    with urlopen(request, timeout=ANSWER_SECONDS) as answer:
        assert answer.status == 200


def resident_bytes(keeper: Keeper) -> int:
    pages = int(Path(f"/proc/{keeper.pid}/statm").read_text().split()[1])
    return pages * 4096


def speak_of_what_exists(case: "Case[Any]") -> None:
    """Most ids are of nothing: half of the cases get those of the timeline that is there, except to delete it."""
    known = {"tenant_id": TENANT, "timeline_id": TIMELINE}
    if case.method != "DELETE":
        case.path_parameters = {name: known.get(name, value) for name, value in case.path_parameters.items()}


@schema.parametrize()
@pytest.mark.parametrize("exists", [True, False], ids=["a timeline that is there", "any ids"])
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_one_that_the_document_tells(case: "Case[Any]", keeper: Keeper, exists: bool) -> None:
    if exists:
        speak_of_what_exists(case)
    response = case.call(base_url=url_of(keeper), timeout=ANSWER_SECONDS)
    assert response.status_code < 500 or response.status_code in MAY_BE_ANSWERED
    case.validate_response(response, excluded_checks=NOT_PROMISED)
