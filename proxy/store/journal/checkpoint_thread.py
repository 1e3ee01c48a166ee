"""The journal's checkpoints, which move the contents of the write-ahead log into the file, in a thread beside the
writer.

A checkpoint waits for the disk several times. If the writer made it, as SQLite does by default, every job would wait as
well: 15 to 25 ms on a fast disk, once in about a thousand records. So a second thread does it over a connection of its
own, in two steps: first everything in the log, while the writer continues; then, while the writer waits, the little
that was added since. The log can start again from its beginning only when nothing is left in it.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Checkpointer"]

#: A checkpoint is due after about this much, counting a page for each record.
_DUE_BYTES: Final = 4 * 1024 * 1024
_RECORD_BYTES: Final = 4096
#: How often the second step is tried: it gives way to a transaction and to readers of the file.
_TRIES: Final = 20
_AGAIN_S: Final = 0.002


class Checkpointer:
    """Makes a checkpoint whenever enough has been written. If one fails, the next one or the writer makes up for it."""

    def __init__(self, path: Path) -> None:
        """Start the thread; the file must exist."""
        uri = f"{path.absolute().as_uri()}?mode=rw"
        # Used only by the thread, once it has started.
        self._db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=0, check_same_thread=False)
        self._written_bytes = 0
        self._due = threading.Event()
        self._closing = False
        #: How often the log could start again; read by others, written here.
        self.done = 0
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    def wrote(self, records: int, size_bytes: int = 0) -> None:
        """Note that so many records were written or deleted, and how many bytes more than usual they had."""
        self._written_bytes += records * _RECORD_BYTES + size_bytes
        if self._written_bytes >= _DUE_BYTES:
            self._written_bytes = 0
            self._due.set()

    def close(self) -> None:
        """Finish the checkpoint in progress. Blocks."""
        self._closing = True
        self._due.set()
        self._thread.join()

    def _run(self) -> None:
        self._try("SELECT count(*) FROM sqlite_master")  # a connection that has not read anything has no log
        while self._due.wait() and not self._closing:
            self._due.clear()
            self._checkpoint()
        self._db.close()

    def _checkpoint(self) -> None:
        self._try("PRAGMA wal_checkpoint(PASSIVE)")
        for _ in range(_TRIES):
            busy, _, _ = self._try("PRAGMA wal_checkpoint(RESTART)") or (True, 0, 0)
            if not busy:
                self.done += 1
                return
            time.sleep(_AGAIN_S)

    def _try(self, statement: str) -> tuple[int, ...] | None:
        """Return the only row, or None: the writer will meet, and report, whatever is wrong with the file."""
        with contextlib.suppress(sqlite3.Error):
            row: tuple[int, ...] = self._db.execute(statement).fetchone()
            return row
        return None
