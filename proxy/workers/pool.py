"""Which job gets which worker, how many workers are kept ready, and how often one is reused.

Theory of operation
-------------------

A job takes a spare, or queues for the next available worker, in order of arrival. After every change, `_refill`
requests as many workers from the supply (proxy/workers/supply.py) as are wanted: one for each queued job, plus missing
spares. So a burst is served as fast as processes can be created, and an idle proxy requests nothing. As long as some
spares are left, or if a burst took more than there were, missing ones are replaced a little later and all together,
because the jobs that took them need the CPUs first. While the supply is on hold, queued jobs are refused at once
(`no-worker`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from proxy import log
from proxy.workers import log_lines
from proxy.workers.status import Counts, PoolStatus, WorkerStatus
from proxy.workers.supply import Supply
from proxy.workers.worker import Worker
from shared.errors import AdmissionError, Code

if TYPE_CHECKING:
    from proxy.workers.spawning import Spawned

__all__ = ["Pool"]

#: All missing spares are replaced this long after the first of them was taken: by then, a single job or a burst has
#: been submitted, and had the CPUs to itself. But if fewer than half of `_SOON` are left, and no job has had to queue
#: meanwhile, they are filled up to `_SOON` at once.
_LATER_S: Final = 0.25
_SOON: Final = 8
#: A surplus worker, left over from a burst, is retired after having had no job for this long; one that never had a job,
#: because its job was refused in the meantime, much sooner.
_SURPLUS_S: Final = 10.0
_UNUSED_S: Final = 1.0


class Pool:
    """The workers of this machine."""

    def __init__(
        self,
        *,
        config: bytes,
        spares: int,
        max_jobs: int,
        max_body_bytes: int,
    ) -> None:
        """Keep `spares` workers ready, each for `max_jobs` jobs (0: no limit)."""
        self._target = spares
        self._max_jobs = max_jobs
        self._max_body_bytes = max_body_bytes
        self._spares: deque[Worker] = deque()
        self._queue: deque[asyncio.Future[Worker]] = deque()
        self._workers: dict[int, Worker] = {}
        self._closing = False
        #: Whether a job has had to queue since the missing spares were last replaced.
        self._burst = False
        self._surplus_timer: asyncio.TimerHandle | None = None
        self._spares_timer: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._empty.set()
        self._counts = Counts()
        self._supply = Supply(config, self, self._counts)

    # --- for runners -------------------------------------------------------------------------------------------------

    def status(self) -> PoolStatus:
        """Return the current state of the pool."""
        now = time.monotonic()
        return PoolStatus(
            on_hold=self._supply.on_hold,
            workers=tuple(_status_of(worker, now) for worker in self._workers.values()),
            counts=replace(self._counts),
        )

    @property
    def on_hold(self) -> str:
        """Why no worker can be started now; empty if all is well."""
        return self._supply.on_hold

    @property
    def has_begun(self) -> bool:
        """Whether a worker has been started; true from the start if no spares are kept."""
        return not self._target or self._counts.started > 0

    def size(self) -> int:
        """Return how many workers there are."""
        return len(self._workers)

    @property
    def pids(self) -> set[int]:
        """The processes that the pool reaps itself: the workers and the fork server."""
        return {*self._workers, self._supply.fork_server_pid}

    async def start(self, spawned: Spawned | None = None) -> None:
        """Start the fork server, unless it was `spawned` before; the spares follow in the background.

        Raises:
            OSError: it cannot be started.
        """
        await self._supply.start(spawned)

    def request(self) -> asyncio.Future[Worker]:
        """Return a future for a worker, yours until you `release` it; these tickets are served in order of arrival.

        The ticket fails with AdmissionError if no worker can be started now.
        """
        ticket: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        if self._spares and not self._queue:
            ticket.set_result(self._spares.pop())  # the one used last: its memory is still in the CPU caches
        elif self._supply.on_hold:
            ticket.set_exception(self._no_worker())
            return ticket
        else:
            self._queue.append(ticket)
            self._burst = True
        self._refill()
        return ticket

    def withdraw(self, ticket: asyncio.Future[Worker]) -> None:
        """Withdraw a ticket; a worker that arrived at the same moment serves another job."""
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
            self._counts.stopped += not worker.stopping
            worker.stop()
            return
        worker.jobs_done += 1
        worker.lines = 0
        if self._closing or worker.stopping or worker.jobs_done == self._max_jobs:
            worker.retire()
            return
        self._counts.reused += 1
        self._offer(worker)

    def kill(self, worker: Worker) -> None:
        """Kill a worker; it still has to be released."""
        self._counts.stopped += 1
        worker.kill()

    async def stop(self) -> None:
        """Refuse everything, end every worker and the fork server, and wait until they have exited."""
        self._closing = True
        self._fail_queue(AdmissionError(Code.SHUTTING_DOWN, "the proxy is shutting down"))
        for timer in (self._surplus_timer, self._spares_timer):
            if timer is not None:
                timer.cancel()
        self._supply.close()
        for worker in self._workers.values():
            worker.stop()
        await self._supply.stop()
        for worker in list(self._workers.values()):
            worker.kill()
        async with asyncio.timeout(2):
            await self._empty.wait()

    # --- reports of the supply ---------------------------------------------------------------------------------------

    def on_forked(self, pid: int, pidfd: int, inbox_fd: int, outbox_fd: int) -> None:
        """Add a new worker."""
        worker = Worker(
            pid=pid,
            pidfd=pidfd,
            inbox_fd=inbox_fd,
            outbox_fd=outbox_fd,
            max_body_bytes=self._max_body_bytes,
            on_exit=self._on_worker_exit,
            on_log=log_lines.worker_line,
        )
        self._workers[pid] = worker
        self._empty.clear()
        if self._closing:
            worker.stop()
            return
        self._offer(worker)

    def on_exited(self, pid: int, status: int) -> None:
        """Pass an exit status to the worker that it belongs to."""
        worker = self._workers.get(pid)
        if worker is not None:
            worker.on_status(status)

    def on_hold_begun(self) -> None:
        """Refuse the queued jobs: no worker can be started now."""
        self._fail_queue(self._no_worker())

    def on_ready(self) -> None:
        """Request the spares from the (new) fork server."""
        self._request(self._target)

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
            self._drop_surplus_at(_surplus_until(worker))
        self._refill()

    def _refill(self) -> None:
        soon = min(self._target, _SOON)
        self._request(soon if 2 * len(self._spares) < soon and not self._burst else 0)
        missing = len(self._spares) < self._target
        if missing and self._spares_timer is None and not self._closing:
            self._spares_timer = asyncio.get_running_loop().call_later(_LATER_S, self._refill_all)

    def _refill_all(self) -> None:
        self._spares_timer = None
        self._burst = False
        self._request(self._target)

    def _request(self, spares: int) -> None:
        """Request workers so that there will be one for each queued job, and `spares` in all."""
        self._supply.request(len(self._queue) + max(0, spares - len(self._spares)))

    def _drop_surplus_at(self, when: float) -> None:
        timer = self._surplus_timer
        if timer is None or timer.when() > when:
            if timer is not None:
                timer.cancel()
            self._surplus_timer = asyncio.get_running_loop().call_at(when, self._drop_surplus)

    def _drop_surplus(self) -> None:
        """Retire the workers that have been idle for too long."""
        self._surplus_timer = None
        now = asyncio.get_running_loop().time()
        surplus = sorted(self._spares, key=_surplus_until)[: max(0, len(self._spares) - self._target)]
        over = [worker for worker in surplus if _surplus_until(worker) <= now]
        if len(over) < len(surplus):
            self._drop_surplus_at(_surplus_until(surplus[len(over)]))
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
            if not self._closing:  # one that was to leave is no spare any more
                log.event("warning", "a spare worker died", worker_pid=worker.pid, status=worker.status)
                self._supply.note_death()
        self._refill()

    def _no_worker(self) -> AdmissionError:
        return AdmissionError(Code.NO_WORKER, self._supply.on_hold)

    def _fail_queue(self, error: AdmissionError) -> None:
        while self._queue:
            ticket = self._queue.popleft()
            if not ticket.done():
                ticket.set_exception(error)


def _status_of(worker: Worker, now: float) -> WorkerStatus:
    handler = worker.handler
    state = handler.state_name if handler is not None else "spare"
    return WorkerStatus(
        pid=worker.pid,
        state="stopping" if worker.stopping else state,
        job_id=handler.job_id if handler is not None else None,
        age_s=now - worker.born,
        jobs_done=worker.jobs_done,
    )


def _surplus_until(worker: Worker) -> float:
    """Return until when a surplus worker is kept."""
    return worker.idle_since + (_SURPLUS_S if worker.jobs_done else _UNUSED_S)
