"""A store that does its part, or does not, as a test says."""

from __future__ import annotations

import asyncio

from proxy.store.memory import MemoryStore
from proxy.store.record import Record
from shared.errors import StoreUnavailableError
from shared.lifecycle import State

__all__ = ["FailingStore"]


class FailingStore(MemoryStore):
    """Remembers what it is told, but fails, or never is done, on request."""

    def __init__(self) -> None:
        super().__init__(3600)
        #: Nothing can be recorded or found.
        self.failing = False
        #: Whoever waits for something to be recorded waits for ever.
        self.hanging = False
        #: What was put, and whether it is to be kept; what was noted.
        self.puts: list[tuple[Record, bool]] = []
        self.notes: list[Record] = []

    def states(self) -> list[State]:
        """Return the newest state of each job that is not over."""
        return [record.state for record in self._open.values()]

    def put(self, record: Record, *, keep: bool = False) -> asyncio.Future[None]:
        """Record, or do as the test says."""
        self.puts.append((record, keep))
        if not (self.failing or self.hanging):
            return super().put(record)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.failing:
            done.set_exception(StoreUnavailableError("the disk is full"))
            done.exception()
        return done

    def note(self, record: Record) -> None:
        """Record what is noted."""
        self.notes.append(record)
        super().note(record)

    async def by_id(self, job_id: str) -> Record | None:
        """Find a job, or fail."""
        self._check()
        return await super().by_id(job_id)

    async def by_token(self, hashed: bytes) -> Record | None:
        """Find a job, or fail."""
        self._check()
        return await super().by_token(hashed)

    async def by_key(self, key: bytes) -> Record | None:
        """Find a job, or fail."""
        self._check()
        return await super().by_key(key)

    def _check(self) -> None:
        if self.failing:
            raise StoreUnavailableError("the disk is full")
