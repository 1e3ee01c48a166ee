"""Detects whether the journal's files were moved, replaced or changed by others.

SQLite keeps them open and would not notice: what it writes to a removed or replaced file is lost. So their names are
checked at intervals, and so is the head of the file, with the file's length.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from pathlib import Path
from typing import Final

__all__ = ["NO_INODES", "LogGoneError", "Place", "ReplacedError", "lacks_inodes", "log_of"]

NO_INODES: Final = "the disk has no free inodes"
#: The head of the file (https://sqlite.org/fileformat.html#the_database_header).
_HEAD_BYTES: Final = 100
_MAGIC: Final = b"SQLite format 3\0"
#: The beginning of the log, depending on the byte order of its checksums (the same page, 4.1).
_LOG_MAGIC: Final = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
_PAGE_SIZE: Final = slice(16, 18)
_PAGES: Final = slice(28, 32)
#: The encoding of the largest page size, which does not fit.
_LARGEST_PAGE: Final = (1, 65536)


class LogGoneError(OSError):
    """The write-ahead log, or its index, was removed. Processes that have it open can still read its contents."""


class ReplacedError(sqlite3.DatabaseError):
    """The file has changed: it was truncated, or overwritten with something else."""


class Place:
    """Checks the files of one journal. Blocks."""

    def __init__(self, path: Path, fd: int) -> None:
        """`fd` is an open descriptor of the journal."""
        self._path = path
        self._fd = fd
        self._log = log_of(path)
        #: The log's index, which contains SQLite's locks.
        self.index = Path(f"{os.path.realpath(path)}-shm")
        self._numbers = {self._log: 0, self.index: 0}
        self._suspected: tuple[int, int] | None = None

    @property
    def size_bytes(self) -> int:
        """The size of the journal's file."""
        return os.fstat(self._fd).st_size

    @property
    def log_bytes(self) -> int:
        """The size of the write-ahead log."""
        try:
            return self._log.stat().st_size
        except OSError:
            return 0

    @property
    def free_bytes(self) -> int:
        """The free disk space."""
        disk = os.fstatvfs(self._fd)
        return disk.f_bavail * disk.f_frsize

    def opened(self) -> None:
        """Read the state of the files now that the journal is open."""
        for path in self._numbers:
            self._numbers[path] = _number_of(path)

    def check(self) -> None:
        """Check the journal's own name.

        Raises:
            OSError: there is no file with that name, or another one.
        """
        try:
            here = os.path.samestat(self._path.stat(), os.fstat(self._fd))
        except FileNotFoundError:
            here = False
        if not here:
            raise FileNotFoundError(errno.ENOENT, "the file was moved or removed")

    def check_all(self, *, settled: bool) -> None:
        """Check everything; `settled`: the last checkpoint was complete, and none is in progress.

        Raises:
            OSError: see `check`.
            LogGoneError: the log or its index was removed.
            ReplacedError: the file itself was changed by somebody else.
        """
        self.check()
        for path, number in self._numbers.items():
            if number and _number_of(path) != number:
                self._check_absent(path)
        self._check_log()
        if settled:
            self._check_head()
        else:
            self._suspected = None

    def _check_absent(self, path: Path) -> None:
        size = path.stat().st_size if path.exists() else 0
        if size and path == self._log:
            raise OSError(f"{str(path)!r} was replaced by another file; remove it")
        raise LogGoneError(f"{str(path)!r} was removed")

    def _check_log(self) -> None:
        """SQLite checks the log's head only when it opens the log, and would keep appending to one with a lost head."""
        with contextlib.suppress(FileNotFoundError), self._log.open("rb") as log:  # closing it releases no locks
            head = log.read(len(_LOG_MAGIC[0]))
            if head and head not in _LOG_MAGIC:
                raise ReplacedError("its write-ahead log was cut off, or something else was written over it")

    def _check_head(self) -> None:
        size = self.size_bytes
        head = os.pread(self._fd, _HEAD_BYTES, 0)
        if not head.startswith(_MAGIC):
            raise ReplacedError("something else was written over it")
        page_size = int.from_bytes(head[_PAGE_SIZE], "big")
        if page_size == _LARGEST_PAGE[0]:
            page_size = _LARGEST_PAGE[1]
        found = (size, int.from_bytes(head[_PAGES], "big") * page_size)
        short = found[0] < found[1]
        # Twice, because a checkpoint may have been made between the two checks above.
        if short and found == self._suspected:
            raise ReplacedError(f"it was cut off: it has {found[0]} bytes instead of {found[1]}")
        self._suspected = found if short else None


def log_of(path: Path) -> Path:
    """Return the path of a journal's write-ahead log."""
    return Path(f"{os.path.realpath(path)}-wal")


def lacks_inodes(path: Path) -> bool:
    """Return whether no file can be created beside this one, however much space is free."""
    disk = os.statvfs(Path(os.path.realpath(path)).parent)
    return disk.f_files > 0 and not disk.f_favail  # some file systems have no limit, and say that there are 0


def _number_of(path: Path) -> int:
    """Return what identifies a file; 0: there is none."""
    try:
        return path.stat().st_ino
    except OSError:
        return 0
