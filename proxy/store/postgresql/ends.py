"""Stops background tasks by asking them to stop, because a statement that was sent must not be cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection

__all__ = ["finish", "pause"]


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
