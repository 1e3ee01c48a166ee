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
        self._cgroups = _own_cgroups(proc, cgroup)
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
        return min([*free, *self._free_in_cgroups("pids.max", "pids.current")], default=_FREE_PIDS)

    def _free_memory_bytes(self) -> int:
        free = []
        with contextlib.suppress(OSError, ValueError, IndexError, StopIteration):
            lines = _read(self._proc / "meminfo").splitlines()
            free.append(int(next(x for x in lines if x.startswith("MemAvailable:")).split()[1]) * 1024)
        return min([*free, *self._free_in_cgroups("memory.max", "memory.current")], default=_FREE_MEMORY_BYTES)

    def _free_in_cgroups(self, limit_name: str, used_name: str) -> list[int]:
        """Return what each cgroup with a limit still allows."""
        free = []
        for cgroup in self._cgroups:
            with contextlib.suppress(OSError, ValueError):
                limit, used = _read(cgroup / limit_name), int(_read(cgroup / used_name))
                if limit != "max":
                    free.append(int(limit) - used)
        return free


def _own_cgroups(proc: Path, root: Path) -> list[Path]:
    """Return this process's cgroup and those above it: each may have a limit, and all of them hold.

    In a container its own cgroup looks like the root; under systemd it is the service's.
    """
    with contextlib.suppress(OSError, StopIteration):
        name = next(x for x in _read(proc / "self/cgroup").splitlines() if x.startswith("0::")).removeprefix("0::")
        own = root / name.lstrip("/")
        return [own, *(above for above in own.parents if above.is_relative_to(root))]
    return [root]


def _read(path: Path) -> str:
    return path.read_text(encoding="ascii").strip()


def _descriptors_left() -> bool:
    """Return whether enough descriptors are free."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        lowest = os.dup(2)
    except OSError:
        return False
    os.close(lowest)
    # Since Linux 6.2 the size of this folder is how many are open. Before, the lowest that is free has to do: it is
    # never more than that.
    return max(lowest, os.stat("/proc/self/fd").st_size) < limit - _FREE_FDS  # noqa: PTH116 - for every job, so cheap
