"""Jobs that an earlier front end left open in the journal: who goes on with them, and how they end.

What that front end had recorded says all that is known. A job that no worker had was not submitted. Any other may run
at the job server, and nothing is sent again: it stays open until its deadline for the callback that may come.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from proxy.jobs.job import Job
from proxy.jobs.recorder import Entry
from shared.errors import Code
from shared.job_server.verdict import outcome_of
from shared.lifecycle import State, Submitted
from shared.outcome import Failed, Outcome

if TYPE_CHECKING:
    from proxy.store.protocol import JobStore
    from proxy.store.record import Record

__all__ = ["Adoption", "adopt", "never_submitted"]


def never_submitted() -> Failed:
    """Return how a job ended that no worker had when the front end went down."""
    return Failed(
        code=Code.INTERRUPTED,
        detail="the proxy went down before the job was given to a worker",
        submitted=Submitted.NO,
    )


def adopt(store: JobStore, record: Record) -> Job:
    """Return the job that `record` describes, to be run by `Adoption`."""
    # The wall clock may have been set meanwhile: never longer than the job had from the beginning.
    left_s = min(record.deadline_at - time.time(), record.deadline_at - record.accepted_at)
    return Job(
        body=b"",
        deadline=time.monotonic() + left_s,
        id=record.id,
        token="",  # known by its hash only
        token_hash=record.token_hash,
        key=record.key,
        fingerprint=record.fingerprint,
        # ASSIGNED says that a worker may have submitted it: nobody can tell.
        state=State.WAITING if record.state is State.WAITING else State.SUBMITTING,
        adopted=True,
        entry=Entry(store, record, known=True),
    )


class Adoption:
    """A `Runner` for adopted jobs: there is no worker, only the callback, the deadline and whoever cancels."""

    async def run(self, job: Job) -> Outcome:
        """Wait for the job's callback; return its outcome, by its deadline."""
        left_s = max(0.0, job.deadline - time.monotonic())
        await asyncio.wait((job.callback, job.cancelled), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        if job.callback.done():
            says_failed = job.entry is not None and job.entry.record.says_failed
            return outcome_of(job.callback.result(), failed=says_failed)
        if job.cancelled.done():
            return job.failure(
                Code.CANCELLED, "the job was cancelled; the job server is not told, as it has no such call"
            )
        return job.failure(Code.INTERRUPTED, "the proxy went down, and no callback came after it was back")
