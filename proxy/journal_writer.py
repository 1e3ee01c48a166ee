"""The journal's thread: the only one that touches the file once the proxy serves.

Theory of operation
-------------------
Whoever has something to record or to ask queues it and goes on; what piled up while the last commit was under way is
the next batch: one transaction, one commit, one word back to the event loop. A lone job waits for nobody, and a burst
costs few commits. Of several records of one job in a batch only the last is written, since it says everything.

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

from shared.errors import StoreUnavailableError

if TYPE_CHECKING:
    import asyncio

    from proxy.journal_file import JournalFile
    from proxy.record import Record

__all__ = ["Find", "Put", "Unfinished", "Writer"]

_BATCH: Final = 1_000
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
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._backlog: dict[str, Record] = {}
        self._backlog_bytes = 0
        self._trouble = ""
        self._damaged = False
        self._told: list[Callable[[], None]] = []
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
        """How many orders nobody has looked at."""
        return self._orders.qsize()

    def order(self, order: Order) -> None:
        """Queue an order; its future is done on the loop."""
        self._orders.put(order)

    def close(self, timeout_s: float) -> None:
        """Carry out what is queued, then let go of the file. Blocks, for at most that long."""
        self._orders.put(None)
        self._thread.join(timeout_s)

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
        self._file.close()

    def _take(self, wait_s: float) -> list[Order] | None:
        """Return what is queued, waiting for the first of it; None when the end was ordered and nothing is left."""
        orders: list[Order] = []
        with contextlib.suppress(queue.Empty):
            order = self._orders.get(timeout=max(0.0, wait_s))
            while order is not None:
                orders.append(order)
                if len(orders) == _BATCH:
                    return orders
                order = self._orders.get_nowait()
            if not orders:
                return None
            self._orders.put(None)  # seen too early: the batch comes first
        return orders

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
        self._tell()

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
        self._backlog.clear()
        self._backlog_bytes = 0
        self._set_trouble("")
        for put in puts:
            if put.done is not None:
                self._told.append(functools.partial(_settle, put.done, None))

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

    def _tell(self) -> None:
        """Hand everything over in one call: each costs the loop a wake-up."""
        if not self._told:
            return
        told, self._told = self._told, []
        with contextlib.suppress(RuntimeError):  # the loop is closed; nobody waits any more
            self._loop.call_soon_threadsafe(_call_all, told)


def _call_all(told: list[Callable[[], None]]) -> None:
    for call in told:
        call()


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
