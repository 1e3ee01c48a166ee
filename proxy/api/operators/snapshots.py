"""The dashboard's data, once per second while a page is open; nothing is computed otherwise.

One snapshot, a JSON object, serves all open pages. A page's first one also has the past seconds for the charts.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from proxy.observe.history import SECONDS, at_the_job_server
from proxy.workers.memory import WorkerMemory
from proxy.workers.status import WORKER_STATES
from shared.lifecycle import IN_FLIGHT

if TYPE_CHECKING:
    from proxy.jobs.in_flight import InFlight
    from proxy.jobs.job import Job
    from proxy.observe.observers import Observers
    from proxy.workers.status import PoolStatus, WorkerStatus

__all__ = ["Snapshots"]

_EVERY_S: Final = 1.0
#: The newest seconds of the charts are sent again with each snapshot, so that a lost one leaves no gap.
_NEWEST: Final = 5
#: How many of the jobs in flight are listed, the oldest first.
_OLDEST: Final = 20


class Snapshots:
    """Makes a snapshot each second while a page is open."""

    def __init__(
        self,
        *,
        pool_status: Callable[[], PoolStatus],
        in_flight: InFlight,
        observers: Observers,
        max_jobs: int,
        status: Callable[[], dict[str, object]],
        queue: Callable[[], dict[str, object]] | None = None,
        instances: Callable[[], dict[str, object]] | None = None,
    ) -> None:
        """`status` returns the proxy's short status.

        `queue` returns the figures of the queue entrance, `instances` those of the instances; None: there are none.
        """
        self._instances = instances
        self._queue = queue
        self._pool_status = pool_status
        self._in_flight = in_flight
        self._observers = observers
        self._max_jobs = max_jobs
        self._status = status
        self._memory = WorkerMemory()
        self._next: asyncio.Future[bytes] | None = None
        self._task: asyncio.Task[None] | None = None
        #: How many pages are open.
        self.watchers = 0
        #: Set at shutdown: all pages are disconnected.
        self.closed = asyncio.Event()

    def first(self) -> bytes:
        """Return a snapshot with the past seconds for the charts and the last failures."""
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
            if waiting is None:
                continue
            try:
                snapshot = self._snapshot() | {"failures": self._observers.history.failures()}
                waiting.set_result(_encoded(snapshot))
            except Exception as exc:  # noqa: BLE001 - a bug of ours: the pages that wait get an error, not nothing
                waiting.set_exception(exc)

    def _snapshot(self) -> dict[str, Any]:
        pool = self._pool_status()
        lag = self._observers.loop_lag
        by_state = self._in_flight.by_state()
        seconds = self._observers.history.seconds()
        return {
            "status": self._status(),
            "now": round(time.time(), 1),
            "second": int(time.monotonic()),
            "seconds": SECONDS,
            "newest": seconds[-_NEWEST:],
            "in_flight": {str(state): by_state[state] for state in IN_FLIGHT},
            "limit": self._max_jobs,
            "accepted": self._in_flight.added,
            "lag_ms": [round(lag.last_s * 1000, 1), round(lag.worst_s * 1000, 1)],
            "worker_states": WORKER_STATES,
            "workers": self._rows(pool.workers),
            "workers_by_state": {state: count for state, count in pool.by_state.items() if count},
            "oldest": self._oldest(),
            "queue": None if self._queue is None else self._queue(),
            "instances": None if self._instances is None else self._instances(),
        }

    def _rows(self, workers: Sequence[WorkerStatus]) -> list[tuple[Any, ...]]:
        """Return pid, state, age in seconds, jobs done, memory in KiB and job of each worker, in that order."""
        memory = self._memory
        memory.refresh(worker.pid for worker in workers)
        rows = []
        for worker in workers:
            held = memory.of(worker.pid)
            rows.append(
                (
                    worker.pid,
                    WORKER_STATES.index(worker.state),
                    round(worker.age_s, 1),
                    worker.jobs_done,
                    None if held is None else held // 1024,
                    worker.job_id,
                )
            )
        return rows

    def _oldest(self) -> list[dict[str, Any]]:
        now = time.time()
        jobs = list(self._in_flight)[:_OLDEST]  # in order of acceptance
        return [_in_flight_job(job, now) for job in jobs]


def _in_flight_job(job: Job, now: float) -> dict[str, Any]:
    record = job.recorder.record
    return {
        "job_id": job.id,
        "state": str(job.state),
        "age_s": round(max(0.0, now - record.accepted_at), 1),  # perhaps by an earlier process
        **at_the_job_server(job.profile, record.outputs.get("id", ""), job.remote_state, job.progress_count),
    }


def _encoded(snapshot: dict[str, Any]) -> bytes:
    return json.dumps(snapshot, separators=(",", ":")).encode()
