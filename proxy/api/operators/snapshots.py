"""What the dashboard shows, once per second while a page is open; nothing is computed otherwise.

One snapshot, a JSON object, serves all open pages. The first one that a page gets also has the past of the charts.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from proxy.observe.gauges import WORKER_STATES, worker_state
from proxy.observe.history import SECONDS
from proxy.workers.memory import WorkerMemory
from shared.lifecycle import State

if TYPE_CHECKING:
    from proxy.jobs.dispatcher import Dispatcher
    from proxy.jobs.in_flight import InFlight
    from proxy.observe.observers import Observers
    from proxy.workers.pool import Pool

__all__ = ["Snapshots"]

_EVERY_S: Final = 1.0
#: The newest seconds of the charts are sent again with each snapshot, so that a lost one leaves no gap.
_NEWEST: Final = 5
#: How many of the jobs in flight are listed, the oldest first.
_OLDEST: Final = 20
_IN_FLIGHT: Final = tuple(state for state in State if state is not State.FINISHED)


class Snapshots:
    """Makes a snapshot each second while a page is open."""

    def __init__(
        self,
        *,
        pool: Pool,
        in_flight: InFlight,
        dispatcher: Dispatcher,
        observers: Observers,
        max_jobs: int,
    ) -> None:
        self._pool = pool
        self._in_flight = in_flight
        self._dispatcher = dispatcher
        self._observers = observers
        self._max_jobs = max_jobs
        self._memory = WorkerMemory()
        self._next: asyncio.Future[bytes] | None = None
        self._task: asyncio.Task[None] | None = None
        #: How many pages are open.
        self.watchers = 0
        #: Set at the end: all pages are disconnected.
        self.closed = asyncio.Event()

    def first(self) -> bytes:
        """Return a snapshot with the past of the charts and the last failures."""
        history = self._observers.history
        return _encoded(self._snapshot() | {"past": history.seconds(), "failures": history.failures()})

    async def next(self) -> bytes:
        """Return the next snapshot."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())
        return await asyncio.shield(self._next)

    async def _run(self) -> None:
        while self.watchers and not self.closed.is_set():
            await asyncio.sleep(_EVERY_S)
            waiting, self._next = self._next, None
            if waiting is not None:
                history = self._observers.history
                snapshot = self._snapshot() | {"failures": history.failures()}
                waiting.set_result(_encoded(snapshot))

    def _snapshot(self) -> dict[str, Any]:
        workers = self._workers()
        lag = self._observers.loop_lag
        by_state = self._in_flight.by_state()
        seconds = self._observers.history.seconds()
        return {
            "now": round(time.time(), 1),
            "second": int(time.monotonic()),
            "seconds": SECONDS,
            "newest": seconds[-_NEWEST:],
            "in_flight": {str(state): by_state[state] for state in _IN_FLIGHT},
            "limit": self._max_jobs,
            "accepted": self._in_flight.added,
            "draining": self._dispatcher.draining,
            "on_hold": self._pool.on_hold,
            "lag_ms": [round(lag.last_s * 1000, 1), round(lag.worst_s * 1000, 1)],
            "worker_states": WORKER_STATES,
            "workers": workers,
            "workers_by_state": Counter(WORKER_STATES[worker[1]] for worker in workers),
            "oldest": self._oldest(),
        }

    def _workers(self) -> list[tuple[Any, ...]]:
        """Return pid, state, age in seconds, jobs done, memory in KiB and job of each worker, in that order."""
        now, memory = time.monotonic(), self._memory
        workers = self._pool.workers
        memory.refresh(worker.pid for worker in workers)
        rows = []
        for worker in workers:
            held = memory.of(worker.pid)
            rows.append(
                (
                    worker.pid,
                    WORKER_STATES.index(worker_state(worker)),
                    round(now - worker.born, 1),
                    worker.jobs_done,
                    None if held is None else held // 1024,
                    worker.handler.job_id if worker.handler is not None else None,
                )
            )
        return rows

    def _oldest(self) -> list[tuple[str, str, float]]:
        now = time.monotonic()
        jobs = list(self._in_flight)[:_OLDEST]  # in order of acceptance
        return [(job.id, str(job.state), round(now - job.reached[State.ACCEPTED], 1)) for job in jobs]


def _encoded(snapshot: dict[str, Any]) -> bytes:
    return json.dumps(snapshot, separators=(",", ":")).encode()
