"""Background tasks: none ends by a bug, and they are asked to stop, because a statement that was sent must not be
cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from proxy import log

__all__ = ["finish", "lasting", "pause"]

#: The pause after an unexpected exception.
_AGAIN_S: Final = 1.0


async def lasting(work: Callable[[], Awaitable[None]]) -> None:
    """Run `work`, which lasts until it is asked to end; start it again if a bug of ours ends it."""
    while True:
        try:
            return await work()
        except Exception as exc:  # noqa: BLE001 - whatever it is
            log.event("error", "unhandled exception in the journal", **log.exception_fields(exc))
        await asyncio.sleep(_AGAIN_S)


async def pause(end: asyncio.Event, seconds: float) -> None:
    """Wait that long, or until `end` is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await end.wait()


async def finish(tasks: Collection[asyncio.Task[None]]) -> None:
    """Wait for tasks that were asked to end. They are cancelled if nobody waits any longer."""
    try:
        if tasks:
            await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()
