"""One run of the benchmark: the job server that all share, and contenders that are started and ended."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.contenders.table import Contender
from bench.load import LoadError
from bench.processes import Process, StartError, command_line, cpu_s, descendants, first_thread_cpu_s
from bench.profile import profile_with
from cluster.postgresql import PostgreSQL, PostgreSQLError

__all__ = ["Proxy", "Session", "open_session"]

#: How long to wait after the load until the processes that served it have ended and are counted.
_SETTLE_S: Final = 0.4


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running contender."""

    process: Process
    url: str
    #: The first process of its database; 0: it has none.
    database: int = 0
    #: The pid of its fork server, if it is this project's; 0: it has none.
    fork_server: int = 0

    @property
    def pid(self) -> int:
        """The pid of its first process."""
        return self.process.pid

    def fork_server_cpu_s(self) -> float:
        """Return what its fork server has used so far, not including the workers."""
        return first_thread_cpu_s(self.fork_server) if self.fork_server else 0.0

    def database_cpu_s(self) -> float:
        """Return what its database has used so far."""
        return cpu_s(self.database) if self.database else 0.0

    def event_loop_cpu_s(self) -> float:
        """Return what its first thread has used so far: its event loop, if it has one."""
        return first_thread_cpu_s(self.pid)

    def cpu_s(self) -> float:
        """Return what it has used so far, including its database."""
        return cpu_s(self.pid) + self.database_cpu_s()


@dataclass(frozen=True, slots=True)
class Session:
    """The context of every measurement."""

    job_server: Process
    #: The user's additional settings for this project's proxy.
    extra: Mapping[str, str]
    #: What could not be measured, and why.
    failures: list[str] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def running(self, contender: Contender, settings: Mapping[str, str] | None = None) -> AsyncIterator[Proxy]:
        """Start a contender, wait until it answers, end it."""
        with contextlib.ExitStack() as stack:
            database = stack.enter_context(PostgreSQL()) if contender.journal == "database" else None
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
            journal = database.url() if database is not None else f"{folder}/jobs.sqlite3"
            environment = {
                **contender.environment,
                "PORT": "0",
                "JOB_SERVER_URL": f"{self.job_server.url}/start",
                **(self.extra if contender.ours else {}),
                **({"JOURNAL": journal} if contender.journal else {}),
                **({"PROFILE": str(profile_with(Path(folder), "true"))} if contender.keep_alive else {}),
                **(settings or {}),
            }
            process = Process(contender.name, contender.command, environment, contender.folder)
            try:
                url = await process.ready()
                yield Proxy(
                    process,
                    f"{url}/queueJob",
                    database.pids[0] if database is not None else 0,
                    _fork_server(process.pid) if contender.ours else 0,
                )
            finally:
                await process.stop()

    @contextlib.asynccontextmanager
    async def attempt(self, title: str) -> AsyncIterator[None]:
        """Print what is measured; if it fails, print that instead of the figures, record it, and continue."""
        print(f"  {title:30}", end="", flush=True)
        try:
            yield
        except (LoadError, StartError, PostgreSQLError, OSError, TimeoutError) as exc:
            reason = str(exc) or type(exc).__name__
            self.failures.append(f"{title.strip()}: {reason}")
            print(f"failed: {reason}", flush=True)

    def say(self, text: str) -> None:
        """End the line that `attempt` began."""
        print(text, flush=True)

    async def settle(self) -> None:
        """Wait for work after the last answer: ended processes are reaped, spares are started."""
        await asyncio.sleep(_SETTLE_S)

    def job_server_cpu_s(self) -> float:
        """Return what the job server has used so far."""
        return cpu_s(self.job_server.pid)


def _fork_server(front_end: int) -> int:
    """Return the pid of the front end's fork server."""
    children = (pid for pid, (parent, _) in descendants(front_end).items() if parent == front_end)
    return next((pid for pid in children if b"\0worker\0" in command_line(pid)), 0)


@contextlib.asynccontextmanager
async def open_session(extra: Mapping[str, str]) -> AsyncIterator[Session]:
    """Start the job server and end it."""
    job_server = Process("job_server", [sys.executable, "-m", "bench.job_server"], {})
    try:
        await job_server.ready()
        yield Session(job_server, extra)
    finally:
        await job_server.stop()
