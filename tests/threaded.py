"""What blocks, such as starting a PostgreSQL, while tasks go on."""

from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")


async def blocking(work: Callable[..., T], *arguments: object) -> T:
    """Do something that blocks in a thread.

    Cancellation: waits for the thread; everything that is called here has a limit of its own.
    """
    return await trio.to_thread.run_sync(work, *arguments)
