"""A proxy that is killed and restarted, with the same address and the same journal."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Self

import psutil

from cluster.processes import reserve
from tests.support.proxy_process import ProxyProcess, is_alive
from tests.support.stopwatch import Stopwatch

__all__ = ["Restarts"]

#: How long the processes that were left behind may take to end, and how often to check.
_GONE_S = 2.0
_LOOK_S = 0.01


class Restarts:
    """One proxy after the other; ended at the end of the `with` block."""

    #: The kind of process that is started each time.
    KIND: type[ProxyProcess] = ProxyProcess

    def __init__(self, folder: Path, **settings: str) -> None:
        """Start the first one; its journal is in `folder`, unless the settings name another one."""
        self._reservation = reserve()
        self.journal = folder / "jobs.sqlite3"
        port = str(self._reservation.getsockname()[1])
        self._settings = {"PORT": port, "JOURNAL": str(self.journal), "WORKER_SPARES": "4"} | settings
        self._left: list[psutil.Process] = []
        #: How often it was killed.
        self.kills = 0
        self.proxy = self.KIND.started(**self._settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._reservation.close()

    @property
    def url(self) -> str:
        """The base address for clients."""
        return f"http://127.0.0.1:{self._settings['PORT']}"

    @property
    def queue_job(self) -> str:
        """The URL to post jobs to."""
        return f"{self.url}/queueJob"

    def kill(self) -> None:
        """Kill the front end by SIGKILL."""
        self._left += self.proxy.descendants()
        self.kills += 1
        self.proxy.kill()

    def start(self, **settings: str) -> None:
        """Start the next one, with these additional settings."""
        self.proxy = self.KIND.started(**(self._settings | settings))

    def restart(self, **settings: str) -> None:
        """Kill the front end and start the next one."""
        self.kill()
        self.start(**settings)

    def leftovers(self) -> list[psutil.Process]:
        """Return processes of killed front ends that should have ended but still run."""
        watch = Stopwatch(*(process.pid for process in self._left))
        while (alive := [process for process in self._left if is_alive(process)]) and watch.own_s < _GONE_S:
            time.sleep(_LOOK_S)
        return alive
