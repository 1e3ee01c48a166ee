"""What the log is full of: how often each line came within the last hour, by its level and its words.

The words of a line are constants, so there are few; were there many, as of a bug, the rest would be counted together.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

__all__ = ["SECONDS", "LogCounts"]

#: The lines of so many seconds are counted.
SECONDS: Final = 3600
_SLICE_S: Final = 60
#: So many different lines within a minute.
_LINES: Final = 200


class LogCounts:
    """Counts lines, minute by minute. Any thread may do that."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
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
        """Return the most frequent lines with level, words and number, and how many lines there are besides."""
        first = int(self._clock()) // _SLICE_S - SECONDS // _SLICE_S
        total: Counter[tuple[str, str]] = Counter()
        with self._lock:
            for number, counts in self._slices:
                if number > first:
                    total.update(counts)
        others = total.pop(("", ""), 0)
        most = total.most_common(limit)
        listed = sum(count for _, count in most)
        return [(level, what, count) for (level, what), count in most], total.total() - listed + others
