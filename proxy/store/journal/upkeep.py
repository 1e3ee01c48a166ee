"""Maintenance of the journal, done by its thread between batches of orders.

Jobs whose time is over are forgotten; so are the oldest finished ones when the journal has grown to its limit. Space
that is not needed is given back. The files are looked at, and the log, which grows as long as somebody reads an old
state.

Before the disk is full, while there is still room for a checkpoint, nothing is recorded any more. If others were
faster, the reserve gives the room. As soon as there is enough again, for the reserve as well, the trouble is over:
because jobs were forgotten, or because somebody made room.

Everything here is done a little at a time, as jobs wait meanwhile.
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
#: How often to look, unless jobs are remembered for a shorter time than four times that.
_EVERY_S: Final = 1.0
_LEAST_EVERY_S: Final = 0.1
#: So many jobs are deleted by one transaction: one of 1 MiB takes 7 ms.
_ROWS: Final = 4
#: And after this long, waiting orders have their turn.
_SLICE_S: Final = 0.02
#: On a full disk, where nobody waits.
_MUCH_S: Final = 0.15
#: A journal never takes more than this share of the room that its disk had for it, less what its log takes; or this one
#: of a small disk.
_SHARE: Final = 2
_LOG_BYTES: Final = 16 * _MIB
_SMALL_SHARE: Final = 4
#: When so much of the limit has been written, it is looked after before its time.
_DUE_SHARE: Final = 16
#: Of a journal at its limit so much is freed, so that not every new job has to make room.
_SPARE_SHARE: Final = 64
#: A log of this size is worth a line. Usually it has 10 MiB at most.
_LONG_LOG_BYTES: Final = 64 * _MIB
#: How often the number of jobs that were forgotten early is logged.
_TELL_S: Final = 60.0


class Upkeep:
    """Looks after one journal. Blocks, and belongs to the journal's thread."""

    def __init__(
        self,
        file: JournalFile,
        checkpointer: Checkpointer,
        *,
        ttl_s: float,
        max_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`ttl_s`: how long a finished job is remembered; `max_bytes`: how large the journal may grow."""
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
        #: Jobs forgotten when their time was over, and before; the sizes of the file and of its log, and the limit of
        #: the former. Read by others, written here.
        self.expired = self.evicted = 0
        self.size_bytes = self.log_bytes = self.limit_bytes = 0

    def start(self) -> None:
        """Take the reserve, and learn how much room there is. Raises OSError if there is none."""
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
        """Raise OSError if the disk has not enough room to record so much and move it into the file."""
        self._unseen_bytes += size_bytes
        place, needed = self._file.place, 2 * size_bytes + self._reserve.size_bytes // 2
        if place.free_bytes < needed + place.log_bytes and self._room_bytes() < needed:
            self._full = True
            raise self._no_room()

    @property
    def is_due(self) -> bool:
        """Whether so much was written that `step` should not wait for its time."""
        return self._unseen_bytes > self.limit_bytes // _DUE_SHARE

    def step(self) -> bool:
        """Do a little of what is to be done; return whether there is more.

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
        """Do what can be done against trouble. Raises as `step` does, as long as it is not over."""
        self._file.place.check_all(settled=self.checkpointer.settled)
        self._look_at_sizes()
        self._check_log()
        if self._full or not self._reserve.held:
            self._forget_for_room()
            if self._room_bytes() >= 0:  # or taking it would be useless
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
        """Give the reserve up, since something could not be written."""
        self._reserve.give_up()

    def _room_bytes(self) -> int:
        """Return how much room the disk has besides what the next checkpoint takes."""
        return self._file.place.free_bytes - self._file.growth_bytes()

    def _take_reserve(self) -> None:
        if not self._reserve.take():
            raise self._no_room()

    def _no_room(self) -> OSError:
        needed = -(-2 * self._reserve.size_bytes // _MIB)
        return OSError(errno.ENOSPC, f"the disk is full: {needed} MiB are needed")

    def _forget(self) -> bool:
        """Forget jobs whose time is over; return whether there are more."""
        before = self._clock() - self._ttl_s
        forgotten, more = self._delete(lambda: self._file.expire(before, _ROWS))
        self.expired += forgotten
        return more

    def _evict(self) -> bool:
        """Forget the oldest finished jobs of a journal at its limit; return whether more have to go."""
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
        """Have finished jobs deleted for a slice of time; return how many, and whether there are more.

        `delete` does so with some, and returns how many.
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
        # It never becomes less: that others fill the disk is no reason to forget.
        share = max(room // _SHARE - _LOG_BYTES, room // _SMALL_SHARE)
        self.limit_bytes = min(self._max_bytes, max(self.limit_bytes, share))

    def _check_log(self) -> None:
        """See to a log that cannot be started anew, as somebody reads an old state of the journal."""
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
