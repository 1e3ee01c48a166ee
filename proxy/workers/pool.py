"""How many workers are ready, who gets the next one, and how often one is reused.

Theory of operation
-------------------

A job takes a spare, or queues for the next available worker, in order of arrival. After every change, `_refill` asks
the fork server for exactly what is missing: one worker for each queued job, plus the spares. So a burst is served as
fast as processes can be created, and an idle proxy asks for nothing.

Two things interrupt this: a fork that fails (no process ids, no memory, no descriptors), and spares that keep dying.
Both put the pool on hold: queued jobs are refused at once (`no-worker`), the log says why, and every `_RETRY_S` one
single worker is requested; the first one that starts ends the hold.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from proxy import log
from proxy.workers import log_lines
from proxy.workers.fork_server_client import WORKER_COMMAND, ForkServer
from proxy.workers.worker import Worker
from shared.errors import AdmissionError, Code

if TYPE_CHECKING:
    from shared.messages import Log

__all__ = ["Counts", "Pool"]

#: While on hold: how often one worker is requested.
_RETRY_S: Final = 0.5
#: If this many spares die within this many seconds, it is a storm and not an accident.
_STORM_DEATHS: Final = 30
_STORM_S: Final = 10.0
#: A dead fork server is replaced at once, but not more often than this.
_RESTART_S: Final = 0.5
#: How long jobs wait for the first worker of the new fork server before they are refused.
_LOST_S: Final = 1.0
#: A worker beyond the spares, left over from a burst of reused ones, goes when it has had no job for this long; one
#: that never had a job, as whoever wanted it was refused in the meantime, much sooner.
_SURPLUS_S: Final = 10.0
_UNUSED_S: Final = 1.0


class Counts:
    """What happened so far, for metrics."""

    def __init__(self) -> None:
        self.started = 0
        self.reused = 0
        self.stopped = 0
        self.spares_died = 0
        self.failed_forks = 0
        self.fork_servers = 0
        self.storms = 0


class Pool:
    """The workers of this machine."""

    def __init__(
        self,
        *,
        config: bytes,
        spares: int,
        max_jobs: int,
        max_body_bytes: int,
        command: Sequence[str] = WORKER_COMMAND,
        on_worker_log: Callable[[Worker, Log], None] | None = None,
    ) -> None:
        """Keep `spares` workers ready, each for `max_jobs` jobs (0: no limit)."""
        self._config = config
        self._target = spares
        self._max_jobs = max_jobs
        self._max_body_bytes = max_body_bytes
        self._command = command
        self._on_worker_log = on_worker_log or log_lines.worker_line
        self._spares: deque[Worker] = deque()
        self._queue: deque[asyncio.Future[Worker]] = deque()
        self._workers: dict[int, Worker] = {}
        self._starting = 0
        self._fork_server: ForkServer | None = None
        self._last_start = float("-inf")
        self._has_forked = False
        self._hold = ""
        self._deaths: deque[float] = deque(maxlen=_STORM_DEATHS)
        self._closing = False
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self.counts = Counts()

    # --- for runners -------------------------------------------------------------------------------------------------

    @property
    def workers(self) -> list[Worker]:
        """All workers, oldest first."""
        return list(self._workers.values())

    @property
    def on_hold(self) -> str:
        """Why no worker can be started now; empty if all is well."""
        return self._hold

    @property
    def fork_server_pid(self) -> int:
        """The process that forks the workers; 0 if there is none now."""
        return self._fork_server.pid if self._fork_server else 0

    async def start(self) -> None:
        """Start the fork server; the spares follow in the background. Raises OSError if it cannot be started."""
        await self._start_fork_server()

    def request(self) -> asyncio.Future[Worker]:
        """Return a ticket that becomes a worker, yours until you `release` it; tickets are served in order of arrival.

        The ticket fails with AdmissionError if no worker can be started now.
        """
        ticket: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        if self._spares and not self._queue:
            ticket.set_result(self._spares.pop())  # the one used last: its memory is still in the CPU caches
        elif self._hold:
            ticket.set_exception(self._no_worker())
            return ticket
        else:
            self._queue.append(ticket)
        self._refill()
        return ticket

    def withdraw(self, ticket: asyncio.Future[Worker]) -> None:
        """Give a ticket back; a worker that arrived at the same moment serves another job."""
        if ticket in self._queue:
            self._queue.remove(ticket)
        if not ticket.cancel() and not ticket.cancelled() and ticket.exception() is None:
            self._offer(ticket.result())

    def release(self, worker: Worker, *, reusable: bool) -> None:
        """Give a worker back. If it is not `reusable`, it is stopped; if it has done its last job, it exits."""
        worker.handler = None
        if worker.gone:
            return
        if not reusable:
            self.counts.stopped += 1
            worker.stop()
            return
        worker.jobs_done += 1
        if self._closing or worker.stopping or worker.jobs_done == self._max_jobs:
            worker.retire()
            return
        self.counts.reused += 1
        self._offer(worker)

    async def stop(self) -> None:
        """Refuse everything, end every worker and the fork server, and wait until they have exited."""
        self._closing = True
        self._fail_queue(AdmissionError(Code.SHUTTING_DOWN, "the proxy is shutting down"))
        for timer in self._timers.values():
            timer.cancel()
        for worker in self._workers.values():
            worker.stop()
        for task in self._tasks:
            task.cancel()
        if self._fork_server is not None:
            await self._fork_server.stop()
        for worker in list(self._workers.values()):
            worker.kill()
        async with asyncio.timeout(2):
            await self._empty.wait()

    # --- reports of the fork server ----------------------------------------------------------------------------------

    def on_forked(self, pid: int, pidfd: int, inbox_fd: int, outbox_fd: int) -> None:
        """Add a new worker."""
        self._starting = max(0, self._starting - 1)
        self._has_forked = True
        if "lost" in self._timers:
            self._timers.pop("lost").cancel()
        self.counts.started += 1
        worker = Worker(
            pid=pid,
            pidfd=pidfd,
            inbox_fd=inbox_fd,
            outbox_fd=outbox_fd,
            max_body_bytes=self._max_body_bytes,
            on_exit=self._on_worker_exit,
            on_log=self._on_worker_log,
        )
        self._workers[pid] = worker
        self._empty.clear()
        if self._closing:
            worker.stop()
            return
        if self._hold:
            self._hold = ""
            self._deaths.clear()
            log.event("info", "workers can be started again")
        self._offer(worker)

    def on_fork_failed(self, reason: str) -> None:
        """A worker could not be started: go on hold."""
        self._starting = max(0, self._starting - 1)
        self.counts.failed_forks += 1
        self._go_on_hold(f"no worker could be started: {reason}")

    def on_exited(self, pid: int, status: int) -> None:
        """Pass an exit status to the worker that it belongs to."""
        worker = self._workers.get(pid)
        if worker is not None:
            worker.on_status(status)

    def on_lost(self) -> None:
        """The fork server died: replace it. Its workers continue."""
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

    def _on_lost_for_long(self) -> None:
        del self._timers["lost"]
        self._go_on_hold(f"no worker was made within {_LOST_S:g} s after the fork server was lost")

    # --- inside ------------------------------------------------------------------------------------------------------

    def _offer(self, worker: Worker) -> None:
        """Give a free worker to the first queued job, or keep it as a spare."""
        while self._queue:
            ticket = self._queue.popleft()
            if not ticket.done():
                ticket.set_result(worker)
                self._refill()
                return
        worker.idle_since = asyncio.get_running_loop().time()
        self._spares.append(worker)
        if len(self._spares) > self._target:
            timer = self._timers.get("surplus")
            if timer is None or timer.when() > _surplus_until(worker):
                self._later("surplus", _surplus_until(worker) - worker.idle_since, self._drop_surplus)
        self._refill()

    def _refill(self) -> None:
        if self._closing or self._hold or self._fork_server is None:
            return
        missing = len(self._queue) + self._target - len(self._spares) - self._starting
        if missing > 0:
            self._starting += missing
            self._fork_server.fork(missing)

    def _drop_surplus(self) -> None:
        """Retire the workers that have been idle for too long."""
        del self._timers["surplus"]
        now = asyncio.get_running_loop().time()
        surplus = sorted(self._spares, key=_surplus_until)[: max(0, len(self._spares) - self._target)]
        over = [worker for worker in surplus if _surplus_until(worker) <= now]
        if len(over) < len(surplus):
            self._later("surplus", _surplus_until(surplus[len(over)]) - now, self._drop_surplus)
        leaving = set(over)
        # In one pass: removing them one by one, out of thousands, would block the event loop.
        self._spares = deque(worker for worker in self._spares if worker not in leaving)
        for worker in over:
            worker.retire()

    def _on_worker_exit(self, worker: Worker) -> None:
        if self._workers.get(worker.pid) is worker:
            del self._workers[worker.pid]
        if not self._workers:
            self._empty.set()
        if worker in self._spares:
            self._spares.remove(worker)
        if not worker.stopping and worker.handler is None:
            self._on_spare_died(worker)
        self._refill()

    def _on_spare_died(self, worker: Worker) -> None:
        """An idle worker died by itself; if many do, starting more is useless."""
        now = asyncio.get_running_loop().time()
        self._deaths.append(now)
        self.counts.spares_died += 1
        log.event("warning", "a spare worker died", worker_pid=worker.pid, status=worker.status)
        if len(self._deaths) == _STORM_DEATHS and now - self._deaths[0] < _STORM_S:
            self.counts.storms += 1
            self._go_on_hold(f"{_STORM_DEATHS} spare workers died within {now - self._deaths[0]:.1f} s")

    def _go_on_hold(self, reason: str) -> None:
        if self._closing:
            return
        if not self._hold:
            log.event("error", "new jobs are refused until a worker can be started", reason=reason)
        self._hold = reason
        self._fail_queue(self._no_worker())
        self._later("retry", _RETRY_S, self._try_one)

    def _try_one(self) -> None:
        if not self._hold or self._closing:
            return
        if self._fork_server is not None and not self._starting:
            self._starting += 1
            self._fork_server.fork(1)
        self._later("retry", _RETRY_S, self._try_one)

    def _no_worker(self) -> AdmissionError:
        return AdmissionError(Code.NO_WORKER, self._hold)

    def _fail_queue(self, error: AdmissionError) -> None:
        while self._queue:
            ticket = self._queue.popleft()
            if not ticket.done():
                ticket.set_exception(error)

    def _restart(self) -> None:
        task = asyncio.get_running_loop().create_task(self._restart_fork_server())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _restart_fork_server(self) -> None:
        try:
            await self._start_fork_server()
        except OSError as exc:
            self._go_on_hold(f"the fork server could not be started: {exc.strerror}")
            self._later("restart", _RESTART_S, self._restart)

    async def _start_fork_server(self) -> None:
        self._last_start = asyncio.get_running_loop().time()
        self.counts.fork_servers += 1
        self._has_forked = False
        fork_server = ForkServer(self._config, self, self._command)
        await fork_server.start()
        if self._closing:
            await fork_server.stop()
            return
        self._fork_server = fork_server
        self._refill()

    def _later(self, name: str, delay_s: float, call: Callable[[], None]) -> None:
        if name in self._timers:
            self._timers[name].cancel()
        self._timers[name] = asyncio.get_running_loop().call_later(delay_s, call)


def _surplus_until(worker: Worker) -> float:
    """Return until when a worker beyond the spares is kept."""
    return worker.idle_since + (_SURPLUS_S if worker.jobs_done else _UNUSED_S)
