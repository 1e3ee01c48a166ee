"""Starts, measures and ends the processes of the benchmark, each by its pid."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

__all__ = [
    "LOGS",
    "ROOT",
    "Process",
    "StartError",
    "command_line",
    "cpu_s",
    "descendants",
    "first_thread_cpu_s",
    "live_cpu_s",
    "private_bytes",
    "stat_fields",
]

ROOT: Final = Path(__file__).resolve().parent.parent
#: Where the programs' stderr goes.
LOGS: Final = ROOT / "build" / "bench"
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
#: As for a user: a second start uses the modules that the first one compiled.
_ENVIRONMENT: Final = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
_START_S: Final = 20.0
_GRACE_S: Final = 5.0


class StartError(Exception):
    """A program did not start; the message says where its log is."""


class Process:
    """One program of the benchmark and its child processes."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path = ROOT) -> None:
        """Start `command` in `folder`; its stderr is appended to a file named after `name`."""
        LOGS.mkdir(parents=True, exist_ok=True)
        self.log = LOGS / f"{name}.log"
        self.started = time.monotonic()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={**_ENVIRONMENT, **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self.url = ""

    async def ready(self) -> str:
        """Wait for the line that names the address, and return the address. Raises StartError."""
        try:
            async with asyncio.timeout(_START_S):
                self.url = await asyncio.to_thread(self._read_url)
        except TimeoutError:
            self.url = ""
        if not self.url:
            await self.stop()
            raise StartError(f"it did not say where it listens; see {self.log}")
        return self.url

    def _read_url(self) -> str:
        """Read until the first address; empty if the program ends before."""
        for line in self._process.stdout or ():
            if found := re.search(rb"http://[\w.:]+", line):
                return found.group().decode()
        return ""

    async def stop(self) -> None:
        """Send SIGTERM, and after the grace period SIGKILL to it and its remaining descendants."""
        family = descendants(self.pid)
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self._process.wait, _GRACE_S)
        except subprocess.TimeoutExpired:
            for pid in (self.pid, *descendants(self.pid)):
                _kill(pid)
            await asyncio.to_thread(self._process.wait)
        for pid, (_, started) in family.items():
            if _is_ours(pid, started):
                _kill(pid)
        if self._process.stdout is not None:
            self._process.stdout.close()


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _is_ours(pid: int, started: int) -> bool:
    """Return whether the pid still belongs to the process that started at that time, not to a later one."""
    fields = stat_fields(pid)
    return bool(fields) and int(fields[19]) == started and fields[0] != "Z"


def stat_fields(pid: int) -> list[str]:
    """Return the fields of /proc/pid/stat from the third one on; empty if there is no such process (proc(5))."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()
    except OSError:
        return []


def descendants(root: int) -> dict[int, tuple[int, int]]:
    """Return the descendants of `root`, parents first: each pid with its parent's and its start time in clock ticks."""
    children: dict[int, list[tuple[int, int]]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - a thousand Path objects would be wasteful
        fields = stat_fields(int(name)) if name.isdecimal() else []
        if fields:
            children.setdefault(int(fields[1]), []).append((int(name), int(fields[19])))
    found: dict[int, tuple[int, int]] = {}
    to_visit = [root]
    for parent in to_visit:
        for pid, started in children.get(parent, []):
            found[pid] = (parent, started)
            to_visit.append(pid)
    return found


def command_line(pid: int) -> bytes:
    """Return a process's command line, its arguments separated by NUL bytes; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def cpu_s(root: int) -> float:
    """Return the CPU seconds that `root` and its descendants have used so far, including reaped children.

    Live processes are counted to the nanosecond, because each of many workers with short jobs may have used less than a
    clock tick. The time of a process that nobody waits for is lost; no contender has such processes.
    """
    total_s = 0.0
    for pid in (root, *descendants(root)):
        fields = stat_fields(pid)
        if fields:
            user, system, *reaped = (int(field) / _TICKS_PER_S for field in fields[11:15])
            total_s += max(user + system, _threads_s(pid)) + sum(reaped)
    return total_s


def first_thread_cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process's first thread, to the nanosecond. Raises OSError if it is gone."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text(encoding="ascii").split()[0]) / 1e9


def live_cpu_s(root: int) -> float:
    """Return the CPU seconds of the live threads, to the nanosecond if the kernel reports it."""
    return sum(_threads_s(pid) for pid in (root, *descendants(root)))


def _threads_s(pid: int) -> float:
    """Return the CPU seconds of a process's live threads."""
    total_ns = 0
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                total_ns += int((task / "schedstat").read_text(encoding="ascii").split()[0])
    return total_ns / 1e9


def private_bytes(pid: int) -> int | None:
    """Return the memory that belongs to this process alone (smaps_rollup, proc(5)); None if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:")))
