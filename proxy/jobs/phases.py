"""Where a job's time went: the five phases in the log, the metrics, the traces and the dashboard.

        queue       accepted  -> assigned    no worker had it yet
        start       assigned  -> connected   the worker took it and connected to the job server
        submission  connected -> waiting     the submission was in progress, including pauses between attempts
        job         waiting   -> callback    the job server had it
        delivery    callback  -> finished    the callback went to the worker and came back as the outcome

A phase that a failure interrupted lasts until the end. A phase that was never reached, or that an early callback
overtook, is missing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from shared.lifecycle import Event, State

if TYPE_CHECKING:
    from proxy.jobs.job import Job

__all__ = ["PHASES", "called_back_at", "phase_starts", "phases"]

PHASES: Final = ("queue", "start", "submission", "job", "delivery")
_OPENED_BY: Final = (State.ACCEPTED, State.ASSIGNED, State.SUBMITTING, State.WAITING)


def called_back_at(job: Job) -> float | None:
    """Return when the job's callback came, in monotonic seconds."""
    for at, event in job.life:
        if event is Event.CALLBACK:
            return at
    return None


def phase_starts(job: Job) -> list[tuple[str, float]]:
    """Return the phases that the job has reached, each with its start, in monotonic seconds."""
    reached = job.reached
    starts = [(name, reached[state]) for name, state in zip(PHASES, _OPENED_BY, strict=False) if state in reached]
    callback = called_back_at(job)
    if callback is not None:
        starts.append((PHASES[-1], callback))
    return starts


def phases(job: Job) -> dict[str, float]:
    """Return the duration of each phase in seconds, in order; the last phase of a job in flight lasts until now.

    Empty for a job that an earlier front end began: its times are unknown.
    """
    if job.adopted:
        return {}
    end = job.reached.get(State.FINISHED)
    starts = phase_starts(job)
    instants = [start for _, start in starts[1:]]
    instants.append(time.monotonic() if end is None else end)
    return {name: until - start for (name, start), until in zip(starts, instants, strict=True)}
