"""The proxy, started as by a user: `python run.py` in a process and a session of its own."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any, Final, Self

import psutil

from cluster.processes import with_us
from shared.settings import variables
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import eventually_blocking

__all__ = ["NOT_INSTALLED", "ROOT", "ProxyProcess", "collect", "environment", "is_alive"]

ROOT: Final = Path(__file__).resolve().parent.parent.parent
#: Modules of the tests' environment that users do not have; in here, they cannot be imported.
NOT_INSTALLED: Final = Path(__file__).resolve().parent / "not_installed"
_START_S: Final = 30.0
#: How long the processes that a front end leaves behind may take to end by themselves.
_NOTICE_S: Final = 3.0
#: How long to wait for its output while other processes still hold the pipe.
_HELD_S: Final = 10.0


def environment(**settings: str) -> dict[str, str]:
    """Return this process's environment with all settings at their defaults, except free ports, no journal, JSON lines.

    Settings in the repository's `.env`, or in the environment of the tests, have no effect; nor do packages that only
    development tools need.
    """
    defaults = {name: it.default for name, it in variables().items()}
    ours = {
        "PORT": "0",
        "ADMIN_PORT": "0",
        "JOURNAL": "",
        "LOG_FORMAT": "json",
        "PYTHONPATH": str(NOT_INSTALLED),
    }
    return {**os.environ, **defaults, **ours, **settings}


class ProxyProcess:
    """One run of the proxy; ended at the end of the `with` block."""

    #: The command line.
    PROGRAM: tuple[str, ...] = (sys.executable, str(ROOT / "run.py"))

    def __init__(self, *arguments: str, **settings: str) -> None:
        """Start `python run.py` with these `settings` (by the names of their variables); return at once."""
        #: The lines of stdout and stderr so far.
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._process = subprocess.Popen(
            with_us([*self.PROGRAM, *arguments]),
            env=environment(**settings),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._readers = [
            collect(self._process.stdout, self.stdout),
            collect(self._process.stderr, self.stderr),
        ]

    @classmethod
    def started(cls, *arguments: str, **settings: str) -> Self:
        """Start it and return it when it listens."""
        proxy = cls(*arguments, **settings)
        try:
            proxy.wait_until_listening()
        except BaseException:
            proxy.kill()
            raise
        return proxy

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        left = self.descendants()
        if self.returncode is None:
            self._process.kill()
        with contextlib.suppress(AssertionError):  # the test has checked them; no other test should meet them
            eventually_blocking(lambda: not any(map(is_alive, left)), _NOTICE_S)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.wait()

    # --- its output --------------------------------------------------------------------------------------------------

    @property
    def events(self) -> list[dict[str, Any]]:
        """The log so far: every line that is JSON, parsed."""
        found = []
        for line in list(self.stderr):
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return [line for line in found if isinstance(line, dict)]

    def events_of(self, what: str) -> list[dict[str, Any]]:
        """Return the log's lines about one kind of event."""
        return [line for line in self.events if line.get("event") == what]

    def wait_until_listening(self, timeout_s: float = _START_S) -> dict[str, Any]:
        """Return the log line with its addresses; fail if it ends first."""

        def listening() -> bool:
            assert self.returncode is None, f"it ended with {self.returncode}:\n" + "\n".join(self.stderr)
            return bool(self.events_of("listening"))

        eventually_blocking(listening, timeout_s)
        return self.listening

    @functools.cached_property
    def listening(self) -> dict[str, Any]:
        """The log line with its addresses; cached, because every request needs it and the log can be long."""
        return self.events_of("listening")[0]

    @property
    def url(self) -> str:
        """The base address for clients."""
        return str(self.listening["public"])

    @property
    def queue_job(self) -> str:
        """The URL to post jobs to."""
        return f"{self.url}/queueJob"

    @property
    def admin(self) -> str:
        """The base address of the admin routes."""
        return str(self.listening["admin"])

    @property
    def callback(self) -> str:
        """The base address of the listener for callbacks."""
        return str(self.listening.get("callback", self.url))

    # --- its processes -----------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The front end's process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code; negative for a signal; None while it runs."""
        return self._process.poll()

    def descendants(self) -> list[psutil.Process]:
        """Return every process below the front end: fork server, workers, embedded job server."""
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def stopwatch(self) -> Stopwatch:
        """Start a stopwatch that does not count time in which it, or a descendant, was starved of CPU."""
        return Stopwatch(self.pid, *(process.pid for process in self.descendants()))

    # --- its end -----------------------------------------------------------------------------------------------------

    def signal(self, number: int) -> None:
        """Send a signal to the front end."""
        self._process.send_signal(number)

    def ended_by(self, number: int) -> bool:
        """Send a signal once more; return whether the front end has ended. The first may come too early to count."""
        self.signal(number)
        return self.returncode is not None

    def wait(self, timeout_s: float = 30.0) -> int:
        """Return the exit code once it has ended and its output is read; others may still hold its pipes."""
        code = self._process.wait(timeout_s)
        for reader in self._readers:
            reader.join(_HELD_S)
        return code

    def stop(self, timeout_s: float = 40.0) -> int:
        """Send SIGTERM; return the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def kill(self) -> None:
        """Send SIGKILL if it still runs; its other processes have to notice by themselves."""
        if self.returncode is None:
            self._process.kill()
        self.wait()


def is_alive(process: psutil.Process) -> bool:
    """Return whether it has not ended. A zombie has ended, even if nobody here reaps it."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def collect(pipe: IO[str] | None, lines: list[str]) -> threading.Thread:
    """Read `pipe` into `lines` until the last process that holds its other end has ended, then close it."""
    assert pipe is not None

    def read() -> None:
        with pipe:
            lines.extend(line.rstrip("\n") for line in pipe)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread
