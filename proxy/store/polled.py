"""Waits for the end of a job by polling: for stores that do not need anything faster."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from shared.errors import StoreUnavailableError
from shared.lifecycle import State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.store.record import Record

__all__ = ["polled_end"]

_EVERY_S: Final = 0.25


async def polled_end(by_id: Callable[[str], Awaitable[Record | None]], job_id: str) -> Record:
    """Return the job once `by_id` says that it has ended. See `JobStore.ended`."""
    while True:
        with contextlib.suppress(StoreUnavailableError):
            record = await by_id(job_id)
            if record is not None and record.state is State.FINISHED:
                return record
        await asyncio.sleep(_EVERY_S)
