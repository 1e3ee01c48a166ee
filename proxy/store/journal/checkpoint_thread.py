"""The journal's checkpoints: they move its write-ahead log into the file itself, in parallel to the writer.

A checkpoint waits for the disk several times. If the writer made it, as is SQLite's default, every job would wait as
well: for 15 to 25 ms on a fast disk, about once in a thousand records. So a second thread does it over its own
connection, in two steps: first everything that is in the log, while the writer continues; then, while the writer waits,
the little that was added in the meantime. The log can be restarted only when nothing is left in it.

SQLite before 3.51.3 (except 3.44.6 and 3.50.7) has a bug that can lose committed data: a checkpoint begins when
everything in the log has already been moved, and before it has read the state, another connection commits and so
restarts the log (https://sqlite.org/wal.html#walresetbug). That cannot happen here. The second step keeps the writer
from committing. The first one begins only if something was committed after the end of the last checkpoint of any kind:
then the log contains something that was not moved, and nobody can restart it before this step is over. The writer
itself never makes a checkpoint.
"""

from __future__ import annotations

import contextlib
import errno
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Final

from proxy.store.journal.opening import check_writable, words_of

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.store.journal.file import JournalFile

__all__ = ["Checkpointer"]

#: A checkpoint is due after about this much was written, counting a page for each record.
_DUE_BYTES: Final = 4 * 1024 * 1024
_RECORD_BYTES: Final = 4096
#: How often the second step is tried: readers of the file take precedence.
_TRIES: Final = 20
_AGAIN_S: Final = 0.002
_VERSION: Final = "PRAGMA data_version"


class Checkpointer:
    """Makes a checkpoint whenever enough has been written. After a failed one, the next one moves everything."""

    def __init__(self, file: JournalFile) -> None:
        """Start, in parallel to the writer of `file`. Raises OSError if that cannot be done now."""
        self._file = file
        # Used only by the thread, once it is running.
        self._db = _connect(file.path)
        self._written_bytes = 0
        self._due = threading.Event()
        #: Whether it makes no more checkpoints.
        self.closed = False
        #: The value of `PRAGMA data_version` at the end of the last checkpoint: each commit that adds to the log
        #: changes it.
        self._seen: tuple[int, ...] | None = None
        #: How often the log could be restarted; whether that was possible last time and none is in progress; whether a
        #: reader prevented it. Read by others, written here.
        self.done = 0
        self.settled = False
        self.blocked = False
        self._truncate = False
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as exc:
            self._db.close()
            raise OSError(errno.EAGAIN, "no more threads can be started") from exc

    def wrote(self, records: int, size_bytes: int = 0) -> None:
        """Note that this many records were written or deleted, with this many bytes beyond their usual size."""
        self._written_bytes += records * _RECORD_BYTES + size_bytes
        if self._written_bytes >= _DUE_BYTES:
            self.make()

    def make(self, *, truncate: bool = False) -> None:
        """Make a checkpoint soon. With `truncate`, the log's disk space is freed instead of reused."""
        self._written_bytes = 0
        self._truncate = self._truncate or truncate
        self._due.set()

    def close(self) -> None:
        """Finish the current one. Blocks."""
        self.closed = True
        self._due.set()
        self._thread.join()

    def _run(self) -> None:
        self._try("SELECT count(*) FROM sqlite_master")  # a connection that has not read anything has no log
        while self._due.wait() and not self.closed:
            self._due.clear()
            self.settled = False
            self.settled = self._checkpoint()
        self._db.close()

    def _checkpoint(self) -> bool:
        """Make a checkpoint; return whether the whole log was moved."""
        mode = "TRUNCATE" if self._truncate else "RESTART"
        self._truncate = False
        with self._file.committing:
            version = self._try(_VERSION)
        if None not in {version, self._seen} and version != self._seen:
            self._try("PRAGMA wal_checkpoint(PASSIVE)")
        for _ in range(_TRIES):
            with self._file.committing:
                result = self._try(f"PRAGMA wal_checkpoint({mode})")
                self._seen = self._try(_VERSION)
            self.blocked = result is not None and bool(result[0])
            if result is not None and not self.blocked:
                self.done += 1
                return True
            time.sleep(_AGAIN_S)
        return False

    def _try(self, statement: str) -> tuple[int, ...] | None:
        """Return the only row, or None: the writer will notice and report any error of the file."""
        with contextlib.suppress(sqlite3.Error, MemoryError):
            row: tuple[int, ...] = self._db.execute(statement).fetchone()
            return row
        return None


def _connect(path: Path) -> sqlite3.Connection:
    db = None
    try:
        uri = f"{path.absolute().as_uri()}?mode=rw"
        db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=0, check_same_thread=False)
        check_writable(db)
    except sqlite3.Error as exc:
        if db is not None:
            db.close()
        raise OSError(errno.EIO, f"the journal cannot be opened a second time: {words_of(exc)}") from exc
    return db
