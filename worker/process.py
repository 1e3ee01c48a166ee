"""A worker process: a `multiprocessing` process without the parts that cost and that nobody here needs.

Measured on a job of its own process, the standard one spends about a third of the way to its first line on what it does
around the fork. Left out are: a look at every living sibling at each start (quadratic: 2,000 workers, 2,000 system
calls each), two pipes per process that tell parent and child of each other's end (a worker has its inbox for that, and
its parent a pidfd), and the opening of /dev/null, as the fork server's standard input is that already.
"""

from __future__ import annotations

import multiprocessing.popen_fork
import os
from multiprocessing.context import ForkProcess
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["WorkerProcess"]


class _Fork(multiprocessing.popen_fork.Popen):
    """A fork and nothing else."""

    def _launch(self, process_obj: Any) -> None:  # noqa: ANN401 - multiprocessing's own types are private
        self.sentinel = -1
        self.pid = os.fork()
        if self.pid == 0:
            process_obj.bootstrap()


class WorkerProcess(ForkProcess):
    """Runs `main` in a forked child, which ends with `main`."""

    _popen: Any

    def __init__(self, main: Callable[[], object]) -> None:
        super().__init__(name="worker")
        self._main = main

    def start(self) -> None:
        """Fork. Raises OSError if the machine cannot."""
        self._popen = _Fork(self)

    def bootstrap(self) -> NoReturn:
        """Be the child."""
        code = 1
        try:
            self._main()
            code = 0
        finally:
            os._exit(code)
