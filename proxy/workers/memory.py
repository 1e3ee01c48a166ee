"""The private memory of each worker, read only while a dashboard is open, a few workers at a time, off the event loop.

The kernel computes it on request (smaps_rollup), which takes about a millisecond per process; a process that was read
is not read again for some seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

__all__ = ["WorkerMemory", "private_bytes"]

_AT_ONCE: Final = 50
#: How long a reading is valid.
_GOOD_S: Final = 10.0


def private_bytes(pid: int) -> int | None:
    """Return the private memory of the process in bytes; None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return None
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Private_"))


class WorkerMemory:
    """The latest reading for each worker."""

    def __init__(self) -> None:
        #: pid -> when it was read, and the reading; oldest first.
        self._readings: dict[int, tuple[float, int | None]] = {}
        self._reading: asyncio.Task[None] | None = None

    def of(self, pid: int) -> int | None:
        """Return the latest reading, in bytes, if there is one."""
        reading = self._readings.get(pid)
        return reading[1] if reading else None

    def refresh(self, pids: Iterable[int]) -> None:
        """Start reading those of `pids` that were not read recently, the oldest reading first; forget all others."""
        wanted = set(pids)
        self._readings = {pid: reading for pid, reading in self._readings.items() if pid in wanted}
        too_old = time.monotonic() - _GOOD_S
        stale = (pid for pid, (at, _) in self._readings.items() if at < too_old)
        batch = [*(pid for pid in wanted if pid not in self._readings), *stale][:_AT_ONCE]
        if batch and (self._reading is None or self._reading.done()):
            self._reading = asyncio.get_running_loop().create_task(self._read(batch))

    async def _read(self, pids: list[int]) -> None:
        found = await asyncio.to_thread(lambda: {pid: private_bytes(pid) for pid in pids})
        now = time.monotonic()
        for pid, reading in found.items():
            self._readings.pop(pid, None)
            self._readings[pid] = (now, reading)
