"""What the control groups of this process still allow: its own and each one above it, of version 1 and version 2.

Page cache counts as used memory there, although the kernel gives it back before it would ever kill: a process that only
wrote and read files soon "uses" all that its container may have. So what is free is the limit less what cannot be taken
back: neither files that nobody uses now, nor those in use, as MemAvailable has it for the whole machine. Files that are
mapped, such as the code that runs, are left out: to take these back would stall everything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Cgroups"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    """What the files and their members are called in one version."""

    memory_limits: tuple[str, ...]
    memory_used: str
    #: Before the members of memory.stat that count the groups below as well.
    stat_prefix: str
    mapped: str


_V1: Final = _Names(
    memory_limits=("memory.limit_in_bytes",),
    memory_used="memory.usage_in_bytes",
    stat_prefix="total_",
    mapped="mapped_file",
)
#: Beyond `memory.high` (systemd's MemoryHigh) nothing is killed: every process is slowed down until it stands.
_V2: Final = _Names(
    memory_limits=("memory.max", "memory.high"),
    memory_used="memory.current",
    stat_prefix="",
    mapped="file_mapped",
)


class Cgroups:
    """The control groups that limit this process.

    In a container its own looks like the root; under systemd it is the service's.
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
        """Return what each group with a limit still has to give, in bytes."""
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
    """Yield where each hierarchy is mounted, this process's group in it, and its controllers; none: version 2."""
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
        with contextlib.suppress(OSError, ValueError):  # ValueError: `max`, which is none
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
    # A group may be called anything.
    return path.read_text(encoding="utf-8", errors="surrogateescape").strip()
