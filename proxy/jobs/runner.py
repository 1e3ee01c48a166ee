"""The protocol of everything that runs jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from proxy.jobs.job import Job
    from shared.outcome import Outcome

__all__ = ["Runner"]


class Runner(Protocol):
    """A way to run jobs. The one here hands them to worker processes; another may hand them to other machines.

    `run` returns by the job's deadline and never raises for anything that can happen to a job. It

    - calls `job.recorder`: `queued` where the job has to wait, `submitting` and waits for it before anything can submit
      the job, `waiting` when the job server has it;
    - reports what happens with `job.advance`, all but FINISH; CONNECTED before the first byte of the submission leaves;
    - ends when `job.callback` is done, with the outcome that the record then has, or when `job.cancelled` is. That a
      callback has come, and is being recorded, it may learn before (`job.arrival`).
    """

    async def run(self, job: Job) -> Outcome:
        """Run `job` and return its outcome."""
        ...
