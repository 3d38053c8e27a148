"""Gates: where tokens are shown, and whose keys vouch for them; the keys are kept those of their files.

Files that cannot be read, or are half written, change nothing: the keys of before stay, and the log says so once.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import structlog
import trio

from walkeeper.auth.tokens import TokenVerifier, load_keys
from walkeeper.errors import ConfigError
from walkeeper.storage.offload import Offload

log = structlog.stdlib.get_logger()


@dataclass(frozen=True, slots=True)
class Gate:
    """A verifier, and where its keys are."""

    path: Path
    verifier: TokenVerifier

    @classmethod
    def open(cls, path: Path) -> Self:
        """With the keys that are there now.  Raises ConfigError when there are none that can be used."""
        return cls(path, TokenVerifier(load_keys(path)))


@asynccontextmanager
async def keeping_keys(gates: Iterable[Gate], offload: Offload, period_seconds: float) -> AsyncIterator[None]:
    """A block during which keys are read again every ``period_seconds``."""
    async with trio.open_nursery() as nursery:
        for gate in gates:
            nursery.start_soon(_keep_keys, gate, offload, period_seconds)
        yield
        nursery.cancel_scope.cancel(reason="shutdown")


async def _keep_keys(gate: Gate, offload: Offload, period_seconds: float) -> None:
    complaint = ""
    while True:
        await trio.sleep(period_seconds)
        try:
            keys = await offload(load_keys, gate.path)
        except ConfigError as error:
            if str(error) != complaint:
                complaint = str(error)
                log.warning("keys not reloaded, those of before are still valid", error=complaint)
            continue
        complaint = ""
        if [key.pem for key in keys] != [key.pem for key in gate.verifier.keys]:
            gate.verifier.keys = keys
            log.info("keys reloaded", path=str(gate.path), keys=[key.name for key in keys])
