"""Measuring how long something takes, less the time in which the machine gave it no processor.

The kernel counts it: how long each thread stood in a processor's queue (proc(5), /proc/PID/schedstat, the second
number), and how long the processors were taken away from the whole machine (/proc/stat, steal). A promise such as
"within a second" is about the program; a machine that is busy with something else must not break it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Final

__all__ = ["Stopwatch"]

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_STEAL_FIELD: Final = 8


class Stopwatch:
    """Runs from the moment it is made."""

    def __init__(self, *pids: int) -> None:
        """Watch this process and besides the processes `pids`, with all their threads."""
        self._begun = time.monotonic()
        self._pids = (os.getpid(), *pids)
        self._before = dict(self._queued())
        self._last = dict(self._before)
        self._steal_before_s = _steal_s()

    @property
    def took_s(self) -> float:
        """How long it has run."""
        return time.monotonic() - self._begun

    @property
    def starved_s(self) -> float:
        """How long its threads had no processor meanwhile, added up; of one that has ended, what was seen last."""
        self._last.update(self._queued())
        queued_ns = sum(last - self._before.get(thread, 0) for thread, last in self._last.items())
        return queued_ns / 1e9 + _steal_s() - self._steal_before_s

    @property
    def own_s(self) -> float:
        """How long it has run, less that. Can be negative: several threads may queue at once."""
        return self.took_s - self.starved_s

    def _queued(self) -> Iterator[tuple[str, int]]:
        """Yield for each thread how long it has queued in its life, in nanoseconds."""
        for pid in self._pids:
            with contextlib.suppress(OSError):  # it has ended
                for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - often; a Path for each would cost more
                    with contextlib.suppress(OSError):
                        yield thread, int(_read(f"/proc/{pid}/task/{thread}/schedstat").split()[1])


def _steal_s() -> float:
    return int(_read("/proc/stat").split(maxsplit=_STEAL_FIELD + 1)[_STEAL_FIELD]) / _TICKS_PER_S


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:  # noqa: PTH123 - as above
        return file.read()
