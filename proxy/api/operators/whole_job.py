"""Everything known about one job, for operators: in flight, recently finished, or from the store."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from proxy.api.clients.answers import callback_counts, earlier_answer
from proxy.api.operators.job_documents import line
from proxy.jobs.trail import Trail, phases, phases_in, trail_of, written
from shared.job_server.submissions import status_in
from shared.lifecycle import Event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.jobs.job import Job
    from proxy.jobs.shown_bodies import ShownBodies
    from proxy.observe.history import PastJob
    from proxy.store.record import Record

__all__ = ["in_flight", "of_past", "on_record"]

#: The members that only a record has, for a job without one.
_NOT_RECORDED: dict[str, Any] = {
    "late": False,
    "error": None,
    "accepted_at": None,
    "deadline_at": None,
    "instance": None,
    "worker_end": None,
    "cancelled_by": None,
    "remote_status": None,
    "has_key": False,
    "callbacks": None,
    "earlier_answer": None,
    "sent": None,
    "received": None,
}


def in_flight(job: Job, bodies: ShownBodies | None) -> dict[str, Any]:
    """Return a job in flight here."""
    trail = written(trail_of(job))
    times = [[name, round(took_s * 1000, 1)] for name, took_s in phases(job).items()]
    return {
        **line(job.recorder.record, time.time(), job),
        **_course(trail, times),
        **_recorded(job.recorder.record, bodies),
        "trace_id": _trace_id(job.traceparent),
        "recorded": job.recorder.stored.done() and job.recorder.stored.exception() is None,
    }


def on_record(record: Record, bodies: ShownBodies | None) -> dict[str, Any]:
    """Return a job from the store, whichever process ran it."""
    shown, trail = line(record, time.time()), written(record.trail)
    times = [[name, took_ms] for name, took_ms in phases_in(trail, shown["total_ms"]).items()]
    return {
        **shown,
        **_course(trail, times),
        **_recorded(record, bodies),
        "trace_id": None,
        "recorded": True,
    }


def of_past(past: PastJob, record: Record | None, bodies: ShownBodies | None) -> dict[str, Any]:
    """Return a recently finished job, of which this process may know more than its `record`, if that was found."""
    described = past.describe()
    if record is None:
        nothing = _course(Trail(), [])
        code = None if past.outcome == "succeeded" else past.outcome
        return nothing | _NOT_RECORDED | described | {"code": code, "trace_id": None, "recorded": False}
    whole = on_record(record, bodies)
    lived = {name: described[name] for name in ("worker_pid", "progress", "phases", "events") if described[name]}
    if len(lived.get("events", ())) < len(whole["events"]):
        return whole
    # The trail may be another instance's.
    attempts = whole["attempts"] | _attempts([what for _, what in described["events"]])
    return whole | lived | {"attempts": attempts}


def _course(trail: Trail, times: list[list[Any]]) -> dict[str, Any]:
    """Return the course of a job: its worker, phases, events, attempts, and the calls about it."""
    names = [what for _, what in trail.events]
    calls = [(*call.split(" ", 1), count) for call, count in trail.calls.items()]
    return {
        "worker_pid": trail.pid or None,
        "progress": None
        if trail.progress is None
        else {"state": trail.progress[0] or None, "count": trail.progress[1]},
        "phases": times,
        "events": [[at, what] for at, what in trail.events],
        "attempts": {**_attempts(names), "workers_lost": trail.lost},
        "calls": [{"call": call, "answer": answer, "count": count} for call, answer, count in calls],
    }


def _attempts(events: Sequence[str]) -> dict[str, int]:
    """Return how many workers had a job, and how often it was submitted and refused."""
    return {
        "workers": events.count(Event.ASSIGN),
        "submissions": events.count(Event.CONNECTED),
        "refused": events.count(Event.REFUSED),
    }


def _recorded(record: Record, bodies: ShownBodies | None) -> dict[str, Any]:
    return {
        "remote_status": None if record.failure is None else status_in(record.failure.detail),
        "has_key": record.key is not None,
        "callbacks": {
            **callback_counts(record),
            "refused": record.refused,
            "last_refusal": record.refusal or None,
        },
        "earlier_answer": earlier_answer(record),
        "sent": json.loads(record.sent) if record.sent else None,
        "received": bodies.shown(record.callback, record.content_type) if bodies and record.callback else None,
    }


def _trace_id(traceparent: str) -> str | None:
    """Return the id of the trace that a job belongs to (W3C Trace Context)."""
    parts = traceparent.split("-")
    return parts[1] if len(parts) > 1 else None
