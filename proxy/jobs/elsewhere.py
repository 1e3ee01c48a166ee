"""Jobs and the other instances that share the store: what they do for our jobs, and what this one does for theirs.

Theory of operation
-------------------
A job belongs to the instance that owns its record. Only the owner may submit it or record how it failed: the store
refuses anything else (`TakenError`), whatever an instance that was frozen or cut off assumes. Any instance may record a
callback or a cancellation.

The instance that records one of these notifies the owner, and the instance where the client waits. A notice is a hint,
and may be lost. So each job in flight here is also looked up in the store at intervals, which finds a change after half
a second at most.

If an owner is gone, another instance takes over its jobs: those that certainly were not submitted have been ended by
then, and the others are waited for. An instance submits only jobs that it has accepted itself.

A single instance does none of this, and its store is not polled.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from proxy import log
from proxy.jobs import log_lines
from proxy.jobs.job import cancelled_by
from proxy.store.protocol import TakenError
from shared.errors import AdmissionError, Code, StoreUnavailableError
from shared.lifecycle import State, Submitted
from shared.outcome import Failed, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.jobs.delivery import Delivery
    from proxy.jobs.in_flight import InFlight
    from proxy.jobs.job import Job
    from proxy.jobs.polling import Poller
    from proxy.store.protocol import JobStore, Peers
    from proxy.store.record import Record

__all__ = ["Elsewhere"]

#: How long to wait for the end of a job after its deadline: its owner may have to be declared dead first.
_GRACE_S: Final = 5.0
#: How long a client that waits here waits after the deadline for the recorded outcome.
_PATIENCE_S: Final = 0.5


class Elsewhere:
    """What other instances do with jobs."""

    def __init__(
        self, *, in_flight: InFlight, store: JobStore, delivery: Delivery, poller: Poller, peers: Peers | None
    ) -> None:
        """`peers`: the other instances; None: there can be none."""
        self._in_flight = in_flight
        self._store = store
        self._delivery = delivery
        self._poller = poller
        #: The id and the name of this instance; empty if there can be no others.
        self.instance = peers.instance if peers is not None else ""
        self.name = peers.name if peers is not None else ""
        #: Callbacks for jobs of this instance, recorded by another one.
        self.callbacks = 0
        #: Writes about a job of this instance that the store refused.
        self.fenced = 0
        self._leaving = False
        #: Of each wait for a job of another instance.
        self._limits: set[asyncio.Timeout] = set()
        #: Called with the id of a job that is not in flight here when the store says that the job server has it.
        self.on_proof: Callable[[str], None] = lambda _job_id: None

    # --- jobs that are here ------------------------------------------------------------------------------------------

    async def follow(self, job: Job) -> None:
        """Wait until the end of a job of this instance is recorded; to be cancelled when the job has its outcome."""
        self.hear(await self._store.ended(job.id))

    def hear(self, record: Record) -> None:
        """Handle another instance's record of a job that may be in flight here."""
        job = self._in_flight.by_id(record.id)
        if job is None and record.submitted is Submitted.YES:
            self.on_proof(record.id)
        if job is None or job.recorder.called_back:  # if it was recorded here, it is already being delivered
            return
        if record.callback is None:
            job.hear(record)
            if record.state is not State.FINISHED and self._poller.waits_for_notifications(job):
                job.notify()
            return
        self.callbacks += 1
        log_lines.job_event("info", "another instance recorded the callback of a job", job)
        if record.says_failed and not record.error and self._poller.can_find_reason(job):
            job.recorder.callback_elsewhere(record)
            self._poller.find_reason_before(job, job.call_back)
        else:
            job.hear(record)

    def note_fenced(self, job: Job, held: Record) -> None:
        """Note that the store refused a write about a job, because `held` is on record."""
        self.fenced += 1
        log_lines.job_event("warning", "another instance has the job, or has ended it", job, recorded=held.state)

    async def settle(self, job: Job, held: Record, failure: Failed) -> Outcome:
        """Return what a job's client is told if the store refused its `failure`, because `held` is on record.

        The recorded end, if there is one by the deadline; otherwise the failure, without anything that `held`
        contradicts.

        Raises:
            StoreUnavailableError: the record cannot be read now.
        """
        if failure.code is Code.CANCELLED:
            held = await self.cancel(held, job.cancelled.result())
        if held.state is not State.FINISHED:
            held = await self._end_within(held, max(_PATIENCE_S, job.deadline - time.monotonic()))
        if held.outcome is not None:
            return held.outcome
        return dataclasses.replace(failure, submitted=held.submitted) if failure.submitted is Submitted.NO else failure

    # --- jobs of others ----------------------------------------------------------------------------------------------

    async def end_of(self, record: Record, limit_s: float | None) -> Record:
        """Return the record once the job has ended; the current one, if that takes longer than `limit_s`.

        Raises:
            AdmissionError: this process is about to end.
            StoreUnavailableError: the job must have ended, and the store cannot say how.
        """
        if record.state is State.FINISHED or limit_s == 0:
            return record
        left_s = max(0.0, record.left_s(time.time())) + _GRACE_S
        found = await self._end_within(record, left_s if limit_s is None else min(limit_s, left_s))
        if found.state is not State.FINISHED and limit_s is None:
            if self._leaving:
                detail = "the proxy is shutting down; the job continues at another instance"
                raise AdmissionError(Code.SHUTTING_DOWN, detail)
            raise StoreUnavailableError(self._store.trouble or "the outcome of the job is not recorded yet")
        return found

    async def cancel(self, record: Record, by: str) -> Record:
        """Record that `by` cancels a job of another instance, unless it has ended; return the resulting record.

        The store decides what that means for `submitted`.

        Raises:
            StoreUnavailableError: it could not be recorded, or it is unknown whether it was.
        """
        if record.state is State.FINISHED:
            return record
        detail = f"{cancelled_by(by)}; the job server is told, if it has a call for that"
        failure = Failed(code=Code.CANCELLED, detail=detail, submitted=record.submitted)
        cancelled = replace(record, state=State.FINISHED, finished_at=time.time(), failure=failure, cancelled_by=by)
        try:
            await asyncio.shield(self._store.put(cancelled))
        except TakenError as exc:
            return exc.record
        self._delivery.deliver(cancelled)
        log.event("info", "a job of another instance was cancelled", job_id=record.id)
        return await self._store.by_id(record.id) or cancelled

    def leave(self) -> None:
        """End all waiting for jobs of other instances: this process is about to end."""
        self._leaving = True
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(0)

    async def _end_within(self, record: Record, limit_s: float) -> Record:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0 if self._leaving else limit_s) as limit:
                self._limits.add(limit)
                try:
                    return await self._store.ended(record.id)
                finally:
                    self._limits.discard(limit)
        with contextlib.suppress(StoreUnavailableError):
            return await self._store.by_id(record.id) or record
        return record
