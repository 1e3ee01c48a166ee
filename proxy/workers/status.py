"""The rest of the proxy's view of the pool: a read-only snapshot."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

__all__ = ["WORKER_STATES", "Counts", "PoolStatus", "WorkerStatus"]

WORKER_STATES: Final = ("spare", "assigned", "submitting", "waiting", "asking", "stopping")


@dataclass(slots=True, kw_only=True)
class Counts:
    """Counts of what has happened so far."""

    #: Workers that were started, and those that could not be.
    started: int = 0
    failed_forks: int = 0
    #: How often a worker was kept for another job, and how often one was stopped because its job failed.
    reused: int = 0
    stopped: int = 0
    #: Idle workers that died, and how often so many died that new jobs were refused.
    spares_died: int = 0
    storms: int = 0
    #: Fork servers that were started.
    fork_servers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """One worker process."""

    pid: int
    #: One of `WORKER_STATES`.
    state: str
    #: The job that it has; None: it has none.
    job_id: str | None
    age_s: float
    jobs_done: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatus:
    """The pool at one moment."""

    #: Why no worker can be started now; empty if all is well.
    on_hold: str = ""
    #: All workers, oldest first.
    workers: tuple[WorkerStatus, ...] = ()
    #: A copy.
    counts: Counts = field(default_factory=Counts)

    @property
    def by_state(self) -> dict[str, int]:
        """The number of workers in each of `WORKER_STATES`."""
        found = Counter(worker.state for worker in self.workers)
        return {state: found[state] for state in WORKER_STATES}
