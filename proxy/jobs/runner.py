"""The protocol of everything that runs jobs."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.jobs.job import Job
    from shared.outcome import Failed, Outcome

__all__ = ["Runner", "until_deadline", "waited_for"]

#: How long to read what arrived while this process stood still; no longer than the deadline's timer was late.
_CATCH_UP_S: Final = 3.0


class Runner(Protocol):
    """A way to run jobs. The implementation here uses worker processes; another one may use other machines.

    `run` returns by the job's deadline (if this process stood still then: see `until_deadline`), and never raises for
    anything that can happen to a job. It

    - calls `job.recorder`: `queued` if the job has to wait, `submitting` (and waits for it) before anything can submit
      the job, `waiting` when the job server has it;
    - reports events with `job.advance`, all except FINISH; CONNECTED before the first byte of the submission is sent;
    - ends when `job.callback` is done, with the outcome of the record, or when `job.cancelled` is. It may learn earlier
      (`job.arrival`) that a callback has come and is being recorded.
    """

    async def run(self, job: Job) -> Outcome:
        """Run `job` and return its outcome."""
        ...


async def until_deadline(job: Job, *ends: asyncio.Future[Any]) -> None:
    """Wait for one of `ends`, until the job's deadline at most.

    If this process stood still then, what arrived meanwhile is read first: the event loop runs the timers that are due
    before it reads anything, so the deadline would always be first.
    """
    await asyncio.wait(ends, timeout=max(0.0, job.deadline - time.monotonic()), return_when=asyncio.FIRST_COMPLETED)
    late_s = time.monotonic() - job.deadline
    if late_s > 0 and not any(end.done() for end in ends):
        await asyncio.wait(ends, timeout=min(late_s, _CATCH_UP_S), return_when=asyncio.FIRST_COMPLETED)


async def waited_for(job: Job, overdue: Callable[[Job], Failed]) -> Outcome:
    """Return the outcome of a job that is not submitted any more: its callback's, or else that of a cancellation, or
    what `overdue` says at its deadline.
    """
    await until_deadline(job, job.callback, job.cancelled)
    outcome = job.recorder.record.outcome
    if job.callback.done() and outcome is not None:
        return outcome
    return job.cancellation() if job.cancelled.done() else overdue(job)
