"""The health of the job servers, as seen by the workers: the last answer to a submission, and failures since."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from shared.errors import Code
from shared.lifecycle import Event
from shared.outcome import Failed

if TYPE_CHECKING:
    from proxy.jobs.job import Job
    from shared.outcome import Outcome

__all__ = ["Health", "JobServerHealth"]

#: The codes of jobs whose submission failed.
_FAILURES: Final = frozenset({Code.JOB_SERVER_UNAVAILABLE, Code.JOB_REJECTED, Code.BAD_JOB_SERVER_REPLY})
#: The events that show that a job server has answered.
_ANSWERS: Final = frozenset({Event.REPLY_READ, Event.PROGRESS, Event.CALLBACK})


@dataclass(slots=True, kw_only=True)
class Health:
    """The health of one job server. Times are Unix seconds; None: never."""

    last_success_at: float | None = None
    #: Jobs whose submission has failed since then.
    failures_since: int = 0
    last_failure_at: float | None = None
    #: The code and the reason.
    last_failure: str | None = None


class JobServerHealth:
    """The health of each job server, by profile; updated with each finished job."""

    def __init__(self, profiles: Iterable[str]) -> None:
        """`profiles`: the names of those that are served; others are ignored."""
        self._by_profile = {name: Health() for name in profiles}

    def job_finished(self, job: Job, outcome: Outcome, _durations: dict[str, float]) -> None:
        """Note the outcome of a job."""
        health = self._by_profile.get(job.profile)
        if health is None:
            return
        _note_answers(health, job)
        if isinstance(outcome, Failed) and (outcome.code in _FAILURES or _is_unanswered(job, outcome)):
            health.failures_since += 1
            health.last_failure_at = round(time.time(), 3)
            health.last_failure = f"{outcome.code}: {outcome.detail}"

    def shown(self, in_flight: Iterable[Job]) -> dict[str, Health]:
        """Return the current health of each, including what is known from jobs in flight."""
        for job in in_flight:
            health = self._by_profile.get(job.profile)
            if health is not None:
                _note_answers(health, job)
        return self._by_profile


def _is_unanswered(job: Job, outcome: Failed) -> bool:
    """Return whether a worker had the job until its deadline, and the job server did not answer."""
    events = {event for _, event in job.life}
    return outcome.code is Code.DEADLINE_EXCEEDED and Event.ASSIGN in events and events.isdisjoint(_ANSWERS)


def _note_answers(health: Health, job: Job) -> None:
    answered = max((at for at, event in job.life if event in _ANSWERS), default=None)
    if answered is None:
        return
    at = round(time.time() - time.monotonic() + answered, 3)
    if health.last_success_at is None or at > health.last_success_at:
        health.last_success_at = at
        if health.last_failure_at is None or at >= health.last_failure_at:
            health.failures_since = 0
