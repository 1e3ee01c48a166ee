"""Jobs in flight: found by id, by callback token or by idempotency key, and notified of their callbacks."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.jobs.job import Job
    from proxy.store.record import Record
    from shared.lifecycle import State

__all__ = ["InFlight"]


class InFlight:
    """Finds jobs in flight. Tokens are stored only as hashes. A `Delivery`, for jobs that this process runs."""

    def __init__(self) -> None:
        self._by_id: dict[str, Job] = {}
        self._by_token: dict[bytes, Job] = {}
        self._by_key: dict[bytes, Job] = {}
        #: How many jobs were ever added.
        self.added = 0
        #: How many of those in flight were left open by an earlier process or another instance: they need no worker.
        self.left_open = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def with_workers(self) -> int:
        """Return how many jobs have a worker, or need one."""
        return len(self._by_id) - self.left_open

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._by_id.values()))

    def add(self, job: Job) -> None:
        """Add a job."""
        self.added += 1
        self.left_open += job.adopted
        self._by_id[job.id] = job
        self._by_token[job.token_hash] = job
        if job.key is not None:
            self._by_key[job.key] = job

    def remove(self, job: Job) -> None:
        """Forget a job."""
        self.left_open -= job.adopted
        del self._by_id[job.id]
        del self._by_token[job.token_hash]
        if job.key is not None and self._by_key.get(job.key) is job:
            del self._by_key[job.key]

    def deliver(self, record: Record) -> None:
        """See `Delivery.deliver`."""
        job = self._by_id.get(record.id)
        if job is not None:
            job.hear(record)

    def by_id(self, job_id: str) -> Job | None:
        """Return the job with this id, if it is in flight."""
        return self._by_id.get(job_id)

    def by_token(self, hashed: bytes) -> Job | None:
        """Return the job whose token has this hash, if it is in flight.

        The timing of a look-up by hash reveals nothing: without the token, nobody can choose the hash.
        """
        return self._by_token.get(hashed)

    def by_name(self, text: str) -> Job | None:
        """Return the newest job that is known by this name. A linear search: for operators, not for each callback."""
        return next((job for job in reversed(self._by_id.values()) if job.recorder.record.is_called(text)), None)

    def by_key(self, key: bytes) -> Job | None:
        """Return the job with this idempotency key, if it is in flight."""
        return self._by_key.get(key)

    def by_beginning(self, beginning: str) -> Job | None:
        """Return the newest job in flight whose id begins like this. A linear search."""
        return next((job for job in reversed(self._by_id.values()) if job.id.startswith(beginning)), None)

    def by_state(self) -> Counter[State]:
        """Return the number of jobs in each state."""
        return Counter(job.state for job in self._by_id.values())
