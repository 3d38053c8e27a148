# Types for PyYAML, whose own are missing: what tests read manifests with.

from collections.abc import Iterator
from typing import Any

def safe_load_all(stream: str) -> Iterator[Any]: ...
def safe_dump_all(documents: object, *, sort_keys: bool = ...) -> str: ...
