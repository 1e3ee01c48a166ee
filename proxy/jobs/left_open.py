"""Jobs that an earlier front end left open in the store: who goes on with them, and how they end.

The record says all that is known. A job that is ACCEPTED was not submitted. Any other may run at the job server, and
nothing is sent again: it stays open until its deadline for the callback that may come.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from proxy.jobs.job import Job
from proxy.jobs.recorder import Recorder
from shared.errors import Code
from shared.lifecycle import Submitted
from shared.outcome import Failed, Outcome

if TYPE_CHECKING:
    from proxy.store.protocol import JobStore
    from proxy.store.record import Record

__all__ = ["LeftOpen", "adopt", "never_submitted"]


def never_submitted() -> Failed:
    """Return the outcome of a job that no worker had when the front end died."""
    return Failed(
        code=Code.INTERRUPTED,
        detail="the proxy was restarted before a worker had the job",
        submitted=Submitted.NO,
    )


def adopt(store: JobStore, record: Record) -> Job:
    """Return the job that `record` describes, to be run by `LeftOpen`."""
    # The wall clock may have been changed: never allow more time than the job had at first.
    left_s = min(record.deadline_at - time.time(), record.deadline_at - record.accepted_at)
    return Job(
        body=b"",
        deadline=time.monotonic() + left_s,
        recorder=Recorder(store, record, stored=True),
        state=record.state,
        adopted=True,
    )


class LeftOpen:
    """A `Runner` for jobs of an earlier front end: there is no worker, only the callback, the deadline and
    cancellation.
    """

    async def run(self, job: Job) -> Outcome:
        """Wait for the job's callback; return its outcome, by its deadline."""
        left_s = max(0.0, job.deadline - time.monotonic())
        await asyncio.wait((job.callback, job.cancelled), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        outcome = job.recorder.record.outcome
        if job.callback.done() and outcome is not None:
            return outcome
        if job.cancelled.done():
            return job.cancellation()
        return job.failure(Code.INTERRUPTED, "the proxy was restarted, and no callback came afterwards")
