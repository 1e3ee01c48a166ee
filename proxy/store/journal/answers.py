"""What is known of jobs and operators' actions: in the journal's file, and what waits to be written to it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from proxy.store.deeds import Deed, WaitingDeeds, with_waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.store.backlog import Backlog
    from proxy.store.journal.file import JournalFile
    from proxy.store.names import Name
    from proxy.store.record import Record

__all__ = ["Answers"]


class Answers:
    """Answers questions. Blocks, and belongs to the journal's thread. Raises sqlite3.Error, ValueError."""

    def __init__(
        self,
        file: JournalFile,
        backlog: Backlog,
        deeds: WaitingDeeds,
        *,
        ttl_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`ttl_s`: for how many seconds a finished job is remembered."""
        self._file = file
        self._backlog = backlog
        self._deeds = deeds
        self._ttl_s = ttl_s
        self._clock = clock

    def find(self, column: str, value: str | bytes) -> Record | None:
        """Return the job whose `column` (see `JournalFile.find`) is `value`."""
        return self._backlog.find(column, value) or self._file.find(column, value, self._remembered_since())

    def search(self, name: Name, below: int) -> tuple[Record | None, int]:
        """Return the newest job with this name, or where to go on (see `JournalFile.search`)."""
        kept = self._backlog.find_named(name)
        return (kept, 0) if kept else self._file.search(name, below, self._remembered_since())

    def unfinished(self) -> list[Record]:
        """Return the open jobs."""
        return self._file.unfinished()

    def last_failures(self, limit: int) -> list[Record]:
        """Return the last jobs that ended without a result, newest first."""
        return self._file.last_failures(limit, self._remembered_since())

    def oldest_end(self) -> float | None:
        """Return the end of the job that ended first, in Unix seconds; None: none has ended."""
        return self._file.oldest_end(self._remembered_since())

    def deeds(self, limit: int, before: int | None) -> list[Deed]:
        """Return operators' actions; those that cannot be written yet have the numbers that they will get."""
        stored = self._file.deeds(limit, before)
        last = max((deed.n for deed in self._file.deeds(1, None)), default=0)
        return with_waiting(stored, self._deeds.pending(), last, limit, before)

    def _remembered_since(self) -> float:
        return self._clock() - self._ttl_s
