"""Measures how long something takes, minus the time in which it was starved of CPU.

The kernel counts that: how long each thread waited in a CPU's run queue (proc(5), /proc/PID/schedstat, the second
number), and for how long the hypervisor took the CPUs away (/proc/stat, steal). A promise such as "within a second" is
about the program, so a machine that is busy with something else must not break it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Final

from tests.support.proc_files import read

__all__ = ["Stopwatch"]

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_STEAL_FIELD: Final = 8
#: How often to look at other processes while time is left: the figures of one that ends are gone.
_LOOK_S: Final = 0.1


class Stopwatch:
    """Runs from its creation on."""

    def __init__(self, *pids: int) -> None:
        """Watch this process and the processes `pids`, with all their threads."""
        self._begun = time.monotonic()
        self._pids = (os.getpid(), *pids)
        self._before = dict(self._queued())
        self._last = dict(self._before)
        self._steal_before_s = _steal_s()
        self._look_at_s = _LOOK_S

    @property
    def took_s(self) -> float:
        """The time since its creation."""
        return time.monotonic() - self._begun

    @property
    def starved_s(self) -> float:
        """How long the threads were starved of CPU, in sum; for an ended thread, the last value that was seen."""
        self._last.update(self._queued())
        queued_ns = sum(last - self._before.get(thread, 0) for thread, last in self._last.items())
        return queued_ns / 1e9 + _steal_s() - self._steal_before_s

    @property
    def own_s(self) -> float:
        """The difference of both. Can be negative, because several threads may be starved at the same time."""
        return self.took_s - self.starved_s

    def is_over(self, limit_s: float) -> bool:
        """Return whether `own_s` is more than `limit_s`. Cheap while it cannot be: this is called often."""
        took_s = self.took_s
        if took_s <= limit_s and (len(self._pids) == 1 or took_s < self._look_at_s):
            return False
        self._look_at_s = took_s + _LOOK_S
        return self.own_s > limit_s

    def _queued(self) -> Iterator[tuple[str, int]]:
        """Yield for each thread how long it has waited for a CPU so far, in nanoseconds."""
        for pid in self._pids:
            with contextlib.suppress(OSError):  # it has ended
                for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - called often; Path objects would cost more
                    with contextlib.suppress(OSError):
                        yield thread, int(read(f"/proc/{pid}/task/{thread}/schedstat").split()[1])


def _steal_s() -> float:
    return int(read("/proc/stat").split(maxsplit=_STEAL_FIELD + 1)[_STEAL_FIELD]) / _TICKS_PER_S
