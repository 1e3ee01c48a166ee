"""Starts workers by a fork server, which is replaced when it dies; and pauses that when it is useless.

Theory of operation
-------------------

`Supply.request` takes the number of additional workers that are wanted. Those that are not starting yet are requested
from the fork server, and each worker is handed over as it starts.

Two things interrupt this: a fork that fails (no process ids, no memory, no descriptors), and idle workers that keep
dying. Both put the supply on hold: its user is notified, the log says why, and every `_RETRY_S` a single worker is
requested; the first one that starts ends the hold.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from proxy import log
from proxy.workers.fork_server_client import ForkServer
from proxy.workers.status import Counts

if TYPE_CHECKING:
    from proxy.workers.spawning import Spawned

__all__ = ["Supply", "Wanting"]

#: While on hold: how often one worker is requested.
_RETRY_S: Final = 0.5
#: If this many spares die within this many seconds, there is a common cause.
_STORM_DEATHS: Final = 30
_STORM_S: Final = 10.0
#: A dead fork server is replaced at once, but not more often than this.
_RESTART_S: Final = 0.5
#: How long jobs wait for the first worker of the new fork server before they are refused.
_LOST_S: Final = 1.0


class Wanting(Protocol):
    """Receives the workers and the reports."""

    def on_forked(self, pid: int, pidfd: int, inbox_fd: int, outbox_fd: int) -> None:
        """Take over the descriptors of a new worker."""

    def on_exited(self, pid: int, status: int) -> None:
        """Receive the exit status of a worker."""

    def on_hold_begun(self) -> None:
        """No worker can be started now; `Supply.on_hold` says why."""

    def on_ready(self) -> None:
        """Workers can be requested (again); earlier requests may be lost."""


class Supply:
    """Starts workers and hands them over."""

    def __init__(self, config: bytes, wanting: Wanting, counts: Counts) -> None:
        """`config` is the first message to each fork server."""
        self._config = config
        self._wanting = wanting
        self._counts = counts
        self._fork_server: ForkServer | None = None
        #: Workers that were requested and have not started.
        self._starting = 0
        self._last_start = float("-inf")
        self._has_forked = False
        self._deaths: deque[float] = deque(maxlen=_STORM_DEATHS)
        self._closing = False
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        #: Why no worker can be started now; empty if all is well.
        self.on_hold = ""

    @property
    def fork_server_pid(self) -> int:
        """The process that forks the workers; 0 if there is none now."""
        return self._fork_server.pid if self._fork_server else 0

    async def start(self, spawned: Spawned | None = None) -> None:
        """Start a fork server, unless the first one was `spawned` before. Raises OSError if it cannot be started."""
        self._last_start = asyncio.get_running_loop().time()
        self._counts.fork_servers += 1
        self._has_forked = False
        fork_server = ForkServer(self._config, self)
        await fork_server.start(spawned)
        if self._closing:
            await fork_server.stop()
            return
        self._fork_server = fork_server
        self._wanting.on_ready()

    def request(self, wanted: int) -> None:
        """Make sure that `wanted` workers are being started; no-op while on hold."""
        missing = wanted - self._starting
        if missing > 0 and self._fork_server is not None and not self.on_hold and not self._closing:
            self._starting += missing
            self._fork_server.fork(missing)

    def close(self) -> None:
        """Request no more workers, whatever happens."""
        self._closing = True
        for timer in self._timers.values():
            timer.cancel()
        for task in self._tasks:
            task.cancel()

    async def stop(self) -> None:
        """End the fork server and all its remaining workers."""
        self.close()
        if self._fork_server is not None:
            await self._fork_server.stop()

    def note_death(self) -> None:
        """Note that an idle worker died by itself; if many do, starting more is useless."""
        now = asyncio.get_running_loop().time()
        self._deaths.append(now)
        self._counts.spares_died += 1
        if len(self._deaths) == _STORM_DEATHS and now - self._deaths[0] < _STORM_S:
            self._counts.storms += not self.on_hold
            self._go_on_hold(f"{_STORM_DEATHS} spare workers died within {now - self._deaths[0]:.1f} s")

    # --- reports of the fork server ----------------------------------------------------------------------------------

    def on_forked(self, pid: int, pidfd: int, inbox_fd: int, outbox_fd: int) -> None:
        """Hand over a new worker; it ends a hold."""
        self._starting = max(0, self._starting - 1)
        self._has_forked = True
        if "lost" in self._timers:
            self._timers.pop("lost").cancel()
        self._counts.started += 1
        if self.on_hold and not self._closing:
            self.on_hold = ""
            self._deaths.clear()
            log.event("info", "workers can be started again")
        self._wanting.on_forked(pid, pidfd, inbox_fd, outbox_fd)

    def on_fork_failed(self, reason: str) -> None:
        """Go on hold: a worker could not be started."""
        self._starting = max(0, self._starting - 1)
        self._counts.failed_forks += 1
        self._go_on_hold(f"no worker could be started: {reason}")

    def on_exited(self, pid: int, status: int) -> None:
        """Pass an exit status on."""
        self._wanting.on_exited(pid, status)

    def on_lost(self) -> None:
        """Replace the fork server, which died. Its workers continue."""
        pid, self._fork_server, self._starting = self.fork_server_pid, None, 0
        if self._closing:
            return
        log.event("error", "the fork server died and is being replaced", pid=pid)
        if not self._has_forked:
            self._go_on_hold("the fork server ended before it had made a worker")
        elif "lost" not in self._timers:
            self._later("lost", _LOST_S, self._on_lost_for_long)
        now = asyncio.get_running_loop().time()
        self._later("restart", max(0.0, self._last_start + _RESTART_S - now), self._restart)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _on_lost_for_long(self) -> None:
        del self._timers["lost"]
        self._go_on_hold(f"no worker was made within {_LOST_S:g} s after the fork server was lost")

    def _go_on_hold(self, reason: str) -> None:
        if self._closing:
            return
        if not self.on_hold:
            log.event("error", "new jobs are refused until a worker can be started", reason=reason)
        self.on_hold = reason
        self._wanting.on_hold_begun()
        self._later("retry", _RETRY_S, self._try_one)

    def _try_one(self) -> None:
        if not self.on_hold or self._closing:
            return
        if self._fork_server is not None and not self._starting:
            self._starting += 1
            self._fork_server.fork(1)
        self._later("retry", _RETRY_S, self._try_one)

    def _restart(self) -> None:
        task = asyncio.get_running_loop().create_task(self._restart_fork_server())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _restart_fork_server(self) -> None:
        try:
            await self.start()
        except Exception as exc:  # noqa: BLE001 - such as no memory; nobody else would try again
            reason = exc.strerror if isinstance(exc, OSError) else type(exc).__name__
            self._go_on_hold(f"the fork server could not be started: {reason}")
            self._later("restart", _RESTART_S, self._restart)

    def _later(self, name: str, delay_s: float, call: Callable[[], None]) -> None:
        if name in self._timers:
            self._timers[name].cancel()
        self._timers[name] = asyncio.get_running_loop().call_later(delay_s, call)
