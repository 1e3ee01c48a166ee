"""Maintenance of the journal, done by its thread between batches of orders.

Expired jobs are deleted; so are the oldest finished ones when the journal has grown to its limit. Unneeded space is
released. The files are checked, and so is the log, which grows as long as somebody reads an old state.

Before the disk is full, while there is still room for a checkpoint, recording stops. If other programs filled the disk
first, the reserve provides the room. As soon as there is enough again, including the reserve, the trouble is over:
because jobs were deleted, or because somebody freed space.

Everything here is done in small steps, because jobs wait meanwhile.
"""

from __future__ import annotations

import errno
import math
import sqlite3
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from proxy import log
from proxy.store.journal.opening import is_no_room
from proxy.store.journal.reserve import Reserve

if TYPE_CHECKING:
    from proxy.store.journal.checkpoint_thread import Checkpointer
    from proxy.store.journal.file import JournalFile

__all__ = ["Upkeep"]

_MIB: Final = 1024 * 1024
#: How often to check, unless jobs are kept for less than four times that.
_EVERY_S: Final = 1.0
_LEAST_EVERY_S: Final = 0.1
#: One transaction deletes this many jobs: one of 1 MiB takes 0.1 ms.
_ROWS: Final = 4
#: After this long, waiting orders get their turn.
_SLICE_S: Final = 0.02
#: On a full disk, where nobody waits.
_MUCH_S: Final = 0.15
#: A journal never takes more than this share of its free disk space, minus the log's; or the second share of a small
#: disk.
_SHARE: Final = 2
_LOG_BYTES: Final = 16 * _MIB
_SMALL_SHARE: Final = 4
#: When this share of the limit has been written, maintenance is due early.
_DUE_SHARE: Final = 16
#: This share of a journal at its limit is freed, so that not every new job has to make room.
_SPARE_SHARE: Final = 64
#: A log of this size is worth a log line. Usually it has 10 MiB at most.
_LONG_LOG_BYTES: Final = 64 * _MIB
#: How often to log the number of jobs that were deleted early.
_TELL_S: Final = 60.0


class Upkeep:
    """Maintains one journal. Blocks, and belongs to the journal's thread."""

    def __init__(
        self,
        file: JournalFile,
        checkpointer: Checkpointer,
        *,
        ttl_s: float,
        max_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`ttl_s`: how long a finished job is kept; `max_bytes`: the maximum size of the journal."""
        self._file = file
        self.checkpointer = checkpointer
        self._ttl_s = ttl_s
        self._max_bytes = max_bytes
        self._clock = clock
        self.every_s = max(_LEAST_EVERY_S, min(_EVERY_S, ttl_s / 4))
        self._reserve = Reserve(file.path)
        self._full = False
        self._unseen_bytes = 0
        self._shrinking = False
        self._long_log = False
        self._told_at = -math.inf
        self._untold = 0
        #: The jobs deleted when they expired, and before; the sizes of the file and of its log, and the limit of the
        #: former. Read by others, written here.
        self.expired = self.evicted = 0
        self.size_bytes = self.log_bytes = self.limit_bytes = 0

    def start(self) -> None:
        """Take the reserve, and measure the free space. Raises OSError if there is none."""
        self._look_at_sizes()
        if self.limit_bytes < self._max_bytes:
            log.event(
                "info",
                "the disk has less room than JOURNAL_MAX_BYTES",
                file=str(self._file.path),
                limit_bytes=self.limit_bytes,
            )
        self._take_reserve()

    def check_room(self, size_bytes: int) -> None:
        """Raise OSError if the disk has not enough room to record this much and move it into the file."""
        self._unseen_bytes += size_bytes
        place, needed = self._file.place, 2 * size_bytes + self._reserve.size_bytes // 2
        if place.free_bytes < needed + place.log_bytes and self._room_bytes() < needed:
            self._full = True
            raise self._no_room()

    @property
    def is_due(self) -> bool:
        """Whether so much was written that `step` is due early."""
        return self._unseen_bytes > self.limit_bytes // _DUE_SHARE

    def step(self) -> bool:
        """Do a part of the pending work; return whether there is more.

        Raises:
            OSError: the files are not where they were, or the log has outgrown its limit.
            sqlite3.Error: SQLite says why not.
        """
        self._unseen_bytes = 0
        self._file.place.check_all(settled=self.checkpointer.settled)
        self._look_at_sizes()
        self._check_log()
        more = self._forget() or self._evict()
        shrinking = self._file.shrink()
        if self._shrinking and not shrinking:
            self.checkpointer.make()  # which makes the file itself smaller
        self._shrinking = shrinking
        return more or shrinking

    def recover(self) -> None:
        """Try to end the trouble. Raises like `step` as long as it is not over."""
        self._file.place.check_all(settled=self.checkpointer.settled)
        self._look_at_sizes()
        self._check_log()
        if self._full or not self._reserve.held:
            self._forget_for_room()
            if self._room_bytes() >= 0:  # otherwise taking it would be useless
                self.checkpointer.make(truncate=True)
            self._take_reserve()
            if self._room_bytes() < self._reserve.size_bytes:
                raise self._no_room()
            self._full = False
        self._file.probe()

    def _forget_for_room(self) -> None:
        try:
            for do_some in (self._forget, self._evict, self._give_back):
                end = time.monotonic() + _MUCH_S
                while do_some() and time.monotonic() < end:
                    pass
        except sqlite3.Error as exc:
            if not is_no_room(exc):
                raise

    def _give_back(self) -> bool:
        return self._file.shrink(all_of_it=True)

    def make_room(self) -> None:
        """Release the reserve, because something could not be written."""
        self._reserve.give_up()

    def _room_bytes(self) -> int:
        """Return the free disk space, minus what the next checkpoint takes."""
        return self._file.place.free_bytes - self._file.growth_bytes()

    def _take_reserve(self) -> None:
        if not self._reserve.take():
            raise self._no_room()

    def _no_room(self) -> OSError:
        needed = -(-2 * self._reserve.size_bytes // _MIB)
        return OSError(errno.ENOSPC, f"the disk is full: {needed} MiB are needed")

    def _forget(self) -> bool:
        """Delete expired jobs; return whether there are more."""
        before = self._clock() - self._ttl_s
        forgotten, more = self._delete(lambda: self._file.expire(before, _ROWS))
        self.expired += forgotten
        return more

    def _evict(self) -> bool:
        """Delete the oldest finished jobs of a journal at its limit; return whether more have to be deleted."""
        over = self._file.used_bytes() - self.limit_bytes
        if over <= 0:
            self._tell_evicted()
            return False
        forgotten, more = self._delete(
            lambda: self._file.evict(_ROWS), until_bytes=self.limit_bytes - self.limit_bytes // _SPARE_SHARE
        )
        self.evicted += forgotten
        self._untold += forgotten
        self._tell_evicted()
        return more

    def _delete(self, delete: Callable[[], int], *, until_bytes: int = 0) -> tuple[int, bool]:
        """Call `delete` for a slice of time; return how many finished jobs were deleted, and whether there are more.

        `delete` deletes some, and returns how many.
        """
        count, end = 0, time.monotonic() + _SLICE_S
        while time.monotonic() < end:
            deleted = delete()
            count += deleted
            if deleted < _ROWS or (until_bytes and self._file.used_bytes() <= until_bytes):
                self.checkpointer.wrote(count)
                return count, False
        self.checkpointer.wrote(count)
        return count, True

    def _tell_evicted(self) -> None:
        if self._untold and time.monotonic() - self._told_at >= _TELL_S:
            log.event(
                "warning",
                "finished jobs were forgotten before RESULT_TTL: the journal has reached its limit",
                file=str(self._file.path),
                jobs=self._untold,
                limit_bytes=self.limit_bytes,
            )
            self._told_at, self._untold = time.monotonic(), 0

    def _look_at_sizes(self) -> None:
        place = self._file.place
        self.size_bytes, self.log_bytes = place.size_bytes, place.log_bytes
        room = self.size_bytes + self.log_bytes + place.free_bytes
        # It never decreases: others that fill the disk are no reason to delete jobs.
        share = max(room // _SHARE - _LOG_BYTES, room // _SMALL_SHARE)
        self.limit_bytes = min(self._max_bytes, max(self.limit_bytes, share))

    def _check_log(self) -> None:
        """Handle a log that cannot be restarted, because somebody reads an old state of the journal."""
        if self.checkpointer.blocked:
            self.checkpointer.make()
        long = self.checkpointer.blocked and self.log_bytes > _LONG_LOG_BYTES
        if long is not self._long_log:
            self._long_log = long
            self._tell_long_log()
        if self.checkpointer.blocked and self.log_bytes > self.limit_bytes:
            raise OSError(
                f"its write-ahead log has {self.log_bytes} bytes, and cannot be started anew as long as another "
                "process reads the journal"
            )

    def _tell_long_log(self) -> None:
        path = str(self._file.path)
        if self._long_log:
            log.event(
                "warning",
                "the journal's write-ahead log grows as long as another process reads the journal",
                file=path,
                log_bytes=self.log_bytes,
            )
        else:
            log.event("info", "the journal's write-ahead log can be reset again", file=path)
