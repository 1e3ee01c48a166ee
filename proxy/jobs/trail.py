"""The history of a job: where its time went, and what its record says of it.

Five phases are in the log, the metrics, the traces and the dashboard:

        queue       accepted  -> assigned    no worker had it yet
        start       assigned  -> connected   the worker took it and connected to the job server
        submission  connected -> waiting     the submission was in progress, including pauses between attempts
        job         waiting   -> callback    the job server had it
        delivery    callback  -> finished    the callback went to the worker and came back as the outcome

A phase that a failure interrupted lasts until the end. A phase that was never reached, or that an early callback
overtook, is missing.

The history is recorded once, with the end of the job, so that it costs no extra write (`Trail`). A job that gets its
callback is recorded for the last time at that moment. What follows, the delivery, is known only to this process:
otherwise it would cost one more write for each job.
"""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import msgspec

from shared import lifecycle
from shared.lifecycle import Event, IllegalEventError, State

if TYPE_CHECKING:
    from proxy.jobs.job import Job
    from proxy.store.record import Record

__all__ = [
    "PHASES",
    "Trail",
    "called_back_at",
    "phase_starts",
    "phases",
    "phases_in",
    "trail_of",
    "trail_with",
    "written",
]

#: The phases that states begin.
_BEGUN_BY: Final = {
    State.ACCEPTED: "queue",
    State.ASSIGNED: "start",
    State.SUBMITTING: "submission",
    State.WAITING: "job",
}
PHASES: Final = (*_BEGUN_BY.values(), "delivery")
#: Of a job with more events than fit, the first and the last are kept.
_FIRST: Final = 80
_LAST: Final = 20


# --- phases ----------------------------------------------------------------------------------------------------------


def called_back_at(job: Job) -> float | None:
    """Return when the job's callback came, in monotonic seconds."""
    return next((at for at, event in job.life if event is Event.CALLBACK), None)


def phase_starts(job: Job) -> list[tuple[str, float]]:
    """Return the phases that the job has reached, each with its start, in monotonic seconds."""
    reached = job.reached
    starts = [(name, reached[state]) for state, name in _BEGUN_BY.items() if state in reached]
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
    end = job.reached.get(State.FINISHED, time.monotonic())
    return {name: until - start for (name, start), (_, until) in pairwise([*phase_starts(job), ("", end)])}


# --- on record -------------------------------------------------------------------------------------------------------


class Trail(msgspec.Struct, omit_defaults=True, kw_only=True):
    """How a job came to its end."""

    #: When, in milliseconds after the job was accepted, and what (`Event`).
    events: list[tuple[float, str]] = msgspec.field(default_factory=list)
    #: The last worker that had the job; 0: none or unknown.
    pid: int = 0
    #: How the job's lost workers ended, in order.
    lost: list[str] = msgspec.field(default_factory=list)
    #: How often the job server was asked, by the call and its outcome, separated by a space.
    calls: dict[str, int] = msgspec.field(default_factory=dict)
    #: The state that the job server named last before the end, and how often it said something.
    progress: tuple[str, int] | None = None
    #: Whether an earlier process, or another instance, began the job: only its last events are known.
    adopted: bool = False


def trail_of(job: Job, event: Event | None = None) -> str:
    """Return the trail of a job for its record; `event` happens just now, and is not in its life yet."""
    now = time.monotonic()
    # What an earlier process knew is lost, except when the job was accepted.
    accepted = now - _age_s(job.recorder.record) if job.adopted else job.reached[State.ACCEPTED]
    life = job.life if len(job.life) <= _FIRST + _LAST else [*job.life[:_FIRST], *job.life[-_LAST:]]
    events = [(round((at - accepted) * 1000, 1), what.value) for at, what in life]
    if event is not None:
        events.append((round((now - accepted) * 1000, 1), event.value))
    return _encoded(
        Trail(
            events=events,
            pid=job.worker_pid,
            lost=job.workers_lost,
            calls=job.calls,
            progress=(job.remote_state, job.progress_count) if job.progress_count else None,
            adopted=job.adopted,
        )
    )


def trail_with(record: Record, event: Event) -> str:
    """Return the trail of a job that is not in flight here, with the event that happens just now.

    If there is none yet, the job is in flight at another instance, which alone knows what happened before.
    """
    trail = written(record.trail) if record.trail else Trail(adopted=True)
    trail.events.append((round(_age_s(record) * 1000, 1), event.value))
    return _encoded(trail)


def written(text: str) -> Trail:
    """Return the recorded trail; an empty one if there is none, or if a later version wrote it in another format."""
    try:
        return msgspec.json.decode(text, type=Trail) if text else Trail()
    except msgspec.DecodeError:
        return Trail()


def phases_in(trail: Trail, total_ms: float) -> dict[str, float]:
    """Return the duration of each phase, in milliseconds, as `phases` does; empty if unknown.

    The delivery is left out if its end was never written.
    """
    if trail.adopted or not trail.events:
        return {}
    starts, state, called_back, finished = [(PHASES[0], 0.0)], State.ACCEPTED, False, False
    for at, what in trail.events:
        if what == Event.FINISH:
            finished = True
            break
        if what == Event.CALLBACK and not called_back:
            starts.append((PHASES[-1], at))
            called_back = True
        if called_back:
            continue
        try:
            state = lifecycle.advance(state, Event(what))
        except (IllegalEventError, ValueError):
            return {}
        name = _BEGUN_BY.get(state)
        if name is not None and all(name != begun for begun, _ in starts):
            starts.append((name, at))
    if finished or not called_back:
        starts.append(("", max([total_ms, *(at for _, at in starts)])))
    return {name: round(until - at, 1) for (name, at), (_, until) in pairwise(starts)}


def _age_s(record: Record) -> float:
    """Return how long ago a job was accepted, by the wall clock, which may have been set back."""
    return max(0.0, time.time() - record.accepted_at)


def _encoded(trail: Trail) -> str:
    return msgspec.json.encode(trail).decode()
