"""The names that pg_waldump prints."""

import pytest

from walkeeper.formats.resource_managers import resource_manager_name


@pytest.mark.parametrize(
    ("rmid", "name"),
    [
        (0, "XLOG"),
        (10, "Heap"),
        (21, "LogicalMessage"),
        (22, "unknown022"),
        (128, "custom128"),
        (255, "custom255"),
    ],
)
def test_a_resource_manager_is_called_as_pg_waldump_calls_it(rmid: int, name: str) -> None:
    assert resource_manager_name(rmid) == name
