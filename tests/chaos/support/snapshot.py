"""Everything of a proxy that can leak: processes, zombies, descriptors, threads, shared memory."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.chaos.support.names import semaphore_prefix

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - read, not written to

__all__ = ["Snapshot", "orphans", "take"]


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
    below = psutil.Process(front_end).children(recursive=True)
    states = [_status(process) for process in below]
    own = psutil.Process(front_end).children()
    return Snapshot(
        processes=sum(state not in {psutil.STATUS_ZOMBIE, ""} for state in states),
        zombies=states.count(psutil.STATUS_ZOMBIE),
        descriptors=_count(front_end, "fd"),
        fork_server_descriptors=max((_count(process.pid, "fd") for process in own), default=0),
        threads=_count(front_end, "task"),
        kinds=_kinds(front_end),
        shared_memory=frozenset(path.name for path in _SHARED_MEMORY.glob(f"*{semaphore_prefix(folder)}*")),
        orphans=frozenset(orphans()),
    )


def orphans() -> set[int]:
    """Return this test process's children, including adopted ones."""
    return {process.pid for process in psutil.Process().children()}


def _count(pid: int, what: str) -> int:
    try:
        return len(list(Path(f"/proc/{pid}/{what}").iterdir()))
    except OSError:
        return 0


def _kinds(pid: int) -> str:
    names = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            names.append(str(link.readlink()).partition(":[")[0])
    return ", ".join(f"{count} {name}" for name, count in sorted(Counter(names).items()))


def _status(process: psutil.Process) -> str:
    try:
        return process.status()
    except psutil.NoSuchProcess:
        return ""


def _describe(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        return f"{pid} {process.status()} {' '.join(process.cmdline())}"
    except psutil.Error:
        return f"{pid} gone"
