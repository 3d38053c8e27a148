"""Keeps the keys of a verifier those of their files, without a restart.

Files that cannot be read, or are half written, change nothing: the keys of before stay, and the log says so once.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
import trio

from walkeeper.auth.reload import Look, reloadable
from walkeeper.auth.tokens import TokenVerifier, load_keys
from walkeeper.errors import ConfigError
from walkeeper.storage.offload import Offload

log = structlog.stdlib.get_logger()


@asynccontextmanager
async def keeping_keys(
    verifier: TokenVerifier, path: Path, period_seconds: float, offload: Offload
) -> AsyncIterator[None]:
    """A block during which the keys at ``path`` are read again every ``period_seconds``; infinity: only when asked."""

    async def look() -> None:
        keys = await offload(load_keys, path)
        if keys != verifier.keys:
            verifier.keys = keys
            log.info("keys reloaded", path=str(path), keys=[key.name for key in keys])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_keep, look, period_seconds, name=f"keep keys of {path}")
        with reloadable(f"keys of {path}", look):
            yield
        nursery.cancel_scope.cancel(reason="shutdown")


async def _keep(look: Look, period_seconds: float) -> None:
    complaint = ""
    while True:
        await trio.sleep(period_seconds)
        try:
            await look()
            complaint = ""
        except ConfigError as error:
            if str(error) != complaint:
                complaint = str(error)
                log.warning("keys not reloaded, those of before are still valid", error=complaint)
