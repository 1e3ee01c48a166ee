"""The store that survives the process, as seen from the event loop: orders go to a thread in batches.

Whoever has something to record or to look up queues an order and continues. The thread has one batch at a time, and
what accumulates in the meantime is the next: one hand-over, one statement, one commit, one wake-up of the event loop.
Each of these costs more than the contents of a batch, and even more when both threads want the GIL. So the pause
between batches grows with the number of open jobs, since more orders accumulate then: a single job waits for nobody,
and a burst needs few commits.

A disk can hang for any time. A batch that takes longer than `_SILENT_S` is trouble: whoever waits is told, new jobs are
refused, and the orders are still carried out when the disk responds again.
"""

from __future__ import annotations

import asyncio
import queue
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxy import log
from proxy.store.journal.writer_thread import Find, Order, Put, Unfinished, WriterThread
from proxy.store.protocol import Reading
from shared.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from proxy.store.journal.file import JournalFile
    from proxy.store.record import Record

__all__ = ["Journal"]

_CLOSE_S: Final = 2.0
#: The least time between the start of two batches: this much for each open job but one, up to the second figure.
_PACE_S: Final = 0.0005
_LONGEST_PACE_S: Final = 0.004
#: Something noted is ordered within this time, unless more is recorded of its job before: many callbacks come sooner,
#: and then it costs nothing.
_NOTE_S: Final = 0.1
#: A batch that takes this long is not just slow.
_SILENT_S: Final = 1.0
#: Longer than the event loop may take to receive what the thread reported, in case the process itself was stopped.
_CONFIRM_S: Final = 0.1


class Journal:
    """A `JobStore` on a file. Nothing here blocks: the thread in writer_thread.py reads and writes."""

    def __init__(self, file: JournalFile, *, ttl_s: float) -> None:
        """Take over an open file; must run inside an event loop."""
        self._loop = asyncio.get_running_loop()
        self._path = str(file.path)
        self._trouble = ""
        self._silent = False
        #: Unfinished jobs by id, if they were put here.
        self._open: set[str] = set()
        #: Notes that have not been ordered yet: the newest record of each job.
        self._notes: dict[str, Record] = {}
        self._notes_timer: asyncio.TimerHandle | None = None
        #: What waits for the next batch, what the thread has, and when it got that.
        self._waiting: list[Order] = []
        self._away: list[Order] = []
        self._handed_at = 0.0
        self._silence_timer: asyncio.TimerHandle | None = None
        #: Batches; None: the end.
        self._batches: queue.SimpleQueue[list[Order] | None] = queue.SimpleQueue()
        self.writer = WriterThread(
            file,
            self._batches,
            ttl_s=ttl_s,
            tell=self._tell,
            on_trouble=self._on_trouble,
        )

    @property
    def trouble(self) -> str:
        """See `JobStore.trouble`."""
        if self._silent:
            return f"the journal cannot be written: its disk has not answered for {_SILENT_S:g} s"
        return f"the journal cannot be written: {self._trouble}" if self._trouble else ""

    def readings(self) -> Iterable[Reading]:
        """See `JobStore.readings`."""
        writer = self.writer
        size = _size_bytes(self._path) + _size_bytes(f"{self._path}-wal")
        queued = len(self._waiting) + len(self._away)
        return (
            _gauge("journal_unavailable", "1 while the journal is unavailable.", bool(self.trouble)),
            _gauge("journal_queue", "Orders that the journal's thread has not carried out.", queued),
            _gauge(
                "journal_backlog", "Jobs that will be recorded when the journal is available again.", writer.backlog
            ),
            _gauge("journal_size_bytes", "Size of the journal and its write-ahead log.", size),
            _counter("journal_commits", "Transactions.", writer.commits),
            _counter("journal_failures", "Transactions that failed.", writer.failures),
            _counter("journal_records_written", "Records written.", writer.written),
            _counter("journal_records_given_up", "Records dropped because the backlog was full.", writer.given_up),
            _counter("journal_jobs_expired", "Jobs deleted after RESULT_TTL.", writer.expired),
        )

    def put(self, record: Record, *, keep: bool = False) -> asyncio.Future[None]:
        """See `JobStore.put`."""
        noted = self._notes.pop(record.id, None)
        if record.finished_at is None:
            self._open.add(record.id)
        else:
            self._open.discard(record.id)
        done: asyncio.Future[None] = self._loop.create_future()
        self._order(Put(record=record, keep=keep or noted is not None, done=done))
        return done

    def note(self, record: Record) -> None:
        """See `JobStore.note`."""
        self._notes[record.id] = record
        if self._notes_timer is None:
            self._notes_timer = self._loop.call_later(_NOTE_S, self._order_notes)

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
        self._order(Unfinished(done=done))
        return await done

    async def close(self) -> None:
        """See `JobStore.close`. Waits for at most `_CLOSE_S`."""
        self._order_notes()
        self._hand_over()
        self._batches.put(None)
        await asyncio.to_thread(self.writer.join, _CLOSE_S)
        if self._silence_timer is not None:
            self._silence_timer.cancel()

    # --- orders and batches ------------------------------------------------------------------------------------------

    async def _find(self, column: str, value: str | bytes) -> Record | None:
        self._order_notes()  # a look-up finds what was noted before
        done: asyncio.Future[Record | None] = self._loop.create_future()
        self._order(Find(column=column, value=value, done=done))
        return await done

    def _order_notes(self) -> None:
        if self._notes_timer is not None:
            self._notes_timer.cancel()
            self._notes_timer = None
        notes, self._notes = self._notes, {}
        for record in notes.values():
            self._order(Put(record=record, keep=True, done=None))

    def _order(self, order: Order) -> None:
        """Queue an order for the next batch; its future is done on the loop."""
        self._waiting.append(order)
        if self._silent:
            _fail([order], self.trouble)
        if len(self._waiting) == 1 and not self._away:
            self._make_batch()

    def _make_batch(self) -> None:
        """Hand over soon: with what else comes in this turn of the loop, or until it is time."""
        pace_s = min(_PACE_S * (len(self._open) - 1), _LONGEST_PACE_S)
        wait_s = self._handed_at + pace_s - self._loop.time()
        if wait_s > 0:
            self._loop.call_later(wait_s, self._hand_over)
        else:
            self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        """Give the thread what waits, as a batch."""
        if self._waiting:
            self._away += self._waiting
            self._batches.put(self._waiting)
            self._waiting = []
            self._handed_at = self._loop.time()
            if self._silence_timer is None:
                self._silence_timer = self._loop.call_later(_SILENT_S, self._look, self._handed_at)

    # --- what the thread says ----------------------------------------------------------------------------------------

    def _tell(self, news: list[Callable[[], None]], orders: int) -> None:
        """Receive news from the thread; called in the thread. Raises RuntimeError if the loop is closed."""
        self._loop.call_soon_threadsafe(self._on_carried_out, news, orders)

    def _on_carried_out(self, news: list[Callable[[], None]], orders: int) -> None:
        del self._away[:orders]
        if orders and self._silent:
            self._silent = False
            self._say_trouble()
        for settle in news:
            settle()
        if self._waiting and not self._away:
            self._make_batch()

    def _on_trouble(self, trouble: str) -> None:
        """Receive, on the loop, what is wrong with the file; empty when the trouble is over."""
        self._trouble = trouble
        self._say_trouble()

    def _look(self, handed_at: float) -> None:
        """See whether the batch that was handed over at that time is done; look again as long as there are any."""
        self._silence_timer = None
        if not self._away:
            return
        if handed_at == self._handed_at:
            self._silence_timer = self._loop.call_later(_CONFIRM_S, self._confirm, handed_at)
        else:
            left_s = max(0.0, self._handed_at + _SILENT_S - self._loop.time())
            self._silence_timer = self._loop.call_later(left_s, self._look, self._handed_at)

    def _confirm(self, handed_at: float) -> None:
        self._silence_timer = None
        if self._away and handed_at == self._handed_at and not self._silent:
            self._silent = True
            self._say_trouble()
            _fail([*self._away, *self._waiting], self.trouble)

    def _say_trouble(self) -> None:
        if self.trouble:
            log.event(
                "error", "new jobs are refused until the journal can be written", file=self._path, reason=self.trouble
            )
        else:
            lost = self.writer.given_up
            log.event("info", "the journal can be written again", file=self._path, jobs_not_recorded=lost)


def _fail(orders: Iterable[Order], reason: str) -> None:
    """Tell whoever waits that it may take long; the orders stay."""
    for order in orders:
        if order.done is not None and not order.done.done():
            order.done.set_exception(StoreUnavailableError(reason))
            order.done.exception()  # nobody waits for a note


def _gauge(name: str, words: str, value: float) -> Reading:
    return Reading(name=name, help=words, value=value)


def _counter(name: str, words: str, value: float) -> Reading:
    return Reading(name=name, help=words, value=value, counter=True)


def _size_bytes(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0
