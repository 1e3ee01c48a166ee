"""Records that may be written later: the newest of each job, unless a durable write of the job comes first."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from proxy.store.record import Record

__all__ = ["Notes"]

#: A note stays for this time at least, and for less than twice as long: many callbacks come sooner, and then it costs
#: nothing.
_STAY_S: Final = 0.1


class Notes:
    """The notes of one store. Those of the last while, and those before them, whose time is over first."""

    def __init__(self, on_due: Callable[[list[Record]], None], is_held: Callable[[], bool] = lambda: False) -> None:
        """`on_due` gets those whose time is over, unless they are held; must run inside an event loop."""
        self._loop = asyncio.get_running_loop()
        self._on_due = on_due
        self._is_held = is_held
        self._older: dict[str, Record] = {}
        self._newer: dict[str, Record] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Return of how many jobs there is one."""
        return len(self._older) + len(self._newer)

    def __iter__(self) -> Iterator[Record]:
        """Go through all of them."""
        yield from self._older.values()
        yield from self._newer.values()

    def __contains__(self, job_id: str) -> bool:
        """Return whether there is one of this job."""
        return job_id in self._older or job_id in self._newer

    def add(self, record: Record) -> None:
        """Keep a record, in place of an earlier one; a job that is noted again and again waits no longer for that."""
        notes = self._older if record.id in self._older else self._newer
        notes[record.id] = record
        self._set_timer()

    def add_earlier(self, records: Iterable[Record]) -> None:
        """Keep records that came before all notes: of a job with a note, that counts."""
        for record in records:
            if record.id not in self:
                self.add(record)

    def pop(self, job_id: str) -> bool:
        """Drop the note of a job that more is put of; return whether there was one."""
        return (self._older.pop(job_id, None) or self._newer.pop(job_id, None)) is not None

    def take_all(self) -> list[Record]:
        """Return all of them, which are none any more."""
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
