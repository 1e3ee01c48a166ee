"""Records that may be written later: the newest of each job, unless a durable write of the job comes first."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from proxy.store.record import Record

__all__ = ["Notes"]

#: A note is due after this time at least, and after twice as long at most. Many callbacks come sooner; then the note is
#: never written.
_STAY_S: Final = 0.1


class Notes:
    """The notes of one store, in two generations: the older ones are due first."""

    def __init__(self, on_due: Callable[[list[Record]], None], is_held: Callable[[], bool] = lambda: False) -> None:
        """`on_due` gets the notes that are due, unless `is_held` returns true. Must run inside an event loop."""
        self._loop = asyncio.get_running_loop()
        self._on_due = on_due
        self._is_held = is_held
        self._older: dict[str, Record] = {}
        self._newer: dict[str, Record] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Return the number of jobs with a note."""
        return len(self._older) + len(self._newer)

    def __iter__(self) -> Iterator[Record]:
        """Iterate over all notes, the older ones first."""
        yield from self._older.values()
        yield from self._newer.values()

    def __contains__(self, job_id: str) -> bool:
        """Return whether this job has a note."""
        return job_id in self._older or job_id in self._newer

    def add(self, record: Record) -> None:
        """Add a note, in place of an earlier one of the same job, whose due time it keeps."""
        notes = self._older if record.id in self._older else self._newer
        notes[record.id] = record
        self._set_timer()

    def add_earlier(self, records: Iterable[Record]) -> None:
        """Add records that are older than all notes; one whose job already has a note is ignored."""
        for record in records:
            if record.id not in self:
                self.add(record)

    def pop(self, job_id: str) -> bool:
        """Drop the note of a job; return whether there was one."""
        return (self._older.pop(job_id, None) or self._newer.pop(job_id, None)) is not None

    def take_all(self) -> list[Record]:
        """Remove all notes and return them."""
        taken = list(self)
        self._older, self._newer = {}, {}
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return taken

    def _set_timer(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(_STAY_S, self._look)

    def _look(self) -> None:
        self._timer = None
        due: list[Record] = []
        if not self._is_held():
            due = list(self._older.values())
            self._older, self._newer = self._newer, {}
        if self:
            self._set_timer()
        if due:
            self._on_due(due)
