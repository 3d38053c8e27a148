"""The recorded sessions of tests/vectors: messages with the fields that their recorder decoded."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parent / "vectors"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One message: its raw bytes, and what they mean."""

    raw: bytes
    fields: dict[str, Any]

    @property
    def from_client(self) -> bool:
        return bool(self.fields["dir"] == "c2s")

    @property
    def kind(self) -> str:
        """``ProposerGreeting`` and the like for CopyData, else the frame's tag or the startup packet's name."""
        return str(self.fields.get("msg", self.fields["type"]))


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection of a session."""

    name: str
    proto_version: int
    messages: tuple[Recorded, ...]

    def bytes_from(self, *, client: bool) -> bytes:
        """All that one side sent."""
        return b"".join(message.raw for message in self.messages if message.from_client is client)


@cache
def connections() -> tuple[Connection, ...]:
    return tuple(found for index in sorted(VECTORS.glob("*.json")) for found in _read(index))


def _read(index: Path) -> Iterator[Connection]:
    for described in json.loads(index.read_text())["connections"]:
        raw = (VECTORS / described["file"]).read_bytes()
        messages = tuple(
            Recorded(raw[fields["off"] : fields["off"] + fields["len"]], fields)
            for fields in described["messages"]
        )
        yield Connection(described["file"].removesuffix(".bin"), described["proto_version"], messages)


def messages(kind: str) -> list[tuple[int, Recorded]]:
    """All messages of one kind, with the protocol version of their connection."""
    return [
        (connection.proto_version, message)
        for connection in connections()
        for message in connection.messages
        if message.kind == kind
    ]
