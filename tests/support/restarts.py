"""A proxy that is killed and started again: the same address, the same journal."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Self

import psutil

from cluster.processes import reserve
from tests.support.proxy_process import ProxyProcess, is_alive
from tests.support.stopwatch import Stopwatch

__all__ = ["Restarts"]

#: How long those may take that were left behind, and how often they are looked at.
_GONE_S = 2.0
_LOOK_S = 0.01


class Restarts:
    """One proxy after the other; ends with the `with` block."""

    #: What is started each time.
    KIND: type[ProxyProcess] = ProxyProcess

    def __init__(self, folder: Path, **settings: str) -> None:
        """Start the first one; it keeps its journal in `folder`, unless the settings have another one."""
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
        """Where jobs are posted."""
        return f"{self.url}/queueJob"

    def kill(self) -> None:
        """SIGKILL the front end."""
        self._left += self.proxy.descendants()
        self.kills += 1
        self.proxy.kill()

    def start(self, **settings: str) -> None:
        """Start the next one, with these settings besides."""
        self.proxy = self.KIND.started(**(self._settings | settings))

    def restart(self, **settings: str) -> None:
        """Kill the front end and start the next one."""
        self.kill()
        self.start(**settings)

    def leftovers(self) -> list[psutil.Process]:
        """Return the processes of those that were killed which are still there when they should not be."""
        watch = Stopwatch(*(process.pid for process in self._left))
        while (alive := [process for process in self._left if is_alive(process)]) and watch.own_s < _GONE_S:
            time.sleep(_LOOK_S)
        return alive
