"""Detects whether the journal is as it was written last, or an earlier state of it.

In an earlier copy, a job that waits for a worker looks as if it was not submitted, which may no longer be true. So at
each start and each orderly shutdown, a new mark is written into the journal and into a file beside it. If the two
differ, the journal is a copy, and whatever it does not know for certain counts as unknown. The mark of a start includes
the inode of the journal's file: later copies have the same mark, but are different files.

A machine that goes down may take back what was written in the last moments (file.py), which leaves an earlier state as
well. So the mark of a start also includes the id of the machine's boot. If not even that mark is on the disk, the
journal has none: SQLite flushes the head of its new log, and with it the removal of the earlier mark.

A process that dies leaves the write-ahead log behind. If somebody has removed it since, the journal lacks what was
recorded last, and counts as a copy.

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
from enum import Enum, auto
from pathlib import Path
from typing import Final

__all__ = ["Origin", "leave_mark", "lost_before", "note_lost", "origin_of"]

#: In the table `probe`, in addition to the row that tests writing: the mark, and the time before which jobs ended that
#: may be missing.
_ROW: Final = 2
_LOST_ROW: Final = 3
_MARK_BITS: Final = 62
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_UNCERTAIN: Final = (
    "UPDATE jobs SET state = 'submitting', submitted = 'unknown' WHERE state IN ('accepted', 'assigned')"
)


class Origin(Enum):
    """What the journal is."""

    #: As it was written last, or new.
    LAST = auto()
    #: An earlier copy, or without its log.
    COPY = auto()
    #: What the disk had when the machine went down while the proxy ran.
    CUT = auto()


def origin_of(db: sqlite3.Connection, path: Path, *, had_log: bool) -> Origin:
    """Return what the journal is; if it is an earlier state, `submitted` of jobs that may be submitted becomes unknown.

    `had_log`: there was a write-ahead log before the journal was opened.

    Raises:
        sqlite3.Error: that cannot be written.
    """
    row = db.execute("SELECT times FROM probe WHERE n = ?", (_ROW,)).fetchone()
    try:
        beside = _beside(path).read_text("ascii", "replace").split()
    except OSError:
        beside = []
    mark, number = str(row[0]) if row is not None else "", _number(path)
    is_own = bool(mark) and beside[:2] == [mark, number]  # of its last start
    same_boot = beside[2:] == _boot()
    if (mark and beside == [mark]) or (is_own and same_boot and had_log):
        return Origin.LAST
    db.execute(_UNCERTAIN)
    note_lost(db, time.time())
    if is_own and not same_boot:
        return Origin.CUT
    return Origin.COPY if mark or beside else Origin.LAST


def lost_before(db: sqlite3.Connection) -> float:
    """Return the Unix time before which jobs ended that may be missing though they have not expired; 0: none is."""
    row = db.execute("SELECT times FROM probe WHERE n = ?", (_LOST_ROW,)).fetchone()
    return float(row[0]) if row is not None else 0.0


def note_lost(db: sqlite3.Connection, ended_at: float) -> float:
    """Note that jobs which ended before this may be missing; return the resulting time for all such jobs."""
    until = max(lost_before(db), math.ceil(ended_at))
    db.execute("INSERT OR REPLACE INTO probe VALUES (?, ?)", (_LOST_ROW, int(until)))
    return until


def leave_mark(db: sqlite3.Connection, path: Path, *, at_end: bool = False) -> bool:
    """Write a mark that distinguishes the journal from all earlier copies; return whether that was possible.

    If not, there is no mark: the next start takes the journal for a copy.
    """
    mark = secrets.randbits(_MARK_BITS)
    with contextlib.suppress(OSError):
        # From here on, a death before the end makes it a copy: jobs are then unknown that were not submitted.
        _beside(path).unlink(missing_ok=True)
    with contextlib.suppress(sqlite3.Error, OSError):
        db.execute("INSERT OR REPLACE INTO probe VALUES (?, ?)", (_ROW, mark))
        fd = os.open(_beside(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(str(mark) if at_end else " ".join([str(mark), _number(path), *_boot()]))
        return True
    return False


def _number(path: Path) -> str:
    """Return what identifies the file on its disk, even after it was renamed."""
    return str(path.stat().st_ino)


def _boot() -> list[str]:
    """Return what identifies the time since the machine was started, if the kernel tells."""
    try:
        return _BOOT.read_text("ascii", "replace").split()
    except OSError:
        return []


def _beside(path: Path) -> Path:
    return Path(f"{os.path.realpath(path)}-mark")
