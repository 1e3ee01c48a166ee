"""What the log says about jobs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from proxy import log
from proxy.jobs.trail import phases
from shared.lifecycle import Event, State
from shared.outcome import Failed, Outcome

if TYPE_CHECKING:
    from proxy.jobs.job import Job

__all__ = ["job_event", "job_line"]


def job_event(level: str, what: str, job: Job, **fields: object) -> None:
    """Log one event in the life of `job`."""
    log.event(level, what, job_id=job.id, worker_pid=job.worker_pid or None, state=job.state, **fields)


def job_line(job: Job, outcome: Outcome, durations: dict[str, float] | None = None) -> None:
    """Log the end of a job: one line with the duration of each phase, in milliseconds. `durations`: phases(job)."""
    finished = job.reached.get(State.FINISHED, time.monotonic())
    spent = phases(job) if durations is None else durations
    fields: dict[str, object] = {f"{phase}_ms": round(duration_s * 1000, 1) for phase, duration_s in spent.items()}
    if job.adopted:
        fields["adopted"] = True
    else:
        fields["total_ms"] = round((finished - job.reached[State.ACCEPTED]) * 1000, 1)
    record = job.recorder.record
    if record.labels:
        fields["labels"] = dict(record.labels)
    if record.outputs.get("id"):
        fields["remote_id"] = record.outputs["id"]
    refusals = sum(1 for _, what in job.life if what is Event.REFUSED)
    if refusals:
        fields["refusals"] = refusals
    if isinstance(outcome, Failed):
        code, submitted = str(outcome.code), str(outcome.submitted)
        job_event("warning", "job failed", job, outcome=code, submitted=submitted, detail=outcome.detail, **fields)
    else:
        job_event("info", "job succeeded", job, outcome="succeeded", submitted="yes", **fields)
