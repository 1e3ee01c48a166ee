"""What happened recently, for the dashboard: the last jobs and failures, and figures for each of the last seconds.

A finished job costs one small object and a few numbers here; nothing is computed until somebody looks.
"""

from __future__ import annotations

import contextlib
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from msgspec.structs import replace

from proxy.store.record import is_called
from shared.errors import StoreUnavailableError
from shared.lifecycle import Event, State, Submitted
from shared.outcome import Failed, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from proxy.jobs.job import Job
    from proxy.store.protocol import JobStore
    from proxy.store.record import Record

__all__ = ["SECONDS", "History", "PastJob", "at_the_job_server"]

#: How many seconds the charts show.
SECONDS: Final = 300
_FAILURES: Final = 50
_JOBS: Final = 2_000
#: How many durations are kept for each second: enough for a percentile on a chart.
_SAMPLES: Final = 200


class PastJob(Struct, frozen=True, eq=False, kw_only=True):
    """A finished job, without its bodies and token."""

    id: str
    worker_pid: int
    #: `succeeded`, or the problem's code.
    outcome: str
    submitted: str
    detail: str
    #: Unix time, for display.
    finished_at: float
    #: When it was accepted, in monotonic seconds, and all events after that.
    accepted: float
    life: list[tuple[float, Event]]
    #: The duration of each phase, and of the whole, in seconds.
    phases: dict[str, float]
    total_s: float
    #: Its labels, and the job server's id for it.
    labels: Mapping[str, str]
    remote_id: str
    #: The job server's profile, the state that it reported last, and its number of progress reports.
    profile: str
    remote_state: str
    progress_count: int

    def describe(self) -> dict[str, Any]:
        """Return the job for the dashboard: times in milliseconds after acceptance."""
        return {
            "job_id": self.id,
            "worker_pid": self.worker_pid or None,
            "state": str(State.FINISHED),
            "outcome": self.outcome,
            "submitted": self.submitted,
            "detail": self.detail,
            "finished_at": round(self.finished_at, 3),
            "labels": dict(self.labels),
            **at_the_job_server(self.profile, self.remote_id, self.remote_state, self.progress_count),
            **_time_line(self.accepted, self.life, self.phases, self.total_s),
        }


@dataclass(slots=True, eq=False)
class _Second:
    """The jobs that finished within one second."""

    number: int
    ended: int = 0
    failed: int = 0
    durations_s: list[float] = field(default_factory=list)

    def point(self) -> tuple[float, ...]:
        """Return jobs, failures, median and 95th percentile in milliseconds."""
        sample = sorted(self.durations_s)
        if not sample:
            return (self.ended, self.failed, 0, 0)
        median, high = sample[len(sample) // 2], sample[int(len(sample) * 0.95)]
        return (self.ended, self.failed, round(median * 1000, 1), round(high * 1000, 1))


class History:
    """The last jobs, by id; the last failures; the last seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._jobs: OrderedDict[str, PastJob] = OrderedDict()
        self._failures: deque[PastJob] = deque(maxlen=_FAILURES)
        self._seconds: deque[_Second] = deque(maxlen=SECONDS)
        self._points: dict[int, tuple[float, ...]] = {}

    def job_finished(self, job: Job, outcome: Outcome, durations: dict[str, float]) -> None:
        """Remember a finished job. Of one that an earlier process began, only that process knew the course."""
        failed = isinstance(outcome, Failed)
        record, now = job.recorder.record, time.time()
        past = PastJob(
            id=job.id,
            worker_pid=job.worker_pid,
            outcome=str(outcome.code) if isinstance(outcome, Failed) else "succeeded",
            submitted=str(outcome.submitted) if isinstance(outcome, Failed) else "yes",
            detail=outcome.detail if isinstance(outcome, Failed) else "",
            finished_at=now,
            accepted=job.reached[State.ACCEPTED],
            life=[] if job.adopted else job.life,
            phases=durations,
            total_s=record.took_s(now) if job.adopted else sum(durations.values()),
            labels=record.labels,
            remote_id=record.outputs.get("id", ""),
            profile=job.profile,
            remote_state=job.remote_state,
            progress_count=job.progress_count,
        )
        self._jobs[job.id] = past
        if len(self._jobs) > _JOBS:
            self._jobs.popitem(last=False)
        if failed:
            self._failures.append(past)
        second = self._second()
        second.ended += 1
        second.failed += failed
        if len(second.durations_s) < _SAMPLES:
            second.durations_s.append(past.total_s)

    def proven(self, job_id: str) -> None:
        """Note that the job server has, or had, a finished job: a callback came for it."""
        for past in (self._jobs.get(job_id), *self._failures):
            if past is not None and past.id == job_id and past.submitted != Submitted.YES:
                shown = replace(past, submitted=str(Submitted.YES))
                if job_id in self._jobs:
                    self._jobs[job_id] = shown
                if past in self._failures:
                    self._failures[self._failures.index(past)] = shown
                return

    async def restore(self, store: JobStore) -> None:
        """Load the last failures from the store if it can be read. Must be called before anything is served."""
        with contextlib.suppress(StoreUnavailableError):
            failed = await store.last_failures(_FAILURES)
            self._failures.extend(map(_past, reversed(failed)))

    def _second(self) -> _Second:
        number = int(self._clock())
        if not self._seconds or self._seconds[-1].number != number:
            self._seconds.append(_Second(number))
        return self._seconds[-1]

    def by_id(self, job_id: str) -> PastJob | None:
        """Return a recently finished job, by its id, or else the newest with this name (`is_called`)."""
        found = self._jobs.get(job_id)
        recent = (*reversed(self._jobs.values()), *reversed(self._failures))
        return found or next((past for past in recent if is_called(job_id, past.id, past.remote_id, past.labels)), None)

    def failures(self) -> list[dict[str, Any]]:
        """Return the last failures, newest first."""
        return [past.describe() for past in reversed(self._failures)]

    def seconds(self) -> list[tuple[float, ...]]:
        """Return the last SECONDS whole seconds, oldest first: jobs, failures, median and 95th percentile in ms."""
        now = int(self._clock())
        known = {second.number: second for second in self._seconds}
        points = {}
        for number in range(now - SECONDS, now):
            point = self._points.get(number)
            if point is None:
                point = known[number].point() if number in known else (0, 0, 0, 0)
            points[number] = point
        self._points = points
        return list(points.values())


def _past(record: Record) -> PastJob:
    """Return what the store knows about a failed job, which does not include phases and events."""
    failure = record.failure or record.outcome
    return PastJob(
        id=record.id,
        worker_pid=0,
        outcome=str(failure.code) if isinstance(failure, Failed) else "succeeded",
        submitted=str(record.submitted),
        detail=failure.detail if isinstance(failure, Failed) else "",
        finished_at=record.finished_at or 0.0,
        accepted=0.0,
        life=[],
        phases={},
        total_s=record.took_s(record.accepted_at),
        labels=record.labels,
        remote_id=record.outputs.get("id", ""),
        profile=record.profile,
        remote_state="",
        progress_count=0,
    )


def at_the_job_server(profile: str, remote_id: str, state: str, count: int) -> dict[str, Any]:
    """Return the job server's id for a job, and the progress that it reported."""
    progress = {"state": state or None, "count": count} if count else None
    return {"profile": profile, "remote_id": remote_id or None, "progress": progress}


def _time_line(
    accepted: float, life: list[tuple[float, Event]], phases: dict[str, float], total_s: float
) -> dict[str, Any]:
    return {
        "total_ms": round(total_s * 1000, 1),
        "phases": [[name, round(duration_s * 1000, 1)] for name, duration_s in phases.items()],
        "events": [[round((at - accepted) * 1000, 1), str(event)] for at, event in life],
    }
