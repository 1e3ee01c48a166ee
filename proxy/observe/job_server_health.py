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


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The health of one job server. Times are Unix seconds; None: never."""

    last_success_at: float | None = None
    #: Jobs whose submission has failed since then.
    failures_since: int = 0
    last_failure_at: float | None = None
    #: The code and the reason.
    last_failure: str | None = None


@dataclass(slots=True)
class _Seen:
    """What was seen of one job server. Times are on the monotonic clock, as those of a job's events."""

    answered: float | None = None
    failures_since: int = 0
    failed: float | None = None
    failure: str | None = None

    def note_answers(self, job: Job) -> None:
        """Note the last answer to a job's submission; what failed before it counts no more."""
        answered = max((at for at, event in job.life if event in _ANSWERS), default=None)
        if answered is not None and (self.answered is None or answered > self.answered):
            self.answered = answered
            if self.failed is None or answered >= self.failed:
                self.failures_since = 0

    def note_failure(self, failure: Failed) -> None:
        """Note that a submission failed."""
        self.failures_since += 1
        self.failed = time.monotonic()
        self.failure = f"{failure.code}: {failure.detail}"


class JobServerHealth:
    """The health of each job server, by profile; updated with each finished job."""

    def __init__(self, profiles: Iterable[str]) -> None:
        """`profiles`: the names of those that are served; others are ignored."""
        self._by_profile = {name: _Seen() for name in profiles}

    def job_finished(self, job: Job, outcome: Outcome, _durations: dict[str, float]) -> None:
        """Note the outcome of a job."""
        seen = self._by_profile.get(job.profile)
        if seen is None:
            return
        seen.note_answers(job)
        if isinstance(outcome, Failed) and (outcome.code in _FAILURES or _is_unanswered(job, outcome)):
            seen.note_failure(outcome)

    def shown(self, in_flight: Iterable[Job]) -> dict[str, Health]:
        """Return the current health of each, including what is known from jobs in flight."""
        for job in in_flight:
            if job.profile in self._by_profile:
                self._by_profile[job.profile].note_answers(job)
        return {
            name: Health(
                last_success_at=_unix(seen.answered),
                failures_since=seen.failures_since,
                last_failure_at=_unix(seen.failed),
                last_failure=seen.failure,
            )
            for name, seen in self._by_profile.items()
        }


def _is_unanswered(job: Job, outcome: Failed) -> bool:
    """Return whether a worker had the job until its deadline, and the job server did not answer."""
    events = {event for _, event in job.life}
    return outcome.code is Code.DEADLINE_EXCEEDED and Event.ASSIGN in events and events.isdisjoint(_ANSWERS)


def _unix(monotonic_s: float | None) -> float | None:
    return None if monotonic_s is None else round(time.time() - time.monotonic() + monotonic_s, 3)
