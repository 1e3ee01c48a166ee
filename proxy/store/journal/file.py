"""The journal's file: SQLite in WAL mode. Reads and writes its table (schema.py).

Everything here blocks, and belongs to one thread at a time: to the one that opens the file, then to the writer. Only
checkpoints are made in parallel, over their own connection (proxy/store/journal/checkpoint_thread.py).

With `synchronous=NORMAL`, the kernel has the data of a commit when it returns. So a commit survives the death of all
our processes, at any moment; what survives the death of the machine depends on the disk. The file stays consistent
either way.
"""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from proxy.store.deeds import KEPT, KEPT_MINOR, Deed
from proxy.store.fields import FAILURES_AMONG, SMALL_BYTES
from proxy.store.journal.opening import check_sqlite, connect, is_no_room, lock, words_of
from proxy.store.journal.origin import Origin, leave_mark, lost_before, note_lost, origin_of
from proxy.store.journal.place import Place, log_of
from proxy.store.journal.reserve import Reserve
from proxy.store.journal.rows import COLUMNS, put_statement, record_of, row_of
from shared.errors import SettingsError

if TYPE_CHECKING:
    from proxy.store.names import Name
    from proxy.store.record import Record

__all__ = ["SEARCHED", "JournalFile"]

_T = TypeVar("_T")

#: One statement writes this many jobs: the GIL is released and taken again for each statement.
_ROWS: Final = 32
#: The most bytes of results in one statement, or one result: they are copied while the GIL is held.
_STATEMENT_BYTES: Final = 262_144
_SELECT: Final = f"SELECT {COLUMNS} FROM jobs WHERE"  # noqa: S608 - our own names
_BY: Final = {
    "id": f"{_SELECT} id = ?",
    "token_hash": f"{_SELECT} token_hash = ?",
    # A key may be reused for a job that certainly was not submitted: the last job holds it.
    "key": f"{_SELECT} key = ? ORDER BY n DESC LIMIT 1",
    # An id has no letter after f. Without the plus, the whole table might be scanned, from its end.
    "beginning": f"{_SELECT} id >= ?1 AND id < ?1 || 'g' ORDER BY +n DESC LIMIT 1",
}
#: By any name, a part of the table at a time: nothing else is written or found meanwhile. The numbers have few gaps.
SEARCHED: Final = 1_000
_NEWEST_BELOW: Final = "SELECT max(n) FROM jobs WHERE n < ?"
_CALLED: Final = f"{_SELECT} n > ? AND n <= ? AND (instr(remote, ?) OR (id >= ? AND id < ?)) ORDER BY n DESC"
_LAST: Final = f"SELECT n FROM jobs WHERE finished_at >= ? ORDER BY finished_at DESC LIMIT {FAILURES_AMONG}"  # noqa: S608
_FAILED: Final = (
    f"{_SELECT} n IN ({_LAST}) AND (code IS NOT NULL OR says_failed) "
    f"AND coalesce(length(callback), 0) <= {SMALL_BYTES} ORDER BY finished_at DESC LIMIT ?"
)
_EXPIRED: Final = "DELETE FROM jobs WHERE n IN (SELECT n FROM jobs WHERE finished_at < ? ORDER BY finished_at LIMIT ?)"

#: The latest end among the jobs that finished first.
_EVICTED: Final = (
    "SELECT max(finished_at) FROM "
    "(SELECT finished_at FROM jobs WHERE finished_at IS NOT NULL ORDER BY finished_at LIMIT ?)"
)
_OLDEST: Final = "SELECT min(finished_at) FROM jobs WHERE finished_at >= ?"
#: What operators did.
_DEED: Final = ("id", "at", "what", "who", "via", "peer", "instance", "of", "outcome", "detail")
_COLUMNS: Final = ", ".join(f'"{name}"' for name in _DEED)
_ENTER: Final = f"INSERT OR IGNORE INTO audit ({_COLUMNS}, is_coming) VALUES ({', '.join('?' * 11)})"  # noqa: S608
_FORGET: Final = (
    "DELETE FROM audit WHERE is_coming = ? AND n <= "
    "(SELECT n FROM audit WHERE is_coming = ? ORDER BY n DESC LIMIT 1 OFFSET ?)"
)
_DEEDS: Final = f"SELECT n, {_COLUMNS} FROM audit WHERE n < ? ORDER BY n DESC LIMIT ?"  # noqa: S608
#: Above any number of a row.
_NO_ROW: Final = 2**63 - 1

#: How many free pages are kept for reuse, or this share of the file; the excess is released, this many pages at a time.
_FREE_PAGES: Final = 256
_FREE_SHARE: Final = 4
_VACUUM_PAGES: Final = 32


class JournalFile:
    """An open journal. Raises sqlite3.Error if the file cannot be read or written."""

    def __init__(self, path: str, *, upgrade: bool = True) -> None:
        """Open the file, or create it; `upgrade`: migrate the table of an earlier version.

        Raises:
            SettingsError: it cannot be opened, is damaged, is not a journal, or is locked by another process.
        """
        check_sqlite()
        self.path = Path(path)
        #: Called before each statement that writes jobs.
        self.on_statement: Callable[[], None] = lambda: None
        #: Held during each transaction here, and by code that must not run during one.
        self.committing = threading.Lock()
        self._lock = lock(self.path)
        self._log = log_of(self.path)
        had_log = self._log.exists()
        try:
            #: The version of the table before any upgrade.
            self._db, self.version = self._with_room(lambda: connect(self.path, upgrade=upgrade))
        except SettingsError:
            os.close(self._lock)
            raise
        self.is_open = True
        #: Whether it is as it was written last.
        self.origin = Origin.LAST
        #: Jobs that ended before this may be missing though they have not expired; in Unix seconds. Read by others.
        self.lost_before = 0.0
        self._keeps_mark = upgrade
        self._keeps_log = had_log and not upgrade
        if upgrade:
            try:
                self._with_room(lambda: self._look_at_origin(had_log=had_log))
            except SettingsError:
                self._db.close()
                os.close(self._lock)
                raise
            self._leave_mark()
        #: Where the file is, to be checked.
        self.place = Place(self.path, self._lock)
        self.place.opened()

    def close(self) -> None:
        """Write everything into the file and close it."""
        if self._keeps_mark and self.is_open:
            self._leave_mark(at_end=True)
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        if self._keeps_log:  # its absence would mean something (origin.py)
            with contextlib.suppress(OSError):
                self._log.touch(0o600)
        os.close(self._lock)

    def _look_at_origin(self, *, had_log: bool) -> None:
        try:
            self.origin = origin_of(self._db, self.path, had_log=had_log)
            self.lost_before = lost_before(self._db)
        except sqlite3.Error as exc:
            raise SettingsError(f"JOURNAL: cannot use {str(self.path)!r}: {words_of(exc)}") from exc

    def _leave_mark(self, *, at_end: bool = False) -> None:
        reserve = Reserve(self.path)
        while not leave_mark(self._db, self.path, at_end=at_end) and reserve.give_up_last():
            pass

    def empty_log(self) -> bool:
        """Move everything from the log into the file; return whether that was possible. A checkpointer must not run."""
        with self.committing:
            left: tuple[int, int, int] = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return left == (0, 0, 0)

    def reopen(self) -> None:
        """Reopen the file, as if it had never been open. There must be no other connection to it.

        Raises:
            OSError: that cannot be done now; the file is closed.
        """
        self.is_open = False
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        try:
            self._db, _ = connect(self.path)
        except SettingsError as exc:
            raise OSError(str(exc)) from exc
        self.place.opened()
        self.is_open = True

    def _with_room(self, do: Callable[[], _T]) -> _T:
        """Return what `do` returns; while the disk is full, the rest of the reserve is released bit by bit."""
        reserve = Reserve(self.path)
        while True:
            try:
                return do()
            except SettingsError as exc:
                if not is_no_room(exc.__cause__) or not reserve.give_up_last():
                    raise

    def write(self, records: Iterable[Record]) -> None:
        """Write all of `records`; or none, if that raises."""
        statements = _statements(records)
        with self._transaction(explicit=len(statements) > 1):  # a single statement is already a transaction
            for rows in statements:
                self.on_statement()
                self._db.execute(put_statement(len(rows)), [value for row in rows for value in row])

    def probe(self) -> None:
        """Write a dummy value, to see whether writing is possible."""
        with self._transaction():
            self._db.execute("UPDATE probe SET times = times + 1 WHERE n = 1")

    def used_bytes(self) -> int:
        """Return how much of the file is in use."""
        pages, free = self._pages()
        return (pages - free) * self._page_bytes()

    def growth_bytes(self) -> int:
        """Return how much the next checkpoint will enlarge the file."""
        pages, _ = self._pages()
        return pages * self._page_bytes() - self.place.size_bytes

    def find(self, column: str, value: str | bytes, finished_after: float) -> Record | None:
        """Return the job whose `column` is `value`, unless it finished before that Unix time.

        `column`: id, token_hash, key or beginning.
        """
        row = self._db.execute(_BY[column], (value,)).fetchone()
        record = record_of(row) if row is not None else None
        return record if record is not None and _is_remembered(record, finished_after) else None

    def search(self, name: Name, below: int, finished_after: float) -> tuple[Record | None, int]:
        """Search a part of the table for the newest job with this name.

        The part is before the number `below`. Return the job, or None and `below` for the next part; 0: that was all.
        As in `find`, a job that finished too early is not found.
        """
        (top,) = self._db.execute(_NEWEST_BELOW, (below,)).fetchone()
        if top is None:
            return None, 0
        bottom = max(0, top - SEARCHED)
        wanted = (bottom, top, name.in_json, *name.ids)
        with contextlib.closing(self._db.execute(_CALLED, wanted)) as rows:
            for row in rows:
                record = record_of(row)
                if name.is_of(record) and _is_remembered(record, finished_after):
                    return record, 0
        return None, bottom and bottom + 1

    def unfinished(self) -> list[Record]:
        """Return every open job."""
        return [record_of(row) for row in self._db.execute(f"{_SELECT} finished_at IS NULL ORDER BY n")]

    def last_failures(self, limit: int, finished_after: float) -> list[Record]:
        """Return the last jobs that ended without a result, newest first."""
        return [record_of(row) for row in self._db.execute(_FAILED, (finished_after, limit))]

    def enter(self, deeds: Sequence[Deed]) -> None:
        """Write operators' actions, and delete all but the newest ones."""
        with self._transaction(explicit=True):
            self._db.executemany(_ENTER, [(*(getattr(deed, name) for name in _DEED), deed.is_minor) for deed in deeds])
            for is_minor, kept in ((False, KEPT), (True, KEPT_MINOR)):
                self._db.execute(_FORGET, (is_minor, is_minor, kept))

    def oldest_end(self, finished_after: float) -> float | None:
        """Return the end of the job that ended first, in Unix seconds; None: none has ended."""
        found: float | None = self._db.execute(_OLDEST, (finished_after,)).fetchone()[0]
        return found

    def deeds(self, limit: int, before: int | None) -> list[Deed]:
        """Return operators' actions, newest first, of those with a lower `n` than `before`."""
        rows = self._db.execute(_DEEDS, (_NO_ROW if before is None else before, limit))
        return [Deed(n=n, **dict(zip(_DEED, row, strict=True))) for n, *row in rows]

    def expire(self, finished_before: float, at_most: int) -> int:
        """Delete jobs that finished before that Unix time, oldest first; return how many.

        That is noted: the clock may be set back, or jobs kept for longer, and then they are missing.
        """
        with self._transaction(explicit=True):
            expired = self._db.execute(_EXPIRED, (finished_before, at_most)).rowcount
            if expired:
                self.lost_before = note_lost(self._db, math.floor(finished_before))
            return expired

    def evict(self, at_most: int) -> int:
        """Delete the jobs that finished first, though they have not expired; return how many."""
        with self._transaction(explicit=True):
            (ended_at,) = self._db.execute(_EVICTED, (at_most,)).fetchone()
            if ended_at is None:
                return 0
            self.lost_before = note_lost(self._db, ended_at)
            return self._db.execute(_EXPIRED, (math.inf, at_most)).rowcount

    def shrink(self, *, all_of_it: bool = False) -> bool:
        """Release a little of the free space, if there is much, or any with `all_of_it`; return whether there was.

        The file itself becomes smaller with the next checkpoint.
        """
        pages, free = self._pages()
        if free <= (0 if all_of_it else max(_FREE_PAGES, pages // _FREE_SHARE)):
            return False
        with self._transaction():
            # Each step of the statement frees one page, and only a script executes all of them.
            self._db.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")
        return True

    def _pages(self) -> tuple[int, int]:
        """Return how many pages the file has, and how many of them are free."""
        (pages,) = self._db.execute("PRAGMA page_count").fetchone()
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        return pages, free

    def _page_bytes(self) -> int:
        size: int = self._db.execute("PRAGMA page_size").fetchone()[0]
        return size

    @contextlib.contextmanager
    def _transaction(self, *, explicit: bool = False) -> Iterator[None]:
        with self.committing:
            if explicit:
                self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                if explicit:
                    self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    with contextlib.suppress(sqlite3.Error):
                        self._db.execute("ROLLBACK")
                raise


def _is_remembered(record: Record, finished_after: float) -> bool:
    return record.finished_at is None or record.finished_at >= finished_after


def _statements(records: Iterable[Record]) -> list[list[tuple[Any, ...]]]:
    """Return the rows for each statement."""
    statements: list[list[tuple[Any, ...]]] = []
    left_bytes = 0
    for record in records:
        left_bytes -= record.size_bytes
        if left_bytes < 0 or len(statements[-1]) == _ROWS:
            statements.append([])
            left_bytes = _STATEMENT_BYTES
        statements[-1].append(row_of(record))
    return statements
