"""The journal's thread: the only one that reads and writes records once the proxy serves.

Theory of operation
-------------------
The thread executes one batch of orders after the other. Of several records of one job in a batch, only the last is
written, because it contains everything. Look-ups are answered after the writes of their batch, so that a caller finds
what it has put.

A commit that fails fails all orders in its batch. Records that have to be kept go to the backlog, the newest one of
each job, and are retried every `_RETRY_S` until they can be written; look-ups search the backlog first. Before each
retry, remedies are tried, and a dummy write shows whether the trouble is over (upkeep.py).

A record that SQLite cannot store, such as one that is too large, is dropped alone, and reported. So is a bug of ours:
it fails the orders of its batch, and the thread goes on.

Nothing in this file runs on the event loop: calls for the loop are passed to `tell`, all those of a batch at once.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from proxy import log
from proxy.store.backlog import Backlog
from proxy.store.deeds import Deed, WaitingDeeds
from proxy.store.journal.answers import Answers
from proxy.store.journal.checkpoint_thread import Checkpointer
from proxy.store.journal.opening import is_no_room, words_of
from proxy.store.journal.orders import Ask, Enter, Order, Put
from proxy.store.journal.place import LogGoneError, ReplacedError
from proxy.store.journal.upkeep import Upkeep
from shared.errors import StoreUnavailableError

if TYPE_CHECKING:
    import asyncio

    from proxy.store.journal.file import JournalFile
    from proxy.store.record import Record

__all__ = ["WriterThread"]

_RETRY_S: Final = 0.5
#: What SQLite and its module raise because of a record; anything else is caused by the disk or a bug of ours.
_UNFIT: Final = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    ValueError,
)


_T = TypeVar("_T")


class WriterThread:
    """Executes batches of orders on its own thread."""

    def __init__(
        self,
        file: JournalFile,
        batches: queue.SimpleQueue[list[Order] | None],
        *,
        ttl_s: float,
        max_bytes: int,
        tell: Callable[[list[Callable[[], None]], int], None],
        on_trouble: Callable[[str], None],
        on_end: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Start with the contents of `batches`; None in there is the end.

        `tell` takes calls to be made on the event loop, and the number of executed orders. Among these calls are
        `on_trouble`, with what is wrong, or empty when it is over, and `on_end`, the last one.
        """
        self._file = file
        self._path = str(file.path)
        self._batches = batches
        self._tell_loop = tell
        self._on_trouble = on_trouble
        self._on_end = on_end
        self._backlog = Backlog()
        #: Operators' actions, including those that could not be written yet.
        self._deeds = WaitingDeeds()
        self._answers = Answers(file, self._backlog, self._deeds, ttl_s=ttl_s, clock=clock)
        self._trouble = ""
        self._damaged = False
        self._retry_at = 0.0
        self._news: list[Callable[[], None]] = []
        self.checkpointer = Checkpointer(file)
        self.upkeep = Upkeep(file, self.checkpointer, ttl_s=ttl_s, max_bytes=max_bytes, clock=clock)
        #: The numbers of commits, failed ones, written records and unwritable records; read by others, written here.
        self.commits = self.failures = self.written = self.unfit = 0
        #: The start of its current work, or of the last statement of it, by the monotonic clock; 0: idle.
        self.busy_since = 0.0
        file.on_statement = self._begin_step
        threading.Thread(target=self._run, name="journal", daemon=True).start()

    @property
    def backlog(self) -> int:
        """How many jobs wait to be recorded when that is possible again."""
        return len(self._backlog)

    @property
    def deeds_unwritten(self) -> int:
        """How many operators' actions wait for that, or were dropped meanwhile."""
        return len(self._deeds) + self._deeds.dropped

    @property
    def given_up(self) -> int:
        """How many records were never written."""
        return self._backlog.given_up + self.unfit

    def _run(self) -> None:
        self._look_after(self.upkeep.start)
        next_step = time.monotonic() + self.upkeep.every_s
        orders: list[Order] | None = []
        while orders is not None:
            wait_s = next_step - time.monotonic()
            orders = self._take(_RETRY_S if self._trouble else wait_s)
            self._begin_step()
            if orders is None:
                self._retry_at = 0.0  # the last chance
            self._carry_out_safely(orders if orders is not None else [])
            if time.monotonic() >= next_step or (self.upkeep.is_due and not self._trouble):
                more = not self._trouble and self._look_after(self.upkeep.step)
                next_step = time.monotonic() + (0.0 if more else self.upkeep.every_s)
            self.busy_since = 0.0
        self.checkpointer.close()
        self._file.close()
        self._news.append(self._on_end)
        self._tell()

    def _begin_step(self) -> None:
        self.busy_since = time.monotonic()

    def _take(self, wait_s: float) -> list[Order] | None:
        """Return the next batch, or an empty one if none comes in time; None: the end was ordered."""
        try:
            return self._batches.get(timeout=max(0.0, wait_s))
        except queue.Empty:
            return []

    def _carry_out_safely(self, orders: list[Order]) -> None:
        try:
            self._carry_out(orders)
        except Exception as exc:  # noqa: BLE001 - a bug of ours must not leave callers waiting forever
            kind = type(exc).__name__
            log.event("error", "unhandled exception in the journal", **log.exception_fields(exc))
            self.unfit += sum(isinstance(order, Put) for order in orders)
            for order in orders:
                if order.done is not None:
                    self._fail(order.done, f"unhandled exception in the journal: {kind}")
            self._tell(len(orders))

    def _carry_out(self, orders: list[Order]) -> None:
        puts = [order for order in orders if isinstance(order, Put)]
        if puts or self._trouble:
            self._write(puts)
        self._enter([deed for order in orders if isinstance(order, Enter) for deed in order.deeds])
        for order in orders:
            if isinstance(order, Ask):
                self._answer(order)
        self._tell(len(orders))

    def _write(self, puts: list[Put]) -> None:
        batch = self._backlog.records() | {put.record.id: put.record for put in puts}
        try:
            if self._trouble:
                self._recover()
            results_bytes = sum(len(record.callback or b"") for record in batch.values())
            self.upkeep.check_room(results_bytes)
            unfit = self._write_fit(batch)
        except (sqlite3.Error, OSError, MemoryError) as exc:
            self.failures += 1
            for put in puts:
                self._backlog.add(put.record, keep=put.keep)
            self._meet(exc)
            for put in puts:
                if put.done is not None:
                    self._fail(put.done, f"the journal cannot be written: {self._trouble}")
            return
        self.commits += 1
        self.written += len(batch) - len(unfit)
        self.checkpointer.wrote(len(batch), results_bytes)
        self._backlog.clear()
        self._set_trouble("")
        for put in puts:
            if put.record.id in unfit and put.done is not None:
                self._fail(put.done, f"the job cannot be recorded: {unfit[put.record.id]}")
        self._news.append(functools.partial(_settle_puts, puts))

    def _enter(self, deeds: list[Deed]) -> None:
        """Write operators' actions; while nothing can be written, they are kept."""
        for deed in deeds:
            self._deeds.add(deed)
        waiting = self._deeds.pending()
        if not waiting:
            return
        try:
            if not self._trouble:
                self._file.enter(waiting)
        except (sqlite3.Error, OSError, MemoryError) as exc:
            self.failures += 1
            self._meet(exc)
        if self._trouble:
            return
        self.commits += 1
        self.checkpointer.wrote(len(waiting))
        self._deeds.clear()

    def _write_fit(self, batch: dict[str, Record]) -> dict[str, str]:
        """Write what can be written; return the ids of the others, with the reasons."""
        try:
            self._file.write(batch.values())
        except _UNFIT as exc:
            if len(batch) > 1:
                unfit = [self._write_fit({job_id: record}) for job_id, record in batch.items()]
                return {job_id: reason for each in unfit for job_id, reason in each.items()}
            (job_id,) = batch
            reason = _reason(exc)
            self.unfit += 1
            log.event("error", "a job cannot be recorded", job_id=job_id, reason=reason)
            return {job_id: reason}
        return {}

    # --- trouble -----------------------------------------------------------------------------------------------------

    def _look_after(self, upkeep: Callable[[], _T]) -> _T | None:
        try:
            return upkeep()
        except (sqlite3.Error, OSError, MemoryError) as exc:
            self._meet(exc)
        except Exception as exc:  # noqa: BLE001 - as above
            log.event("error", "unhandled exception in the journal", **log.exception_fields(exc))
        self._tell()
        return None

    def _recover(self) -> None:
        """Try remedies; raise what still prevents writing."""
        now = time.monotonic()
        if self._damaged or now < self._retry_at:
            raise OSError(self._trouble)
        self._retry_at = now + _RETRY_S
        if not self._file.is_open:
            self._file.reopen()
        if self.checkpointer.closed:
            self._begin_checkpoints()
        try:
            self.upkeep.recover()
        except LogGoneError:
            self._save_log()
            self.upkeep.recover()

    def _save_log(self) -> None:
        """Move the contents of a removed log into the file while it is still open, and start a new log."""
        self.checkpointer.close()
        if not self._file.empty_log():
            raise OSError("its write-ahead log was removed, and cannot be saved as long as another process reads it")
        self._file.reopen()
        self._begin_checkpoints()
        log.event(
            "warning", "the journal's write-ahead log was removed; it was saved and created again", file=self._path
        )

    def _begin_checkpoints(self) -> None:
        self.checkpointer = self.upkeep.checkpointer = Checkpointer(self._file)

    def _meet(self, exc: Exception) -> None:
        """Note what prevents writing, and try the immediate remedies."""
        if is_no_room(exc):
            self.upkeep.make_room()
        self._set_trouble(_reason(exc))
        self._note_damage(exc)

    def _note_damage(self, exc: Exception) -> None:
        if _is_damage(exc) and not self._damaged:
            self._damaged = True
            self._set_trouble(f"the file is damaged ({exc}); restore it or move it away, then start the proxy again")

    def _set_trouble(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._news.append(functools.partial(self._on_trouble, trouble))
        self._trouble = trouble

    # --- back to the loop --------------------------------------------------------------------------------------------

    def _answer(self, order: Ask[Any]) -> None:
        try:
            value = order.question(self._answers)
        except (sqlite3.Error, ValueError, MemoryError) as exc:
            self._note_damage(exc)
            self._fail(order.done, f"the journal cannot be read: {_reason(exc)}")
        else:
            self._news.append(functools.partial(_settle, order.done, value))

    def _fail(self, done: asyncio.Future[Any], reason: str) -> None:
        self._news.append(functools.partial(_settle_error, done, StoreUnavailableError(reason)))

    def _tell(self, orders: int = 0) -> None:
        """Pass everything to the loop in one call, with the number of executed orders: each call costs a wake-up."""
        if not self._news and not orders:
            return
        news, self._news = self._news, []
        with contextlib.suppress(RuntimeError):  # the loop is closed; nobody waits
            self._tell_loop(news, orders)


def _settle_puts(puts: list[Put]) -> None:
    for put in puts:
        if put.done is not None and not put.done.done():
            put.done.set_result(None)


def _settle(done: asyncio.Future[_T], value: _T) -> None:
    if not done.done():
        done.set_result(value)


def _settle_error(done: asyncio.Future[Any], error: StoreUnavailableError) -> None:
    if not done.done():
        done.set_exception(error)
        done.exception()  # nobody waits for a note


def _is_damage(exc: Exception) -> bool:
    """Return whether the file itself is damaged: writing more would make it worse."""
    code = getattr(exc, "sqlite_errorcode", 0) or 0
    return isinstance(exc, ReplacedError) or code & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _reason(exc: Exception) -> str:
    return exc.strerror if isinstance(exc, OSError) and exc.strerror else words_of(exc)
