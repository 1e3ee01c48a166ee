"""The journal's thread: the only one that reads and writes records once the proxy serves.

Theory of operation
-------------------
Whoever has something to record or to ask queues it and goes on. The thread has one batch at a time, and what piles up
meanwhile is the next: one hand-over, one statement, one commit, one word back to the event loop. Each of these costs
more than what is in it, and more still where both threads want the interpreter. So batches keep a distance that grows
with the number of open jobs, since more of them come along meanwhile: a lone job waits for nobody, and a burst costs
few commits. Of several records of one job in a batch only the last is written, since it says everything.

Questions are answered after the writes of their batch, so that whoever put something finds it.

A commit that fails fails everybody in its batch. What was to be kept goes to the backlog, the newest record of each
job, and is tried again every `_RETRY_S` until it can be written; answers to questions look there first. While
nothing comes, one write that nobody reads shows whether the trouble is over.
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

__all__ = ["Find", "Put", "Unfinished", "Writer"]

#: How far apart batches begin at least: so much for each open job but one, up to so much.
_PACE_S: Final = 0.0005
_LONGEST_PACE_S: Final = 0.004
_RETRY_S: Final = 0.5
#: How much is kept for a journal that cannot be written. Beyond it the oldest go, and their number is told.
_BACKLOG_BYTES: Final = 64 * 1024 * 1024
_EXPIRE_BATCH: Final = 200
#: How often expired jobs are looked for.
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
    """Tell what is known of one job."""

    column: str
    value: str | bytes
    done: asyncio.Future[Record | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """Tell which jobs are open."""

    done: asyncio.Future[list[Record]]


_T = TypeVar("_T")
Order = Put | Find | Unfinished


class Writer:
    """Carries out orders on a thread of its own."""

    def __init__(
        self,
        file: JournalFile,
        *,
        loop: asyncio.AbstractEventLoop,
        ttl_s: float,
        on_trouble: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Begin. `on_trouble` is called on the loop with what is wrong, and with nothing when it is over."""
        self._file = file
        self._loop = loop
        self._ttl_s = ttl_s
        self._on_trouble = on_trouble
        self._clock = clock
        self._expire_s = max(_LEAST_EXPIRE_S, min(_EXPIRE_S, ttl_s / 4))
        #: The jobs that are not over, by id, as far as they were put here.
        self.open: set[str] = set()
        #: What waits for the next batch, how many orders the thread has, and when the last batch went; the loop's.
        self._waiting: list[Order] = []
        self._away = 0
        self._handed_at = 0.0
        #: Batches; None: the end.
        self._batches: queue.SimpleQueue[list[Order] | None] = queue.SimpleQueue()
        self._backlog: dict[str, Record] = {}
        self._backlog_bytes = 0
        self._trouble = ""
        self._damaged = False
        self._told: list[Callable[[], None]] = []
        self.checkpointer = Checkpointer(file.path)
        #: Transactions, failed ones, records written, records given up, expired jobs; read by others, written here.
        self.commits = self.failures = self.written = self.given_up = self.expired = 0
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    @property
    def backlog(self) -> int:
        """How many jobs wait to be recorded when that is possible again."""
        return len(self._backlog)

    @property
    def queued(self) -> int:
        """How many orders are not carried out yet."""
        return len(self._waiting) + self._away

    def order(self, order: Order) -> None:
        """Queue an order; its future is done on the loop."""
        self._waiting.append(order)
        if len(self._waiting) == 1 and not self._away:
            self._make_batch()

    def close(self, timeout_s: float) -> None:
        """Carry out what was handed over, then let go of the file. Blocks, for at most that long."""
        self._batches.put(None)
        self._thread.join(timeout_s)

    def hand_over(self) -> None:
        """Give the thread what waits, as a batch."""
        orders = self._waiting
        if orders:
            self._waiting = []
            self._away += len(orders)
            self._handed_at = self._loop.time()
            self._batches.put(orders)

    def _make_batch(self) -> None:
        """Hand over soon: with what else comes in this turn of the loop, or until it is time."""
        pace_s = min(_PACE_S * (len(self.open) - 1), _LONGEST_PACE_S)
        wait_s = self._handed_at + pace_s - self._loop.time()
        if wait_s > 0:
            self._loop.call_later(wait_s, self.hand_over)
        else:
            self._loop.call_soon(self.hand_over)

    def _on_carried_out(self, told: list[Callable[[], None]], orders: int) -> None:
        self._away -= orders
        for call in told:
            call()
        if self._waiting and not self._away:
            self._make_batch()

    # --- on the thread -----------------------------------------------------------------------------------------------

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
        self._told.append(functools.partial(_settle_puts, puts))

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
        """Forget what is too old; return whether there is more of it."""
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
            self._told.append(functools.partial(self._on_trouble, trouble))
        self._trouble = trouble

    # --- back to the loop --------------------------------------------------------------------------------------------

    def _answer(self, done: asyncio.Future[_T], ask: Callable[[], _T]) -> None:
        try:
            value = ask()
        except sqlite3.Error as exc:
            self._note_damage(exc)
            self._fail(done, f"the journal cannot be read: {exc}")
        else:
            self._told.append(functools.partial(_settle, done, value))

    def _fail(self, done: asyncio.Future[_T], reason: str) -> None:
        self._told.append(functools.partial(_settle_error, done, StoreUnavailableError(reason)))

    def _tell(self, orders: int = 0) -> None:
        """Hand everything over in one call, and that so many orders are carried out: each costs the loop a wake-up."""
        if not self._told and not orders:
            return
        told, self._told = self._told, []
        with contextlib.suppress(RuntimeError):  # the loop is closed; nobody waits any more
            self._loop.call_soon_threadsafe(self._on_carried_out, told, orders)


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
        done.exception()  # whoever only noted something does not come back for this


def _is_damage(exc: Exception) -> bool:
    """Return whether the file itself is broken: to write on would make it worse."""
    code = getattr(exc, "sqlite_errorcode", 0) or 0
    return code & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _reason(exc: Exception) -> str:
    return "the file was moved or removed" if isinstance(exc, FileNotFoundError) else " ".join(str(exc).split())
