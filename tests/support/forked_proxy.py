"""The proxy, forked from a process that has loaded its modules: loading them takes half of the CPU of a start.

From `main` on it is the same front end, with a fork server of its own. Tests of a start, and of the program as users
start it, need a `ProxyProcess`.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from proxy.workers.orphans import become_subreaper
from tests.support.coverage import HANDED_ON
from tests.support.proxy_process import ROOT, START_S, ProxyProcess, environment
from tests.support.waiting import eventually_blocking

__all__ = ["ForkedProxy"]


class ForkedProxy(ProxyProcess):
    """A `ProxyProcess` that takes less time to start."""

    #: What is run, as by `python -m`.
    MODULE = "proxy"

    _has_spares = False

    def wait_until_listening(self, timeout_s: float = START_S) -> dict[str, Any]:
        """Wait for the first spare as well: here, the fork server takes longer to load than the front end does."""
        listening = super().wait_until_listening(timeout_s)
        if self._has_spares:
            eventually_blocking(lambda: any(map(_children, _children(self.pid))), timeout_s)
        return listening

    def _start(self, arguments: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[str]:
        if HANDED_ON in environ:  # its coverage would not be measured
            return super()._start(arguments, environ)
        self._has_spares = environ["WORKER_SPARES"] != "0"
        return _Forked(
            [self.MODULE, *arguments], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


class _Forked(subprocess.Popen[str]):
    """A process that was forked for us, and is our child."""

    def _execute_child(self, args: Sequence[str], *details: Any) -> None:
        """See `subprocess.Popen`: called once the pipes are made."""
        environ, stdout, stderr = details[5], details[12], details[14]
        self.pid = _preloaded.fork(*args, environ=environ, descriptors=(stdout, stderr))
        self._child_created = True
        os.close(stdout)
        os.close(stderr)


class _Preloaded:
    """The process that forks, started when it is first needed; it ends with this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: socket.socket | None = None

    def fork(self, module: str, *arguments: str, environ: Mapping[str, str], descriptors: Sequence[int]) -> int:
        """Return the id of a new front end, whose stdout and stderr are `descriptors`."""
        with self._lock:
            self._requests = self._requests or self._start()
            socket.send_fds(self._requests, [json.dumps([module, arguments, environ]).encode()], descriptors)
            return int(self._requests.recv(64))

    def _start(self) -> socket.socket:
        become_subreaper()  # of the front ends, which it orphans
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environ = environment()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.preloaded"],
                env=environ | {"PYTHONPATH": os.pathsep.join([environ["PYTHONPATH"], str(ROOT)])},
                cwd=ROOT,
                stdin=theirs.fileno(),
                start_new_session=True,
            )
        atexit.register(self._end, ours)
        return ours

    def _end(self, requests: socket.socket) -> None:
        requests.close()
        self._process.wait()


_preloaded = _Preloaded()


def _children(pid: int) -> list[int]:
    """Return the children of all threads of a process, without looking at all processes."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it has ended
            found += map(int, thread.read_text(encoding="ascii").split())
    return found
