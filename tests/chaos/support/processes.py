"""The processes of a chaos test: the proxy whose workers break on request, and a job server."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import psutil

from tests.chaos.support.faulty_proxy import LAG, MEASURE
from tests.chaos.support.names import starved_name
from tests.chaos.support.raw import Raw
from tests.support.proxy_process import NOT_INSTALLED, ROOT, ProxyProcess, collect, environment

__all__ = ["FaultyProxy", "JobServerProcess", "StartProxy"]

_FAULTY = (sys.executable, "-m", "tests.chaos.support.faulty_proxy")


class FaultyProxy(ProxyProcess):
    """A proxy whose workers break when a job asks for it (`chaos`); see faulty_worker.py."""

    def __init__(self, folder: Path, *, prefix: Sequence[str] = (), stdout: int | None = None, **settings: str) -> None:
        """Start it; `folder` is for its marks, `prefix` goes before the command, `stdout` may be a descriptor."""
        self.folder = folder
        #: Whether it has already run its first jobs.
        self.warm = False
        #: How many workers it keeps when it is idle.
        self.spares = int(environment(**settings)["WORKER_SPARES"])
        #: Its ends of connections, as its descriptors call them. The table of all connections is long after some tests.
        self._ends: dict[Raw, str] = {}
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        marks = {
            "CHAOS_DIR": str(folder),
            "CHAOS_LOG": str(folder / "acts"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(NOT_INSTALLED)]),
        }
        self._process = subprocess.Popen(
            [*prefix, *_FAULTY],
            env=environment(**settings) | marks,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._readers = [collect(self._process.stderr, self.stderr)]
        if stdout is None:
            self._readers.append(collect(self._process.stdout, self.stdout))

    def acts(self) -> list[dict[str, Any]]:
        """Return what workers did because a job asked for it, with the time of each."""
        try:
            return [json.loads(line) for line in (self.folder / "acts").read_text().splitlines()]
        except FileNotFoundError:
            return []

    def starved_s(self, ref: str) -> float:
        """Return how long the worker of the job `ref` waited for CPU time; each of its reports says so."""
        try:
            return float((self.folder / starved_name(ref)).read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return 0.0

    def acts_of(self, ref: str) -> list[dict[str, Any]]:
        """Return everything that the job `ref` made its worker do."""
        return [act for act in self.acts() if act["ref"] == ref]

    def act(self, ref: str) -> dict[str, Any]:
        """Return the first thing that the job `ref` made its worker do."""
        return self.acts_of(ref)[0]

    def fork_server_pid(self) -> int:
        """Return the process that forks the workers. Raises ValueError while there is none.

        Orphaned workers become the front end's children as well; unlike them, the fork server has its own session.
        """
        return max(process.pid for process in psutil.Process(self.pid).children() if _leads_a_session(process.pid))

    def lost_workers(self) -> list[int]:
        """Return the workers whose fork server is gone."""
        return [child.pid for child in psutil.Process(self.pid).children() if not _leads_a_session(child.pid)]

    def has_worker(self, pid: int) -> bool:
        """Return whether `pid` is a living process below the front end."""
        return any(p.pid == pid and p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in self.descendants())

    def memory_bytes(self) -> int:
        """Return the front end's resident memory."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def connections(self) -> int:
        """Return how many sockets the front end has."""
        return len(self._sockets())

    def _sockets(self) -> list[str]:
        links = []
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                links.append(str(link.readlink()))
        return [link for link in links if link.startswith("socket:")]

    def serves(self, raw: Raw) -> bool:
        """Return whether the front end still has its end of this connection."""
        sockets = self._sockets()
        if raw not in self._ends:
            peer = f":{raw.port:04X}"
            connections = map(str.split, Path(f"/proc/{self.pid}/net/tcp").read_text(encoding="ascii").splitlines())
            inodes = {f"socket:[{fields[9]}]" for fields in connections if fields[2].endswith(peer)}  # of any process
            found = inodes.intersection(sockets)
            if not found:
                return False
            (self._ends[raw],) = found
        return self._ends[raw] in sockets

    def lag_s(self) -> tuple[float, str]:
        """Return the event loop's longest lag since the last reset, its own part, and what is known of it."""
        own_s, cpu_s, faults, all_s, _, _ = LAG.unpack_from((self.folder / "lag").read_bytes())
        return own_s, f"{cpu_s:.3f} s computing, {faults:.0f} pages read from disk, {all_s:.3f} s in all"

    def late_looks(self) -> tuple[int, int]:
        """Return the number of lag measurements since the last reset, and how many were over 20 ms."""
        *_, looks, late = LAG.unpack_from((self.folder / "lag").read_bytes())
        return looks, late

    def reset_lag(self) -> None:
        """Start the lag measurement, or start it again."""
        with (self.folder / "lag").open("r+b") as file:
            file.write(bytes(LAG.size) + b"\x01")
        self.signal(MEASURE)

    def end_lag(self) -> None:
        """End it; the figures stay."""
        with (self.folder / "lag").open("r+b") as file:
            file.seek(LAG.size)
            file.write(b"\x00")


def _leads_a_session(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return False


class StartProxy(Protocol):
    """The type of the fixture `start_proxy`."""

    def __call__(
        self, *, hasty: bool = False, prefix: Sequence[str] = (), stdout: int | None = None, **settings: str
    ) -> FaultyProxy:
        """Start a proxy and wait until it listens; `hasty` is for tests that wait for deadlines."""


class JobServerProcess:
    """A job server; it exits with this process, however that ends."""

    def __init__(self, *arguments: str) -> None:
        """Start it and wait until it listens."""
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.chaos.support.job_server"),
                *("--port", "0", "--announce", "--exit-with-parent", "--duration", "0.05", *arguments),
            ],
            # aiohttp, which it loads before the job server's `main`, would read the system's certificates.
            env={**os.environ, "PYTHONPATH": str(ROOT), **dict.fromkeys(("SSL_CERT_FILE", "SSL_CERT_DIR"), os.devnull)},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url: str = json.loads(self._process.stdout.readline())["listening"]
        self.base = self.url.removesuffix("/start")

        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop it."""
        self._process.kill()
        self._process.communicate()
