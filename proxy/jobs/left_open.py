"""Jobs that are only waited for: an earlier front end left them open, or another instance runs or ran them.

The record says everything that is known. An ACCEPTED job was not submitted. Any other may run at the job server, and is
not submitted again: it stays open until its deadline, as a callback may come.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from proxy.jobs.job import Job
from proxy.jobs.recorder import Recorder
from proxy.jobs.runner import waited_for
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
        detail="the proxy was restarted before a worker got the job",
        submitted=Submitted.NO,
    )


def adopt(store: JobStore, record: Record) -> Job:
    """Return the job that `record` describes, to be run by `LeftOpen`."""
    return Job(
        body=b"",
        deadline=time.monotonic() + max(0.0, record.left_s(time.time())),
        recorder=Recorder(store, record, stored=True),
        state=record.state,
        adopted=True,
    )


class LeftOpen:
    """A `Runner` for jobs that this process does not submit: there is no worker, only the callback, the deadline and
    cancellation.
    """

    async def run(self, job: Job) -> Outcome:
        """Wait for the job's callback; return its outcome by its deadline."""
        return await waited_for(job, _interrupted)


def _interrupted(job: Job) -> Failed:
    detail = f"{_what_happened(job)}, and no callback came afterwards{job.heard_instead()}"
    return job.failure(Code.INTERRUPTED, detail)


def _what_happened(job: Job) -> str:
    if not job.recorder.record.owner:
        return "the proxy was restarted"
    if job.adopted:
        return "the instance that had the job is gone"
    return "another instance took the job over"
