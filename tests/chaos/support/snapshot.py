"""Everything of a proxy that can leak: processes, zombies, descriptors, threads, shared memory."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from tests.chaos.support.names import semaphore_prefix
from tests.support.proc_files import read

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - read, not written to
#: As in proc(5), the third field of /proc/PID/stat.
_ZOMBIE: Final = "Z"

__all__ = ["Snapshot", "take"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Counts at one moment."""

    #: Below the front end, without zombies.
    processes: int
    zombies: int
    #: Of the front end and of the process that forks its workers.
    descriptors: int
    fork_server_descriptors: int
    threads: int
    #: What the front end's descriptors are, for people.
    kinds: str = field(compare=False)
    #: This proxy's names in /dev/shm.
    shared_memory: frozenset[str]
    #: Processes that lost their parent and became children of this test.
    orphans: frozenset[int]

    def more_than(self, before: Snapshot) -> dict[str, object]:
        """Return what there is more of than before, and which processes are missing."""
        counts = {
            name: (getattr(before, name), getattr(self, name))
            for name in ("zombies", "descriptors", "fork_server_descriptors", "threads")
            if getattr(self, name) > getattr(before, name)
        }
        more: dict[str, object] = dict(counts)
        if self.processes != before.processes:
            more["processes"] = (before.processes, self.processes)
        if "descriptors" in more:
            more["kinds"] = (before.kinds, self.kinds)
        if left := self.shared_memory - before.shared_memory:
            more["shared_memory"] = sorted(left)
        if left_pids := self.orphans - before.orphans:
            more["orphans"] = [_describe(pid) for pid in left_pids]
        return more


def take(front_end: int, folder: Path) -> Snapshot:
    """Take a snapshot of the proxy with this folder, whose front end has this pid."""
    own = list(_children(front_end))
    states = [state for pid in _below(front_end) if (state := _state(pid))]
    return Snapshot(
        processes=sum(state != _ZOMBIE for state in states),
        zombies=states.count(_ZOMBIE),
        descriptors=_count(front_end, "fd"),
        fork_server_descriptors=max((_count(pid, "fd") for pid in own), default=0),
        threads=_count(front_end, "task"),
        kinds=_kinds(front_end),
        shared_memory=frozenset(path.name for path in _SHARED_MEMORY.glob(f"*{semaphore_prefix(folder)}*")),
        orphans=frozenset(_children(os.getpid())),
    )


def _children(pid: int) -> Iterator[int]:
    """Yield the children of a process, which are those of its threads (proc(5)); there are far more processes."""
    with contextlib.suppress(OSError):  # it has ended
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - called often
            with contextlib.suppress(OSError):
                yield from map(int, read(f"/proc/{pid}/task/{thread}/children").split())


def _below(pid: int) -> Iterator[int]:
    """Yield every descendant."""
    for child in _children(pid):
        yield child
        yield from _below(child)


def _state(pid: int) -> str:
    """Return the state of a process; empty if it has ended."""
    try:
        return read(f"/proc/{pid}/stat").rpartition(") ")[2][:1]
    except OSError:
        return ""


def _count(pid: int, what: str) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/{what}"))  # noqa: PTH208 - as above
    except OSError:
        return 0


def _kinds(pid: int) -> str:
    names = []
    for fd in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 - as above
        with contextlib.suppress(OSError):
            names.append(os.readlink(f"/proc/{pid}/fd/{fd}").partition(":[")[0])  # noqa: PTH115 - as above
    return ", ".join(f"{count} {name}" for name, count in sorted(Counter(names).items()))


def _describe(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        return f"{pid} {process.status()} {' '.join(process.cmdline())}"
    except psutil.Error:
        return f"{pid} gone"
