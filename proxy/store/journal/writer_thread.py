"""The journal's thread: the only one that reads and writes records once the proxy serves.

Theory of operation
-------------------
The thread carries out one batch of orders after the other. Of several records of one job in a batch only the last is
written, since it says everything. Questions are answered after the writes of their batch, so that whoever put something
finds it.

A commit that fails fails everybody in its batch. What was to be kept goes to the backlog, the newest record of each
job, and is tried again every `_RETRY_S` until it can be written; answers to questions look there first. While
nothing comes, one write that nobody reads shows whether the trouble is over.

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
from typing import TYPE_CHECKING, Final, TypeVar

from proxy.store.journal.checkpoint_thread import Checkpointer
from shared.errors import StoreUnavailableError

if TYPE_CHECKING:
    import asyncio

    from proxy.store.journal.file import JournalFile
    from proxy.store.record import Record

__all__ = ["Find", "Order", "Put", "Unfinished", "WriterThread"]

_RETRY_S: Final = 0.5
#: How much is kept while the journal cannot be written. Beyond that, the oldest records are dropped and counted.
_BACKLOG_BYTES: Final = 64 * 1024 * 1024
_EXPIRE_BATCH: Final = 200
#: How often expired jobs are deleted.
_EXPIRE_S: Final = 5.0
_LEAST_EXPIRE_S: Final = 0.1


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
        self._backlog: dict[str, Record] = {}
        self._backlog_bytes = 0
        self._trouble = ""
        self._damaged = False
        self._news: list[Callable[[], None]] = []
        self.checkpointer = Checkpointer(file.path)
        #: Transactions, failed ones, records written, records given up, expired jobs; read by others, written here.
        self.commits = self.failures = self.written = self.given_up = self.expired = 0
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    @property
    def backlog(self) -> int:
        """How many jobs wait to be recorded when that is possible again."""
        return len(self._backlog)

    def join(self, timeout_s: float) -> None:
        """Wait for the thread to end, at most that long. Blocks."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        next_expiry = time.monotonic() + self._expire_s
        orders: list[Order] | None = []
        while orders is not None:
            wait_s = next_expiry - time.monotonic()
            orders = self._take(min(wait_s, _RETRY_S) if self._trouble else wait_s)
            self._carry_out(orders if orders is not None else [])
            if time.monotonic() >= next_expiry:
                more = self._expire()
                next_expiry = time.monotonic() + (0.0 if more else self._expire_s)
        self.checkpointer.close()
        self._file.close()

    def _take(self, wait_s: float) -> list[Order] | None:
        """Return the next batch, or an empty one if none comes in time; None: the end was ordered."""
        try:
            return self._batches.get(timeout=max(0.0, wait_s))
        except queue.Empty:
            return []

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
        batch = self._backlog | {put.record.id: put.record for put in puts}
        try:
            if self._damaged:
                raise sqlite3.DatabaseError(self._trouble)
            if self._trouble:
                self._file.probe()
            self._file.write(batch.values())
        except (sqlite3.Error, OSError) as exc:
            self.failures += 1
            self._postpone(puts)
            self._set_trouble(_reason(exc))
            self._note_damage(exc)
            for put in puts:
                if put.done is not None:
                    self._fail(put.done, f"the journal cannot be written: {self._trouble}")
            return
        self.commits += 1
        self.written += len(batch)
        self.checkpointer.wrote(len(batch), sum(len(record.callback or b"") for record in batch.values()))
        self._backlog.clear()
        self._backlog_bytes = 0
        self._set_trouble("")
        self._news.append(functools.partial(_settle_puts, puts))

    def _postpone(self, puts: list[Put]) -> None:
        for put in puts:
            # A job that is in the backlog already goes on from there, or the older record would come back.
            old = self._backlog.pop(put.record.id, None)
            if old is not None or put.keep:
                self._backlog[put.record.id] = put.record
                self._backlog_bytes += put.record.size_bytes - (old.size_bytes if old else 0)
        while self._backlog_bytes > _BACKLOG_BYTES:
            dropped = self._backlog.pop(next(iter(self._backlog)))
            self._backlog_bytes -= dropped.size_bytes
            self.given_up += 1

    def _find(self, order: Find) -> Record | None:
        for record in reversed(self._backlog.values()):
            if getattr(record, order.column) == order.value:
                return record
        return self._file.find(order.column, order.value, self._clock() - self._ttl_s)

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
        except sqlite3.Error as exc:
            self._note_damage(exc)
            self._fail(done, f"the journal cannot be read: {exc}")
        else:
            self._news.append(functools.partial(_settle, done, value))

    def _fail(self, done: asyncio.Future[_T], reason: str) -> None:
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


def _settle_error(done: asyncio.Future[_T], error: StoreUnavailableError) -> None:
    if not done.done():
        done.set_exception(error)
        done.exception()  # nobody waits for a note


def _is_damage(exc: Exception) -> bool:
    """Return whether the file itself is damaged: writing more would make it worse."""
    code = getattr(exc, "sqlite_errorcode", 0) or 0
    return code & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _reason(exc: Exception) -> str:
    return "the file was moved or removed" if isinstance(exc, FileNotFoundError) else " ".join(str(exc).split())
