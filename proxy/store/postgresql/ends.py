"""Stops background tasks by asking them to stop, because a statement that was sent must not be cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Final

__all__ = ["finish", "pause"]

#: How long to wait for an answer from the server.
_ANSWER_S: Final = 2.5


async def pause(end: asyncio.Event, seconds: float) -> None:
    """Wait that long, or until `end` is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await end.wait()


async def finish(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Wait for tasks that were asked to end; one that does not is cancelled."""
    left = set(tasks)
    if left:
        _, left = await asyncio.wait(left, timeout=_ANSWER_S)
    for task in left:
        task.cancel()
