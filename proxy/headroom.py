"""Whether the machine has room for another worker: refuse before something runs out, rather than break when it has.

Looked at only when a job arrives, and at most every `_FRESH_S`, so a quiet proxy does nothing. Reading these files of
/proc does not block: the kernel makes their content on the spot.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from pathlib import Path
from typing import Final

__all__ = ["Headroom"]

_FRESH_S: Final = 0.5
#: Descriptors that must stay free: for callbacks, workers on their way, and everything else.
_FREE_FDS: Final = 64
_FREE_PIDS: Final = 64
_FREE_MEMORY_BYTES: Final = 64 * 1024 * 1024


class Headroom:
    """Tells what there is too little of."""

    def __init__(self, proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> None:
        self._proc = proc
        self._cgroup = cgroup
        self._checked = float("-inf")
        self._shortage = ""

    def shortage(self) -> str:
        """Return what the machine is short of, or nothing."""
        if not _descriptors_left():
            return "file descriptors"
        now = time.monotonic()
        if now - self._checked >= _FRESH_S:
            self._checked = now
            self._shortage = self._look()
        return self._shortage

    def _look(self) -> str:
        if self._free_pids() < _FREE_PIDS:
            return "process ids"
        if self._free_memory_bytes() < _FREE_MEMORY_BYTES:
            return "memory"
        return ""

    def _free_pids(self) -> int:
        free = []
        with contextlib.suppress(OSError, ValueError, IndexError):
            tasks = int(_read(self._proc / "loadavg").split()[3].partition("/")[2])
            limits = [int(_read(self._proc / f"sys/kernel/{name}")) for name in ("pid_max", "threads-max")]
            free.append(min(limits) - tasks)
        with contextlib.suppress(OSError, ValueError):
            limit, used = _read(self._cgroup / "pids.max"), int(_read(self._cgroup / "pids.current"))
            if limit != "max":
                free.append(int(limit) - used)
        return min(free, default=_FREE_PIDS)

    def _free_memory_bytes(self) -> int:
        free = []
        with contextlib.suppress(OSError, ValueError, IndexError, StopIteration):
            lines = _read(self._proc / "meminfo").splitlines()
            free.append(int(next(x for x in lines if x.startswith("MemAvailable:")).split()[1]) * 1024)
        with contextlib.suppress(OSError, ValueError):
            limit, used = _read(self._cgroup / "memory.max"), int(_read(self._cgroup / "memory.current"))
            if limit != "max":
                free.append(int(limit) - used)
        return min(free, default=_FREE_MEMORY_BYTES)


def _read(path: Path) -> str:
    return path.read_text(encoding="ascii").strip()


def _descriptors_left() -> bool:
    """Return whether enough descriptors are free: the kernel gives out the lowest number that is."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        fd = os.dup(2)
    except OSError:
        return False
    os.close(fd)
    return fd < limit - _FREE_FDS
