"""The protocol of everything that runs jobs."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.jobs.job import Job
    from shared.outcome import Failed, Outcome

__all__ = ["Runner", "caught_up", "waited_for"]

#: A timer that is this late shows that the process was stopped, or the event loop blocked.
_STOOD_STILL_S: Final = 1.0
#: How long to read what arrived meanwhile; no longer than the timer was late.
_CATCH_UP_S: Final = 3.0


class Runner(Protocol):
    """A way to run jobs. The implementation here uses worker processes; another one may use other machines.

    `run` returns by the job's deadline (if this process stood still then: see `caught_up`), and never raises for
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


async def caught_up(job: Job) -> Outcome | None:
    """Return the outcome of an overdue job whose callback came while this process stood still; None: none came.

    The event loop runs the timers that are due before it reads what arrived, so the deadline would always come first.
    """
    late_s = time.monotonic() - job.deadline
    if late_s < _STOOD_STILL_S:
        return None
    await asyncio.wait((job.callback,), timeout=min(late_s, _CATCH_UP_S))
    return job.recorder.record.outcome if job.callback.done() else None


async def waited_for(job: Job, overdue: Callable[[Job], Failed]) -> Outcome:
    """Return the outcome of a job that is not submitted any more: its callback's, or else that of a cancellation, or
    what `overdue` says at its deadline.
    """
    left_s = max(0.0, job.deadline - time.monotonic())
    await asyncio.wait((job.callback, job.cancelled), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
    outcome = job.recorder.record.outcome
    if job.callback.done() and outcome is not None:
        return outcome
    if job.cancelled.done():
        return job.cancellation()
    return await caught_up(job) or overdue(job)
