"""How often each line was logged within the last hour, by its level and its message.

Messages are constants, so there are few; if a bug makes too many, the rest is counted together.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

__all__ = ["SECONDS", "LogCounts"]

#: Over how many seconds lines are counted.
SECONDS: Final = 3600
_SLICE_S: Final = 60
#: How many different lines are counted within a minute.
_LINES: Final = 200


class LogCounts:
    """Counts lines, minute by minute. Thread-safe; a signal's handler may count a line in the middle of any call."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.RLock()  # the handler has to get it from the code that it interrupts
        #: The number of the minute, and the lines that came in it; the newest last.
        self._slices: deque[tuple[int, Counter[tuple[str, str]]]] = deque(maxlen=SECONDS // _SLICE_S)

    def add(self, level: str, what: str) -> None:
        """Count a line."""
        now = int(self._clock()) // _SLICE_S
        with self._lock:
            if not self._slices or self._slices[-1][0] != now:
                self._slices.append((now, Counter()))
            counts = self._slices[-1][1]
            line = (level, what)
            counts[line if line in counts or len(counts) < _LINES else ("", "")] += 1

    def most(self, limit: int) -> tuple[list[tuple[str, str, int]], int]:
        """Return the most frequent lines with level, message and count, and the number of all other lines."""
        first = int(self._clock()) // _SLICE_S - SECONDS // _SLICE_S
        total: Counter[tuple[str, str]] = Counter()
        with self._lock:
            for number, counts in list(self._slices):  # copies, as a signal's handler may add to them
                if number > first:
                    total.update(counts.copy())
        others = total.pop(("", ""), 0)
        most = total.most_common(limit)
        listed = sum(count for _, count in most)
        return [(level, what, count) for (level, what), count in most], total.total() - listed + others
