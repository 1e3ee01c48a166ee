"""The journal's table: how it is created, and how earlier versions are migrated."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final

from shared.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["VERSION", "prepare"]

#: "jobs" in ASCII: SQLite's mark of the application, and the version of the table below.
_APPLICATION_ID: Final = 0x6A6F6273
VERSION: Final = 4

_JOBS: Final = """
CREATE TABLE jobs (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    token_hash BLOB NOT NULL UNIQUE,
    key BLOB,
    fingerprint BLOB NOT NULL,
    accepted_at REAL NOT NULL,
    deadline_at REAL NOT NULL,
    state TEXT NOT NULL,
    submitted TEXT NOT NULL,
    finished_at REAL,
    code TEXT,
    detail TEXT,
    failure_submitted TEXT,
    callback BLOB,
    says_failed INTEGER NOT NULL,
    early INTEGER NOT NULL,
    duplicates INTEGER NOT NULL,
    profile TEXT NOT NULL DEFAULT '',
    remote TEXT,
    worker_end TEXT,
    cancelled_by TEXT,
    trail TEXT,
    sent BLOB
);
CREATE INDEX jobs_by_key ON jobs (key) WHERE key IS NOT NULL;
CREATE INDEX jobs_by_end ON jobs (finished_at) WHERE finished_at IS NOT NULL;
"""
#: For queries about many jobs (proxy/store/search.py): indexes of failed and of open jobs. The first costs nothing for
#: a job that does not fail; the second has only the open jobs.
_FOR_QUESTIONS: Final = """
CREATE INDEX jobs_failed ON jobs (finished_at) WHERE code IS NOT NULL OR says_failed;
CREATE INDEX jobs_open ON jobs (accepted_at) WHERE finished_at IS NULL;
"""
_PROBE: Final = """
CREATE TABLE probe (n INTEGER PRIMARY KEY, times INTEGER NOT NULL);
INSERT INTO probe VALUES (1, 0);
"""
#: Operators' actions. The table is created if missing, whatever the version: no version depends on it. `is_coming` is
#: `Deed.is_minor`, under the name of journals from before minor actions were more than log-ins.
_AUDIT: Final = """
CREATE TABLE IF NOT EXISTS audit (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    at REAL NOT NULL,
    what TEXT NOT NULL,
    who TEXT NOT NULL,
    via TEXT NOT NULL,
    peer TEXT NOT NULL,
    instance TEXT NOT NULL,
    "of" TEXT NOT NULL,
    outcome TEXT NOT NULL,
    detail TEXT NOT NULL,
    is_coming INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS audit_by_kind ON audit (is_coming, n);
"""
#: Version 1 called a job that may have been submitted `assigned`. The table is the same, so a journal of any size is
#: migrated in place: copying 600 MB took 25 s, and three times the space.
_FROM_1: Final = """
UPDATE jobs SET state = 'submitting' WHERE state = 'assigned';
UPDATE jobs SET state = 'finished', submitted = 'yes', finished_at = deadline_at
    WHERE callback IS NOT NULL AND finished_at IS NULL;
"""
#: Version 2 had one job server, and no outputs.
_FROM_2: Final = """
ALTER TABLE jobs ADD COLUMN profile TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN remote TEXT;
"""
#: Version 3 did not record how a job came to its end. Nothing else was changed: a proxy of version 3 can use this table
#: if it is told so (docs/operations.md, going back).
_FROM_3: Final = f"""
ALTER TABLE jobs ADD COLUMN worker_end TEXT;
ALTER TABLE jobs ADD COLUMN cancelled_by TEXT;
ALTER TABLE jobs ADD COLUMN trail TEXT;
ALTER TABLE jobs ADD COLUMN sent BLOB;
{_FOR_QUESTIONS}
"""
#: By a file's version: the statements that migrate it.
_UPGRADES: Final = {1: _FROM_1 + _FROM_2 + _FROM_3, 2: _FROM_2 + _FROM_3, 3: _FROM_3}
#: The smallest page size.
_LEAST_BYTES: Final = 512
_WAL_BYTES: Final = 8 * 1024 * 1024


def prepare(db: sqlite3.Connection, path: Path, *, upgrade: bool = True) -> int:
    """Create the table, or migrate it if `upgrade`; configure the connection. Return the version that was found.

    Raises:
        SettingsError: the file is not a journal, or of a later version.
        sqlite3.DatabaseError: it is damaged.
    """
    if 0 < path.stat().st_size < _LEAST_BYTES:
        raise sqlite3.DatabaseError("file is not a database")  # SQLite would take it for an empty one
    (owner,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and owner == _APPLICATION_ID and version > VERSION:
        raise SettingsError(
            f"JOURNAL: {str(path)!r} was written by a later version of the proxy (its table is version {version}, "
            f"this one knows {VERSION}); run that version, or name another file"
        )
    if tables and (owner != _APPLICATION_ID or not version):
        raise SettingsError(f"JOURNAL: {str(path)!r} is not a journal of this proxy; name another file")
    if not tables:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise SettingsError(
            f"JOURNAL: {str(path)!r} is where SQLite cannot have a write-ahead log; put it on a local disk"
        )
    db.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
    db.execute("PRAGMA wal_autocheckpoint = 0")  # see proxy/store/journal/checkpoint_thread.py
    db.execute("PRAGMA synchronous = NORMAL")
    # Distributions build SQLite so that it overwrites what is deleted, through the log: as much again as was recorded.
    db.execute("PRAGMA secure_delete = FAST")
    (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)
    if upgrade or not tables:
        db.executescript(_AUDIT)
    mark = f"PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {VERSION};"
    if not tables:
        db.executescript(f"BEGIN; {_JOBS} {_FOR_QUESTIONS} {_PROBE} {mark} COMMIT;")
        return VERSION
    if upgrade and version < VERSION:
        # A return to version 3 left the columns that it does not know in place.
        steps = "" if _has_column(db, "trail") else _UPGRADES[version]
        db.executescript(f"BEGIN IMMEDIATE; {steps} {mark} COMMIT;")
    return int(version)


def _has_column(db: sqlite3.Connection, name: str) -> bool:
    return any(row[1] == name for row in db.execute("PRAGMA table_info(jobs)"))
