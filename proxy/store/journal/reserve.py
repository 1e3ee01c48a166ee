"""Disk space that the journal reserves for a full disk: even deleting needs some.

SQLite writes every change to its log, including deletions, and the log's contents need room in the file before the log
can be restarted. So a journal on a full disk could not even delete. The reserve is a file beside it. It is released
when a write finds no room, and jobs are recorded again once the reserve can be taken again: less room would be used up
by the next few results.

A small rest of it is kept, so that the journal can be opened on a disk that is still full.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Final

from proxy.store.journal.place import NO_INODES, lacks_inodes

__all__ = ["Reserve"]

#: Twice the usual size of the log; but at most this share of a small file system.
_BYTES: Final = 8 * 1024 * 1024
_SHARE: Final = 16
#: What opening a journal takes, several times.
_LAST_BYTES: Final = 256 * 1024
_LEAST_BYTES: Final = 16 * 1024
_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
#: It belongs to another user, under whom the proxy ran once, or is a symbolic link.
_NOT_OURS: Final = {errno.EACCES, errno.EPERM, errno.ELOOP}
_ZEROS: Final = bytes(256 * 1024)


class Reserve:
    """The reserve of one journal. Blocks."""

    def __init__(self, journal: Path) -> None:
        self.path = Path(f"{os.path.realpath(journal)}-reserve")
        self.held = False
        #: Its current size.
        self.size_bytes = _BYTES

    def take(self) -> bool:
        """Take it, if the same amount remains free; return whether it is held.

        Raises:
            OSError: it cannot be taken, however much is free.
        """
        if not self.held:
            try:
                self.held = self._take()
            except OSError as exc:
                lacks = exc.errno == errno.ENOSPC and not self.path.exists() and lacks_inodes(self.path)
                if lacks or exc.errno not in _NO_ROOM:
                    reason = NO_INODES if lacks else exc.strerror
                    raise OSError(f"its reserve {str(self.path)!r} cannot be written: {reason}") from exc
        return self.held

    def missing_bytes(self) -> int:
        """Return how much more free space is needed to take it; 0: there is enough."""
        disk = os.statvfs(self.path.parent)
        size = _size_on(disk)
        try:
            has = self.path.stat().st_size
        except OSError:
            has = 0
        return max(0, 2 * size - has - disk.f_bavail * disk.f_frsize) if has < size else 0

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def give_up(self) -> None:
        """Release it, except the last part."""
        self.held = False
        with contextlib.suppress(OSError):
            os.truncate(self.path, min(_LAST_BYTES, self.path.stat().st_size))

    def give_up_last(self) -> bool:
        """Release a part of the last part as well, so that some is left for the next time; return whether any was.

        Half of it, or what is too little to be of use twice.
        """
        self.held = False
        try:
            left = min(_LAST_BYTES, self.path.stat().st_size) // 2
            if left < _LEAST_BYTES:
                self.path.unlink()
            else:
                os.truncate(self.path, left)
        except OSError:
            return False
        return True

    def _take(self) -> bool:
        try:
            fd = self._open()
        except OSError as exc:
            if exc.errno not in _NOT_OURS:
                raise
            self.path.unlink()
            fd = self._open()
        try:
            disk = os.fstatvfs(fd)
            size = self.size_bytes = _size_on(disk)
            has = os.fstat(fd).st_size
            if has < size:
                if disk.f_bavail * disk.f_frsize < 2 * size - has:
                    return False
                _allocate(fd, size, has)
            return True
        finally:
            os.close(fd)


def _size_on(disk: os.statvfs_result) -> int:
    return max(_LAST_BYTES, min(_BYTES, disk.f_blocks * disk.f_frsize // _SHARE))


def _allocate(fd: int, size: int, has: int) -> None:
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as exc:
        try:
            if exc.errno not in {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}:
                raise
            for start in range(has, size, len(_ZEROS)):  # this file system has no other way
                os.pwrite(fd, _ZEROS[: size - start], start)
        except OSError:
            os.ftruncate(fd, min(has, _LAST_BYTES))
            raise
