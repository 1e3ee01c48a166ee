"""Whether the machine has room for another worker: refuse before something runs out, rather than break when it has.

Looked at only when somebody asks, and at most every `_FRESH_S`, so a quiet proxy does nothing. A shortage is looked at
until it is over, as the log says that too. Reading these files of /proc does not block: the kernel makes their
content on the spot.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import time
from pathlib import Path
from typing import Final

from proxy import log
from proxy.jobs.cgroups import Cgroups

__all__ = ["Headroom"]

_FRESH_S: Final = 0.5
_AGAIN_S: Final = 1.0
#: Descriptors that must stay free: for callbacks, workers on their way, and everything else.
_FREE_FDS: Final = 64
_FREE_PIDS: Final = 64
_FREE_MEMORY_BYTES: Final = 64 * 1024 * 1024
#: So much more has to be free again until a shortage is over, or it would begin and end with every job.
_MARGIN: Final = 1.25


class Headroom:
    """Says what resource is short."""

    def __init__(self, proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> None:
        self._proc = proc
        self._cgroups = Cgroups(proc, cgroup)
        self._checked = float("-inf")
        self._shortage = ""
        self._short_since: float | None = None

    def shortage(self) -> str:
        """Return what the machine is short of, or nothing."""
        now = time.monotonic()
        margin = 1.0 if self._short_since is None else _MARGIN
        if now - self._checked >= _FRESH_S:
            self._checked = now
            self._shortage = self._look(margin)
        found = self._shortage if self._descriptors_left(margin) else "file descriptors"
        if bool(found) is (self._short_since is None):
            self._begin_or_end(found, now)
        return found

    def has_descriptors(self) -> bool:
        """Return whether to let in who may hold a connection for long. The last descriptors are for callbacks."""
        return self._descriptors_left(1.0)

    def _begin_or_end(self, shortage: str, now: float) -> None:
        if self._short_since is not None:
            log.event("info", "the machine has room again", refused_s=round(now - self._short_since, 1))
            self._short_since = None
            return
        self._short_since = now
        log.event("error", "new jobs are refused until the machine has room", short_of=shortage)
        with contextlib.suppress(
            RuntimeError
        ):  # without an event loop nothing is served, and nothing waits for the end
            asyncio.get_running_loop().call_later(_AGAIN_S, self._look_again)

    def _look_again(self) -> None:
        if self.shortage():
            asyncio.get_running_loop().call_later(_AGAIN_S, self._look_again)

    def _look(self, margin: float) -> str:
        if self._free_pids() < _FREE_PIDS * margin:
            return "process ids"
        if self._free_memory_bytes() < _FREE_MEMORY_BYTES * margin:
            return "memory"
        return ""

    def _free_pids(self) -> float:
        free: list[float] = [*self._cgroups.free_pids()]
        with contextlib.suppress(OSError, ValueError, IndexError):
            tasks = int(_read(self._proc / "loadavg").split()[3].partition("/")[2])
            limits = [int(_read(self._proc / f"sys/kernel/{name}")) for name in ("pid_max", "threads-max")]
            free.append(min(limits) - tasks)
        return min(free, default=float("inf"))

    def _free_memory_bytes(self) -> float:
        free: list[float] = [*self._cgroups.free_memory_bytes()]
        with contextlib.suppress(OSError, ValueError, IndexError, StopIteration):
            lines = _read(self._proc / "meminfo").splitlines()
            free.append(int(next(x for x in lines if x.startswith("MemAvailable:")).split()[1]) * 1024)
        return min(free, default=float("inf"))

    def _descriptors_left(self, margin: float) -> bool:
        """Return whether enough descriptors are free."""
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = 0
        with contextlib.suppress(OSError):
            # Since Linux 6.2 the size of this folder is how many are open.
            used = os.stat("/proc/self/fd").st_size  # noqa: PTH116 - for every job, so cheap
        if not used:  # the lowest that is free has to do: it is never more than that
            try:
                used = os.dup(2)
            except OSError:
                return False
            os.close(used)
        return limit == resource.RLIM_INFINITY or used < limit - _FREE_FDS * margin


def _read(path: Path) -> str:
    return path.read_text(encoding="ascii").strip()
