"""A store with jobs that an earlier front end left open."""

from __future__ import annotations

from proxy.store.memory import MemoryStore
from proxy.store.record import Record

__all__ = ["LeftOpenStore"]


class LeftOpenStore(MemoryStore):
    """Remembers these jobs, and their later records."""

    def __init__(self, *records: Record) -> None:
        super().__init__(3600)
        for record in records:
            self.note(record)

    async def unfinished(self) -> list[Record]:
        """Return the open jobs."""
        return list(self._open.values())
