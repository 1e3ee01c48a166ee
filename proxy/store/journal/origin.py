"""Detects whether the journal is the one that was written last, or an earlier copy in its place.

In a copy, a job that waits for a worker looks as if it was not submitted, which may no longer be true. So at each start
and each orderly shutdown, a new mark is written into the journal and into a file beside it. If the two differ, the
journal is a copy, and whatever it does not know for certain counts as unknown. The mark of a start includes the inode
of the journal's file: later copies have the same mark, but are different files.

A journal without a mark is new, or from a version without marks, or a copy of such a journal. These cannot be told
apart, so whatever it does not know for certain counts as unknown as well. If jobs may be missing, the absence of a job
proves nothing: the journal also notes until when such jobs may have ended, as it does if jobs were evicted.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import sqlite3
import time
from pathlib import Path
from typing import Final

__all__ = ["is_copy", "leave_mark", "lost_before", "note_lost"]

#: In the table `probe`, in addition to the row that tests writing: the mark, and the time before which jobs ended that
#: may be missing.
_ROW: Final = 2
_LOST_ROW: Final = 3
_MARK_BITS: Final = 62
_UNCERTAIN: Final = (
    "UPDATE jobs SET state = 'submitting', submitted = 'unknown' WHERE state IN ('accepted', 'assigned')"
)


def is_copy(db: sqlite3.Connection, path: Path) -> bool:
    """Return whether the journal is a copy; then `submitted` of jobs that may be submitted by now becomes unknown.

    Raises:
        sqlite3.Error: that cannot be written.
    """
    row = db.execute("SELECT times FROM probe WHERE n = ?", (_ROW,)).fetchone()
    try:
        beside = _beside(path).read_text("ascii", "replace").split()
    except OSError:
        beside = []
    if row is not None and beside in ([str(row[0])], [str(row[0]), _number(path)]):
        return False
    db.execute(_UNCERTAIN)
    note_lost(db, time.time())
    return row is not None or bool(beside)


def lost_before(db: sqlite3.Connection) -> float:
    """Return the Unix time before which jobs ended that may be missing though they have not expired; 0: none is."""
    row = db.execute("SELECT times FROM probe WHERE n = ?", (_LOST_ROW,)).fetchone()
    return float(row[0]) if row is not None else 0.0


def note_lost(db: sqlite3.Connection, ended_at: float) -> float:
    """Note that jobs which ended before this may be missing; return the resulting time for all such jobs."""
    until = max(lost_before(db), math.ceil(ended_at))
    db.execute("INSERT OR REPLACE INTO probe VALUES (?, ?)", (_LOST_ROW, int(until)))
    return until


def leave_mark(db: sqlite3.Connection, path: Path, *, at_end: bool = False) -> None:
    """Write a mark that distinguishes the journal from all earlier copies.

    If that fails, there is no mark: the next start takes the journal for a copy.
    """
    mark = secrets.randbits(_MARK_BITS)
    with contextlib.suppress(OSError):
        # From here on, a death before the end makes it a copy: jobs are then unknown that were not submitted.
        _beside(path).unlink(missing_ok=True)
    with contextlib.suppress(sqlite3.Error, OSError):
        db.execute("INSERT OR REPLACE INTO probe VALUES (?, ?)", (_ROW, mark))
        fd = os.open(_beside(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(str(mark) if at_end else f"{mark} {_number(path)}")


def _number(path: Path) -> str:
    """Return what identifies the file on its disk, even after it was renamed."""
    return str(path.stat().st_ino)


def _beside(path: Path) -> Path:
    return Path(f"{os.path.realpath(path)}-mark")
