"""The protocol of everything that runs jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.jobs.job import Job
    from shared.outcome import Failed, Outcome

__all__ = ["Runner", "waited_for"]


class Runner(Protocol):
    """A way to run jobs. The implementation here uses worker processes; another one may use other machines.

    `run` returns by the job's deadline (if this process stood still then: see `Job.until_deadline`), and never raises
    for anything that can happen to a job. It

    - calls `job.recorder`: `queued` if the job has to wait, `submitting` (and waits for it) before anything can submit
      the job, `waiting` when the job server has it;
    - reports events with `job.advance`, all except FINISH, since logs, metrics and `submitted` follow from them;
      CONNECTED before the first byte of the submission is sent;
    - ends when `job.callback` is done, with the outcome of the record, or when `job.cancelled` is. It may learn earlier
      (`job.arrival`) that a callback has come and is being recorded;
    - turns a lack of capacity into `job.failure(Code.NO_WORKER, …)`.
    """

    async def run(self, job: Job) -> Outcome:
        """Run `job` and return its outcome."""
        ...


async def waited_for(job: Job, overdue: Callable[[Job], Failed]) -> Outcome:
    """Return the outcome of a job that is not submitted any more: its callback's, or else that of a cancellation, or
    what `overdue` says at its deadline.
    """
    await job.until_deadline(job.callback, job.cancelled)
    outcome = job.recorder.record.outcome
    if job.callback.done() and outcome is not None:
        return outcome
    return job.cancellation() if job.cancelled.done() else overdue(job)
