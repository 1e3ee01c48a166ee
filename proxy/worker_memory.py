"""How much memory each worker has to itself, read only while somebody looks, a few at a time, off the event loop.

The kernel counts it on request (smaps_rollup), which takes a fraction of a millisecond for each process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Final

__all__ = ["WorkerMemory", "private_bytes"]

_AT_ONCE: Final = 100


def private_bytes(pid: int) -> int | None:
    """Return the memory that the process shares with nobody, in bytes; None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return None
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Private_"))


class WorkerMemory:
    """The latest reading for each worker."""

    def __init__(self) -> None:
        self._readings: dict[int, int | None] = {}
        self._reading: asyncio.Task[None] | None = None

    def of(self, pid: int) -> int | None:
        """Return the latest reading, in bytes, if there is one."""
        return self._readings.get(pid)

    def refresh(self, pids: Iterable[int]) -> None:
        """Begin to read some of `pids`, the longest unread first; forget all others."""
        known = self._readings
        wanted = set(pids)
        self._readings = {pid: known[pid] for pid in known if pid in wanted}  # in order of reading
        if self._reading is None or self._reading.done():
            unread = [pid for pid in wanted if pid not in known]
            batch = [*unread, *self._readings][:_AT_ONCE]
            self._reading = asyncio.get_running_loop().create_task(self._read(batch))

    async def _read(self, pids: list[int]) -> None:
        found = await asyncio.to_thread(lambda: {pid: private_bytes(pid) for pid in pids})
        for pid, reading in found.items():
            self._readings.pop(pid, None)
            self._readings[pid] = reading
