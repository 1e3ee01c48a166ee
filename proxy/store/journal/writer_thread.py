"""The journal's thread: the only one that reads and writes records once the proxy serves.

Theory of operation
-------------------
The thread carries out one batch of orders after the other. Of several records of one job in a batch only the last is
written, since it says everything. Questions are answered after the writes of their batch, so that whoever put something
finds it.

A commit that fails fails everybody in its batch. What was to be kept goes to the backlog, the newest record of each
job, and is tried again every `_RETRY_S` until it can be written; answers to questions look there first. While
nothing comes, one write that nobody reads shows whether the trouble is over.

A record that SQLite cannot take, such as one that is too large, is given up alone, and told. So is a bug of ours: it
fails the orders of its batch, and the thread goes on.

Nothing of this file runs on the event loop: what it has to be told is handed to `tell`, in one call for each batch.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from proxy import log
from proxy.store.journal.backlog import Backlog
from proxy.store.journal.checkpoint_thread import Checkpointer
from proxy.store.journal.opening import words_of
from shared.errors import StoreUnavailableError

if TYPE_CHECKING:
    import asyncio

    from proxy.store.journal.file import JournalFile
    from proxy.store.record import Record

__all__ = ["Find", "Order", "Put", "Unfinished", "WriterThread"]

_RETRY_S: Final = 0.5
_EXPIRE_BATCH: Final = 200
#: How often expired jobs are deleted.
_EXPIRE_S: Final = 5.0
_LEAST_EXPIRE_S: Final = 0.1
#: What SQLite and its module raise because of a record; anything else is the disk's or ours.
_UNFIT: Final = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    ValueError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """Record this."""

    record: Record
    keep: bool
    #: None: nobody waits.
    done: asyncio.Future[None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Find:
    """Return what is known of one job."""

    column: str
    value: str | bytes
    done: asyncio.Future[Record | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """Return the open jobs."""

    done: asyncio.Future[list[Record]]


_T = TypeVar("_T")
Order = Put | Find | Unfinished


class WriterThread:
    """Carries out batches of orders on a thread of its own."""

    def __init__(
        self,
        file: JournalFile,
        batches: queue.SimpleQueue[list[Order] | None],
        *,
        ttl_s: float,
        tell: Callable[[list[Callable[[], None]], int], None],
        on_trouble: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Begin with what is in `batches`; None in there is the end.

        `tell` takes calls that are to be made on the event loop, and how many orders were carried out. One of these
        calls is `on_trouble`, with what is wrong, and with nothing when it is over.
        """
        self._file = file
        self._batches = batches
        self._ttl_s = ttl_s
        self._tell_loop = tell
        self._on_trouble = on_trouble
        self._clock = clock
        self._expire_s = max(_LEAST_EXPIRE_S, min(_EXPIRE_S, ttl_s / 4))
        self._backlog = Backlog()
        self._trouble = ""
        self._damaged = False
        self._shrunk = False
        self._news: list[Callable[[], None]] = []
        self.checkpointer = Checkpointer(file)
        #: Transactions, failed ones, records written, those that cannot be, expired jobs; read by others, written here.
        self.commits = self.failures = self.written = self.unfit = self.expired = 0
        #: When it began what it is at, by the monotonic clock; 0: nothing.
        self.busy_since = 0.0
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    @property
    def backlog(self) -> int:
        """How many jobs wait to be recorded when that is possible again."""
        return len(self._backlog)

    @property
    def given_up(self) -> int:
        """How many records were never written."""
        return self._backlog.given_up + self.unfit

    @property
    def is_alive(self) -> bool:
        """Whether the end has not come yet."""
        return self._thread.is_alive()

    def join(self, timeout_s: float) -> None:
        """Wait for the thread to end, at most that long. Blocks."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        next_expiry = time.monotonic() + self._expire_s
        orders: list[Order] | None = []
        while orders is not None:
            wait_s = next_expiry - time.monotonic()
            orders = self._take(min(wait_s, _RETRY_S) if self._trouble else wait_s)
            self.busy_since = time.monotonic()
            self._carry_out_safely(orders if orders is not None else [])
            if time.monotonic() >= next_expiry:
                more = self._expire()
                next_expiry = time.monotonic() + (0.0 if more else self._expire_s)
            self.busy_since = 0.0
        self.checkpointer.close()
        self._file.close()

    def _take(self, wait_s: float) -> list[Order] | None:
        """Return the next batch, or an empty one if none comes in time; None: the end was ordered."""
        try:
            return self._batches.get(timeout=max(0.0, wait_s))
        except queue.Empty:
            return []

    def _carry_out_safely(self, orders: list[Order]) -> None:
        try:
            self._carry_out(orders)
        except Exception as exc:  # noqa: BLE001 - a bug of ours must not leave everybody waiting for ever
            kind = type(exc).__name__
            log.event("error", "unhandled exception in the journal", **log.exception_fields(exc))
            self.unfit += sum(isinstance(order, Put) for order in orders)
            self._news = []
            for order in orders:
                if order.done is not None:
                    self._fail(order.done, f"unhandled exception in the journal: {kind}")
            self._tell(len(orders))

    def _carry_out(self, orders: list[Order]) -> None:
        puts = [order for order in orders if isinstance(order, Put)]
        if puts or self._trouble:
            self._write(puts)
        for order in orders:
            match order:
                case Find():
                    self._answer(order.done, functools.partial(self._find, order))
                case Unfinished():
                    self._answer(order.done, self._file.unfinished)
                case Put():
                    pass
        self._tell(len(orders))

    def _write(self, puts: list[Put]) -> None:
        batch = self._backlog.records() | {put.record.id: put.record for put in puts}
        try:
            if self._damaged:
                raise sqlite3.DatabaseError(self._trouble)
            if self._trouble:
                self._file.probe()
            unfit = self._write_fit(batch)
        except (sqlite3.Error, OSError, MemoryError) as exc:
            self.failures += 1
            for put in puts:
                self._backlog.add(put.record, keep=put.keep)
            self._set_trouble(_reason(exc))
            self._note_damage(exc)
            for put in puts:
                if put.done is not None:
                    self._fail(put.done, f"the journal cannot be written: {self._trouble}")
            return
        self.commits += 1
        self.written += len(batch) - len(unfit)
        self.checkpointer.wrote(len(batch), sum(len(record.callback or b"") for record in batch.values()))
        self._backlog.clear()
        self._set_trouble("")
        for put in puts:
            if put.record.id in unfit and put.done is not None:
                self._fail(put.done, f"the job cannot be recorded: {unfit[put.record.id]}")
        self._news.append(functools.partial(_settle_puts, puts))

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

    def _find(self, order: Find) -> Record | None:
        record = self._backlog.find(order.column, order.value)
        return record or self._file.find(order.column, order.value, self._clock() - self._ttl_s)

    def _expire(self) -> bool:
        """Delete expired jobs; return whether there are more."""
        try:
            if self._damaged:
                return False
            self._file.check_place()
            expired = self._file.expire(self._clock() - self._ttl_s, _EXPIRE_BATCH)
            shrunk = self._file.shrink()
        except (sqlite3.Error, OSError) as exc:
            self._set_trouble(_reason(exc))
            self._note_damage(exc)
            self._tell()
            return False
        self.expired += expired
        self.checkpointer.wrote(expired)
        if self._shrunk and not shrunk:
            self.checkpointer.make()  # which makes the file itself smaller
        self._shrunk = shrunk
        return expired == _EXPIRE_BATCH or shrunk

    def _note_damage(self, exc: Exception) -> None:
        if _is_damage(exc) and not self._damaged:
            self._damaged = True
            self._set_trouble(f"the file is damaged ({exc}); restore it or move it away, then start the proxy again")

    def _set_trouble(self, trouble: str) -> None:
        if bool(trouble) is not bool(self._trouble) or (self._damaged and trouble != self._trouble):
            self._news.append(functools.partial(self._on_trouble, trouble))
        self._trouble = trouble

    # --- back to the loop --------------------------------------------------------------------------------------------

    def _answer(self, done: asyncio.Future[_T], ask: Callable[[], _T]) -> None:
        try:
            value = ask()
        except (sqlite3.Error, ValueError) as exc:
            self._note_damage(exc)
            self._fail(done, f"the journal cannot be read: {_reason(exc)}")
        else:
            self._news.append(functools.partial(_settle, done, value))

    def _fail(self, done: asyncio.Future[Any], reason: str) -> None:
        self._news.append(functools.partial(_settle_error, done, StoreUnavailableError(reason)))

    def _tell(self, orders: int = 0) -> None:
        """Pass everything to the loop in one call, with the number of orders done: each call costs a wake-up."""
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
    return code & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _reason(exc: Exception) -> str:
    return "the file was moved or removed" if isinstance(exc, FileNotFoundError) else words_of(exc)
