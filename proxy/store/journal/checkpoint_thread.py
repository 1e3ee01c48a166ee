"""The journal's checkpoints: what its write-ahead log holds is moved into the file itself, beside the writer.

A checkpoint waits for the disk, several times. Done by the writer, as SQLite does it by itself, it would let every job
wait as well: for 15 to 25 ms on a fast disk, once in about a thousand records. So a second thread does it over a
connection of its own, in two steps: first everything that is in the log, while the writer continues; then, while the
writer waits, the little that was added in the meantime. Only when nothing is left can the log be started anew.

SQLite before 3.51.3 (but for 3.44.6 and 3.50.7) has a bug that can lose what was committed: a checkpoint begins while
everything in the log has been moved already, and before it has looked around, another connection commits, and so starts
the log anew (https://sqlite.org/wal.html#walresetbug). That cannot happen here. The second step keeps the writer from
committing. The first one begins only if something was committed after the last checkpoint of any kind had ended: then
the log holds something that was not moved, and nobody can start it anew before this step is through. The writer never
makes a checkpoint of its own.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from proxy.store.journal.file import JournalFile

__all__ = ["Checkpointer"]

#: After about so much has been written, counting a page for each record.
_DUE_BYTES: Final = 4 * 1024 * 1024
_RECORD_BYTES: Final = 4096
#: How often the second step is tried: it yields to readers of the file.
_TRIES: Final = 20
_AGAIN_S: Final = 0.002
_VERSION: Final = "PRAGMA data_version"


class Checkpointer:
    """Makes a checkpoint whenever enough has been written. If one fails, the next one makes up for it."""

    def __init__(self, file: JournalFile) -> None:
        """Begin, beside whoever writes to `file`."""
        self._file = file
        uri = f"{file.path.absolute().as_uri()}?mode=rw"
        # Used by the thread only, once it is there.
        self._db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=0, check_same_thread=False)
        self._written_bytes = 0
        self._due = threading.Event()
        self._closing = False
        #: What `PRAGMA data_version` said when the last checkpoint ended: each commit that adds to the log changes it.
        self._seen: tuple[int, ...] | None = None
        #: How often the log could begin anew; whether it could the last time, and none is under way; whether somebody
        #: who reads was in the way. Read by others, written here.
        self.done = 0
        self.settled = False
        self.blocked = False
        self._truncate = False
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    def wrote(self, records: int, size_bytes: int = 0) -> None:
        """Note that so many records were written or removed, with so many bytes beside their usual ones."""
        self._written_bytes += records * _RECORD_BYTES + size_bytes
        if self._written_bytes >= _DUE_BYTES:
            self.make()

    def make(self, *, truncate: bool = False) -> None:
        """Make a checkpoint soon. With `truncate` the log gives its room back, and does not keep it for itself."""
        self._written_bytes = 0
        self._truncate = self._truncate or truncate
        self._due.set()

    def close(self) -> None:
        """Finish the one under way. Blocks."""
        self._closing = True
        self._due.set()
        self._thread.join()

    def _run(self) -> None:
        self._try("SELECT count(*) FROM sqlite_master")  # a connection that has not read anything has no log
        while self._due.wait() and not self._closing:
            self._due.clear()
            self.settled = False
            self.settled = self._checkpoint()
        self._db.close()

    def _checkpoint(self) -> bool:
        """Make one; return whether all of the log was moved."""
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
        """Return the only row, or None: the writer meets, and tells, whatever is wrong with the file."""
        with contextlib.suppress(sqlite3.Error):
            row: tuple[int, ...] = self._db.execute(statement).fetchone()
            return row
        return None
