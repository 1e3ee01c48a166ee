"""Whether the machine has resources for another worker: refuse jobs before something runs out, rather than fail then.

Checked only on demand, and at most every `_FRESH_S`, so an idle proxy does nothing. A shortage is checked until it is
over, because the log says that too. Reading these files of /proc and of the control groups does not block: the kernel
generates their content in memory.

What counts is the minimum of the machine's resources and what each control group of this process allows. The workers
that jobs in flight still need count as started: otherwise, a burst of jobs would be accepted for the room of one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy import log

__all__ = ["Headroom"]

_FRESH_S: Final = 0.5
_AGAIN_S: Final = 1.0
#: Descriptors that must stay free: for callbacks, workers being started, and everything else.
_FREE_FDS: Final = 64
_FREE_PIDS: Final = 64
_FREE_MEMORY_BYTES: Final = 64 * 1024 * 1024
_DESCRIPTORS: Final = "file descriptors"
#: About what a worker takes: memory of its own, tasks (one that resolves a host name has a thread for it), and
#: descriptors here.
_WORKER_BYTES: Final = (2 if sys.version_info >= (3, 12) else 4) * 1024 * 1024
_WORKER_TASKS: Final = 2
_WORKER_FDS: Final = 3
#: A shortage is over only when this factor is free; otherwise it would begin and end with every job.
_MARGIN: Final = 1.25


class Headroom:
    """Says which resource is short."""

    def __init__(
        self,
        jobs: Callable[[], int] = lambda: 0,
        workers: Callable[[], int] = lambda: 0,
        *,
        reused: bool = False,
        proc: Path = Path("/proc"),
        cgroup: Path = Path("/sys/fs/cgroup"),
    ) -> None:
        """`jobs` returns how many jobs have or need a worker, `workers` how many workers there are.

        `reused`: a worker serves several jobs, so that one more job needs no more room while a worker is idle.
        """
        self._jobs = jobs
        self._workers = workers
        self._reused = reused
        self._proc = proc
        self._cgroups = _Cgroups(proc, cgroup)
        self._checked = float("-inf")
        #: What was free when it was checked last, and how many workers there were then.
        self._pids = self._memory_bytes = float("inf")
        self._counted = 0
        self._short_since: float | None = None

    def shortage(self) -> str:
        """Return the resource that is short, or nothing."""
        now = time.monotonic()
        margin = 1.0 if self._short_since is None else _MARGIN
        is_fresh = now - self._checked >= _FRESH_S
        if is_fresh:
            self._checked = now
            self._count()
        found = self._short_of(margin)
        if bool(found) is (self._short_since is None) and (found or is_fresh):  # not with each job that ends
            self._begin_or_end(found, now)
        return found if found == _DESCRIPTORS or not self._has_idle_worker() else ""

    def has_descriptors(self) -> bool:
        """Return whether requests that hold connections for long are accepted. Callbacks get the last descriptors."""
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
        self.shortage()
        if self._short_since is not None:
            asyncio.get_running_loop().call_later(_AGAIN_S, self._look_again)

    def look(self) -> str:
        """Return which of the machine's resources is short now, or nothing, without a line in the log."""
        self._count()
        return self._short_of(1.0)

    def _count(self) -> None:
        self._pids, self._memory_bytes = self._free_pids(), self._free_memory_bytes()
        self._counted = self._workers()

    def _has_idle_worker(self) -> bool:
        return self._reused and self._jobs() < self._workers()

    def _short_of(self, margin: float) -> str:
        coming = max(0, self._jobs() - self._counted)
        if not self._descriptors_left(margin):
            return _DESCRIPTORS
        if self._pids - coming * _WORKER_TASKS < _FREE_PIDS * margin:
            return "process ids"
        if self._memory_bytes - coming * _WORKER_BYTES < _FREE_MEMORY_BYTES * margin:
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
            # Since Linux 6.2, the size of this folder is the number of open descriptors.
            used = os.stat("/proc/self/fd").st_size  # noqa: PTH116 - cheap, because it is done for every job
        if not used:  # use the lowest free descriptor instead: it is never higher than their number
            try:
                used = os.dup(2)
            except OSError:
                return False
            os.close(used)
        used += max(0, self._jobs() - self._workers()) * _WORKER_FDS
        return limit == resource.RLIM_INFINITY or used < limit - _FREE_FDS * margin


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    """The names of files and their members in one version."""

    memory_limits: tuple[str, ...]
    memory_used: str
    #: The prefix of the members of memory.stat that include the groups below.
    stat_prefix: str
    mapped: str


_V1: Final = _Names(
    memory_limits=("memory.limit_in_bytes",),
    memory_used="memory.usage_in_bytes",
    stat_prefix="total_",
    mapped="mapped_file",
)
#: Beyond `memory.high` (systemd's MemoryHigh) nothing is killed: every process is slowed down to a standstill.
_V2: Final = _Names(
    memory_limits=("memory.max", "memory.high"),
    memory_used="memory.current",
    stat_prefix="",
    mapped="file_mapped",
)


class _Cgroups:
    """What this process's control groups still allow: its own and each one above it, of version 1 and version 2.

    In a container, its own group looks like the root; under systemd, it is the service's.

    Page cache counts as used memory there, although the kernel would reclaim it before killing anything: a process that
    only reads and writes files soon "uses" all memory of its container. So free memory is the limit minus what cannot
    be reclaimed: file cache, active or inactive, does not count, as in the machine's MemAvailable. Mapped files, such
    as running code, do count: reclaiming them would stall everything.
    """

    def __init__(self, proc: Path, root: Path) -> None:
        """`proc` and `root` are where procfs and the control groups are mounted."""
        self._memory: list[tuple[Path, _Names]] = []
        self._pids: list[Path] = []
        for mount, name, controllers in _memberships(proc, root):
            folders = _with_those_above(mount, name)
            if not controllers:
                self._memory += [(folder, _V2) for folder in folders]
                self._pids += folders
            if "memory" in controllers:
                self._memory += [(folder, _V1) for folder in folders]
            if "pids" in controllers:
                self._pids += folders

    def free_memory_bytes(self) -> list[int]:
        """Return the free memory of each group with a limit, in bytes."""
        free = []
        for folder, names in self._memory:
            with contextlib.suppress(OSError, ValueError):
                used = int(_read(folder / names.memory_used))
                limit = min(_limits(folder, names), default=None)
                if limit is not None:
                    free.append(limit - used + _reclaimable_bytes(folder, names))
        return free

    def free_pids(self) -> list[int]:
        """Return how many further processes and threads each group with a limit allows."""
        free = []
        for folder in self._pids:
            with contextlib.suppress(OSError, ValueError):
                limit, used = _read(folder / "pids.max"), int(_read(folder / "pids.current"))
                if limit != "max":
                    free.append(int(limit) - used)
        return free


def _memberships(proc: Path, root: Path) -> Iterator[tuple[Path, str, set[str]]]:
    """Yield each hierarchy's mount point, this process's group in it, and its controllers; none: version 2."""
    try:
        lines = _read(proc / "self/cgroup").splitlines()
    except OSError:
        yield root, "/", set()
        return
    for line in lines:
        _, _, group = line.partition(":")
        controllers, is_group, name = group.partition(":")
        if not is_group:
            continue
        yield (root / controllers if controllers else root), name, set(filter(None, controllers.split(",")))


def _with_those_above(mount: Path, name: str) -> list[Path]:
    own = mount / name.lstrip("/")
    return [own, *(above for above in own.parents if above.is_relative_to(mount))]


def _limits(folder: Path, names: _Names) -> Iterator[int]:
    for name in names.memory_limits:
        with contextlib.suppress(OSError, ValueError):  # ValueError: `max`, which is no limit
            yield int(_read(folder / name))


def _reclaimable_bytes(folder: Path, names: _Names) -> int:
    members: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in _read(folder / "memory.stat").splitlines():
            name, value = line.split()
            members[name] = int(value)

    def member(name: str) -> int:
        return members.get(names.stat_prefix + name, 0)

    return member("inactive_file") + max(0, member("active_file") - member(names.mapped))


def _read(path: Path) -> str:
    # A group's name may contain anything.
    return path.read_text(encoding="utf-8", errors="surrogateescape").strip()
