"""The protocol of whatever runs jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from proxy.jobs.job import Job
    from shared.outcome import Outcome

__all__ = ["Runner"]


class Runner(Protocol):
    """A way to run jobs. The one here hands them to worker processes; another may hand them to other machines.

    `run` never raises for anything that can happen to a job, returns by the job's deadline, awaits `job.before_assign`
    before anything can submit the job, reports what happens with `job.advance` (all but FINISH), and takes the callback
    from `job.callback`, which the callback route sets.
    """

    async def run(self, job: Job) -> Outcome:
        """Run `job` and return how it ended."""
        ...
