"""A fork server that creates pipes instead of processes."""

from __future__ import annotations

import contextlib
import itertools
import os

from proxy.workers.fork_server_client import Listener

__all__ = ["FakeForkServer"]


class FakeForkServer:
    """Creates workers from pipes, when the test says so."""

    made: list[FakeForkServer]
    start_error: Exception | None = None

    def __init__(self, _config: bytes, listener: Listener) -> None:
        self.listener = listener
        self.pid = 1_000_000 + len(self.made)
        self.asked = 0
        self.requests: list[int] = []
        self.alive: dict[int, list[int]] = {}
        self.stopped = False
        self._pids = itertools.count(2_000_000 + 1_000 * len(self.made))
        self.made.append(self)

    async def start(self, _spawned: object = None) -> None:
        """Start, or fail as the test wants."""
        if self.start_error is not None:
            raise self.start_error

    def fork(self, count: int) -> None:
        """Note the request."""
        self.asked += count
        self.requests.append(count)

    async def stop(self) -> None:
        """End, including all workers."""
        self.stopped = True
        for pid in list(self.alive):
            self.ends(pid, -9)

    # --- for the test ------------------------------------------------------------------------------------------------

    def answers(self, count: int | None = None) -> None:
        """Create `count` of the requested workers; None: all."""
        for _ in range(self.asked if count is None else count):
            assert self.asked > 0
            self.asked -= 1
            pid = next(self._pids)
            pidfd, alive_w = os.pipe()
            inbox_r, inbox_w = os.pipe()
            outbox_r, outbox_w = os.pipe()
            self.alive[pid] = [alive_w, inbox_r, outbox_w]
            self.listener.on_forked(pid, pidfd, inbox_w, outbox_r)

    def fails(self) -> None:
        """Report that the oldest request failed."""
        self.asked -= 1
        self.listener.on_fork_failed("out of cheese")

    def ends(self, pid: int, status: int = 1) -> None:
        """Let a worker end."""
        for fd in self.alive.pop(pid):
            with contextlib.suppress(OSError):
                os.close(fd)
        self.listener.on_exited(pid, status)
