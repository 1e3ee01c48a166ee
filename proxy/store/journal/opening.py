"""Locks and opens the journal's file; an unusable file is reported in one line, and not changed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
import stat
from pathlib import Path
from typing import Final

from proxy.store.journal.place import NO_INODES, lacks_inodes
from proxy.store.journal.schema import prepare
from shared.errors import SettingsError

__all__ = ["OLDEST_SQLITE", "check_sqlite", "check_writable", "connect", "is_no_room", "lock", "words_of"]

#: The first with INSERT ... ON CONFLICT DO UPDATE for a table with another unique column; nothing newer is used.
#: 3.24.0 fails on it; 3.26.0 (RHEL 8), 3.31.1 (Ubuntu 20.04) and 3.40.1 (Debian 12) pass all tests of the journal.
OLDEST_SQLITE: Final = (3, 26, 0)
#: What SQLite cannot do on file systems without locks or shared memory, such as many network file systems.
_NOT_LOCAL: Final = {
    sqlite3.SQLITE_IOERR_LOCK,
    sqlite3.SQLITE_IOERR_RDLOCK,
    sqlite3.SQLITE_IOERR_SHMLOCK,
    sqlite3.SQLITE_IOERR_SHMMAP,
    sqlite3.SQLITE_IOERR_SHMOPEN,
    sqlite3.SQLITE_IOERR_UNLOCK,
}
#: The errors of a write on a full disk, or beyond a quota.
_NO_ROOM: Final = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_WRITE,
}
_BUSY_S: Final = 5.0


def check_sqlite(
    version: tuple[int, ...] = sqlite3.sqlite_version_info, thread_safety: int = sqlite3.threadsafety
) -> None:
    """Raise SettingsError if this interpreter's SQLite is too old, or cannot be used by several threads."""
    if version < OLDEST_SQLITE:
        raise SettingsError(
            f"JOURNAL: this Python uses SQLite {_dotted(version)}, {_dotted(OLDEST_SQLITE)} or newer is needed; use "
            "another Python, or JOURNAL= to remember jobs in memory only"
        )
    if not thread_safety:
        raise SettingsError(
            "JOURNAL: this Python's SQLite was built without threads (SQLITE_THREADSAFE=0); use another Python, or "
            "JOURNAL= to remember jobs in memory only"
        )


def lock(path: Path) -> int:
    """Return a descriptor of the file, created if missing, and locked for as long as this process lives.

    flock(), not SQLite's own locks, so that others may read the journal while it is written; the two kinds are
    independent. The descriptor must stay open: closing it would release SQLite's locks on the same file as well.
    """
    _check_kind(path)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        reason = NO_INODES if exc.errno == errno.ENOSPC and lacks_inodes(path) else os.strerror(exc.errno or 0)
        raise SettingsError(f"JOURNAL: cannot open {str(path.absolute())!r}: {reason}") from exc
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(fd)
        if exc.errno == errno.EWOULDBLOCK:
            raise SettingsError(
                f"JOURNAL: {str(path)!r} is in use by another proxy; give each its own file, or none with JOURNAL="
            ) from exc
        raise SettingsError(
            f"JOURNAL: cannot lock {str(path)!r}: {os.strerror(exc.errno or 0)}; put it on a local disk"
        ) from exc
    return fd


def connect(path: Path, *, upgrade: bool = True) -> tuple[sqlite3.Connection, int]:
    """Return a connection to the locked journal, migrated if `upgrade`, and the version that the table had.

    Raises:
        SettingsError: it cannot be used; SQLite's error, if any, is its cause.
    """
    db = None
    try:
        # By its absolute path, because SQLite gives some names a special meaning. The connection is used by one thread
        # after the other, never by two at once.
        db = sqlite3.connect(path.absolute(), isolation_level=None, check_same_thread=False, timeout=_BUSY_S)
        version = prepare(db, path, upgrade=upgrade)
        check_writable(db)
    except sqlite3.OperationalError as exc:
        _close(db)
        raise SettingsError(f"JOURNAL: cannot use {str(path)!r}: {_reason(path, exc)}") from exc
    except sqlite3.DatabaseError as exc:
        _close(db)
        raise SettingsError(
            f"JOURNAL: {str(path)!r} is damaged ({words_of(exc)}) and may hold jobs that are still open; "
            "restore it, or move it away to start without what it remembers"
        ) from exc
    except SettingsError:
        _close(db)
        raise
    return db, version


def check_writable(db: sqlite3.Connection) -> None:
    """Raise sqlite3.OperationalError if `db` can only read.

    What SQLite cannot open to be written, it opens to be read, without an error: if another user's process has left
    the log behind, for example, or if there was no descriptor at that moment. Such a connection can never write.
    """
    db.execute("BEGIN")
    try:
        db.execute("UPDATE probe SET times = times")
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")  # nothing was written


def is_no_room(exc: BaseException | None) -> bool:
    """Return whether this error means a full disk or an exceeded quota."""
    return getattr(exc, "sqlite_errorcode", 0) in _NO_ROOM


def words_of(exc: Exception) -> str:
    """Return the error in one line: SQLite's message, with the name of its code if the message alone says little."""
    words = " ".join(str(exc).split()) or type(exc).__name__
    name = getattr(exc, "sqlite_errorname", None)
    return f"{words} ({name})" if name and name.startswith("SQLITE_IOERR") else words


def _check_kind(path: Path) -> None:
    try:
        mode, size = path.stat().st_mode, path.stat().st_size
    except OSError:
        mode, size = stat.S_IFREG, 0  # it does not exist, or opening it will report why not
    if not stat.S_ISREG(mode):
        raise SettingsError(f"JOURNAL: {str(path)!r} is not a file")
    log = Path(f"{os.path.realpath(path)}-wal")
    with contextlib.suppress(OSError):
        if not size and log.stat().st_size:  # SQLite would delete the log, and with it the newest jobs of that journal
            raise SettingsError(
                f"JOURNAL: {str(log)!r} was left behind when its journal was moved; move it there as well, under the "
                "journal's new name with -wal, or remove it"
            )


def _reason(path: Path, exc: sqlite3.OperationalError) -> str:
    code = getattr(exc, "sqlite_errorcode", 0)
    folder = path.absolute().parent
    if code & 0xFF in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
        if not os.access(folder, os.W_OK):
            return f"the folder {str(folder)!r} cannot be written, and SQLite keeps two more files beside it"
        for file in (Path(f"{os.path.realpath(path)}{suffix}") for suffix in ("-wal", "-shm")):
            if file.exists() and not os.access(file, os.W_OK):
                return f"{str(file)!r} cannot be written; was it left behind by another user's process?"
        if lacks_inodes(path):
            return f"{NO_INODES}, and SQLite keeps two more files beside it"
    if code in _NOT_LOCAL:
        return f"{words_of(exc)}; put it on a local disk"
    return words_of(exc)


def _close(db: sqlite3.Connection | None) -> None:
    if db is not None:
        with contextlib.suppress(sqlite3.Error):
            db.close()


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(number) for number in version)
