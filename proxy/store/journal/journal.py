"""The store that outlives the process: the journal, as the event loop sees it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxy import log
from proxy.store.journal.file import JournalFile
from proxy.store.journal.writer_thread import Find, Put, Unfinished, Writer

if TYPE_CHECKING:
    from proxy.store.record import Record

__all__ = ["Journal", "JournalStats"]

_CLOSE_S: Final = 2.0
#: Something noted is written after this time, or twice that, unless more is recorded of its job before: most callbacks
#: come sooner, and then it costs nothing.
_NOTE_S: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalStats:
    """How the journal does."""

    queued: int
    backlog: int
    commits: int
    failures: int
    written: int
    given_up: int
    expired: int
    #: The file and its write-ahead log.
    size_bytes: int


class Journal:
    """A `JobStore` on a file. Nothing here blocks: the thread in writer_thread.py does the reading and writing."""

    def __init__(self, file: JournalFile, *, ttl_s: float) -> None:
        """Take over an open file; must run inside an event loop."""
        self._loop = asyncio.get_running_loop()
        self._trouble = ""
        self._path = str(file.path)
        #: What is noted and not yet ordered: the newest record of each job, by the span in which it was noted.
        self._notes: dict[str, Record] = {}
        self._older_notes: dict[str, Record] = {}
        self._notes_timer: asyncio.TimerHandle | None = None
        self.writer = Writer(file, loop=self._loop, ttl_s=ttl_s, on_trouble=self._on_trouble)

    @property
    def trouble(self) -> str:
        """See `JobStore.trouble`."""
        return self._trouble

    def stats(self) -> JournalStats:
        """Return how the journal does now."""
        writer = self.writer
        return JournalStats(
            queued=writer.queued,
            backlog=writer.backlog,
            commits=writer.commits,
            failures=writer.failures,
            written=writer.written,
            given_up=writer.given_up,
            expired=writer.expired,
            size_bytes=_size_bytes(self._path) + _size_bytes(f"{self._path}-wal"),
        )

    def put(self, record: Record, *, keep: bool = False) -> asyncio.Future[None]:
        """See `JobStore.put`."""
        noted = self._notes.pop(record.id, None) or self._older_notes.pop(record.id, None)
        if record.finished_at is None:
            self.writer.open.add(record.id)
        else:
            self.writer.open.discard(record.id)
        done: asyncio.Future[None] = self._loop.create_future()
        self.writer.order(Put(record=record, keep=keep or noted is not None, done=done))
        return done

    def note(self, record: Record) -> None:
        """See `JobStore.note`."""
        self._older_notes.pop(record.id, None)
        self._notes[record.id] = record
        if self._notes_timer is None:
            self._notes_timer = self._loop.call_later(_NOTE_S, self._end_span)

    async def by_id(self, job_id: str) -> Record | None:
        """See `JobStore.by_id`."""
        return await self._find("id", job_id)

    async def by_token(self, hashed: bytes) -> Record | None:
        """See `JobStore.by_token`."""
        return await self._find("token_hash", hashed)

    async def by_key(self, key: bytes) -> Record | None:
        """See `JobStore.by_key`."""
        return await self._find("key", key)

    async def unfinished(self) -> list[Record]:
        """See `JobStore.unfinished`."""
        self._order_notes()
        done: asyncio.Future[list[Record]] = self._loop.create_future()
        self.writer.order(Unfinished(done=done))
        return await done

    async def close(self) -> None:
        """See `JobStore.close`. Waits for at most `_CLOSE_S`."""
        self._order_notes()
        self.writer.hand_over()
        await asyncio.to_thread(self.writer.close, _CLOSE_S)

    def _end_span(self) -> None:
        self._order(self._older_notes)
        self._notes, self._older_notes = self._older_notes, self._notes
        self._notes_timer = self._loop.call_later(_NOTE_S, self._end_span) if self._older_notes else None

    def _order_notes(self) -> None:
        self._order(self._older_notes)
        self._order(self._notes)

    def _order(self, notes: dict[str, Record]) -> None:
        for record in notes.values():
            self.writer.order(Put(record=record, keep=True, done=None))
        notes.clear()

    async def _find(self, column: str, value: str | bytes) -> Record | None:
        self._order_notes()  # who asks finds what was noted before
        done: asyncio.Future[Record | None] = self._loop.create_future()
        self.writer.order(Find(column=column, value=value, done=done))
        return await done

    def _on_trouble(self, trouble: str) -> None:
        self._trouble = trouble
        if trouble:
            log.event("error", "new jobs are refused until the journal can be written", file=self._path, reason=trouble)
        else:
            given_up = self.writer.given_up
            log.event("info", "the journal can be written again", file=self._path, jobs_not_recorded=given_up)


def _size_bytes(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0
